package stage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// What ingest needs of the tree: the frozen contents that wait, their bytes,
// and the swap from staged to stored. The swap gives the generation a chunk
// map; who names the generation notices nothing.

// Frozen is a committed content that waits for ingest.
type Frozen struct {
	t   *Tree
	gen uint64
	p   schema.Pending
}

// Epoch is the first cut that sees the content; Time is when it was committed, in ns.
func (f *Frozen) Epoch() uint64 { return f.p.Epoch }

// Time is when the content was committed, in ns since the epoch.
func (f *Frozen) Time() int64 { return f.p.Time }

// Ino is the inode that the content belongs to.
func (f *Frozen) Ino() uint64 { return f.p.Ino }

// Bytes is the length of its data.
func (f *Frozen) Bytes() int64 { return f.p.Content.Alloc }

// Until is the first cut that does not see the content any more; 0: it is the
// file's.
func (f *Frozen) Until() uint64 { return f.p.Until }

// Lasting says whether the content is worth storing, whoever sees it: it is the
// file's, or replaced all of an earlier one. Any other was partly overwritten
// since. A database has a thousand of them, each a page away from the next, and
// each would bring a chunk of its own into packs; they stay staged, a page
// each, until the barriers that show them expire, unless a step shows them.
func (f *Frozen) Lasting() bool { return f.p.Until == 0 || f.p.Content.Base == f.gen }

// Pending calls fn for each content that waits for ingest, oldest generation
// first, until fn says to stop.
func (t *Tree) Pending(fn func(f *Frozen) (more bool)) error {
	it, err := t.db.NewIter([]byte{schema.PrefixPending}, []byte{schema.PrefixPending + 1})
	if err != nil {
		return wrapDisk(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		gen, err := schema.ParseNumbered(it.Key())
		if err != nil {
			return wrapDisk(err)
		}
		p, err := schema.DecodePending(it.Value())
		if err != nil {
			return wrapDisk(fmt.Errorf("pending %d: %w", gen, err))
		}
		if !fn(&Frozen{t, gen, p}) {
			return nil
		}
	}
	return wrapDisk(it.Error())
}

// ReadAt reads the frozen content; io.ReaderAt.
func (f *Frozen) ReadAt(dst []byte, off int64) (int, error) {
	n, err := f.t.readContent(f.p.Ino, &f.p.Content, dst, off)
	if err == nil && n < len(dst) {
		err = io.EOF
	}
	return n, err
}

// Segments gives the data ranges of the content, in order.
func (f *Frozen) Segments() ([]Segment, error) {
	return f.t.segments(f.p.Ino, &f.p.Content, 0, 0)
}

// Settle makes the staged bytes durable: what is stored must not be torn by a
// power cut where it is read from its hot copy.
func (f *Frozen) Settle() error { return f.t.Settle(f.p.Ino) }

// Path is the content's path when it was frozen; ok is false when it has none.
func (f *Frozen) Path() (path string, ok bool) {
	path, err := f.t.path(f.p.Ino, f.p.Epoch)
	return path, err == nil
}

// PathOf gives the path of a live inode below the root, without a leading
// slash; "" is the root.
func (t *Tree) PathOf(ino uint64) (string, error) { return t.path(ino, newest) }

func (t *Tree) path(ino, seq uint64) (string, error) {
	path := ""
	for ino != RootIno {
		rec, _, err := t.readInode(ino, seq)
		if err != nil {
			return "", err
		}
		if rec.Deleted || rec.Nlink == 0 || rec.Name == "" {
			return "", ErrNotExist
		}
		if path != "" {
			path = "/" + path
		}
		path = rec.Name + path
		ino = rec.Parent
	}
	return path, nil
}

// Prior gives the generation that was last stored under a key (such as a path
// with its step number masked), and its chunks; 0 and nil: there is none.
func (t *Tree) Prior(key string) (gen uint64, es []schema.ChunkExtent, err error) {
	v, err := t.db.Get(priorKey(key))
	if errors.Is(err, state.ErrNotFound) {
		return 0, nil, nil
	}
	if err != nil {
		return 0, nil, wrapDisk(err)
	}
	if gen, err = schema.ParseCounter(v); err != nil {
		return 0, nil, wrapDisk(err)
	}
	es, err = t.chunkMap(gen)
	return gen, es, err
}

// PriorKeys gives the first of the keys for Prior that begin with prefix.
func (t *Tree) PriorKeys(prefix string, max int) (keys []string, err error) {
	lower := priorKey(prefix)
	it, err := t.db.NewIter(lower, schema.After(lower))
	if err != nil {
		return nil, wrapDisk(err)
	}
	defer it.Close()
	for ok := it.First(); ok && len(keys) < max; ok = it.Next() {
		keys = append(keys, string(it.Key()[1:]))
	}
	return keys, wrapDisk(it.Error())
}

func priorKey(key string) []byte { return append([]byte{schema.PrefixLastPath}, key...) }

// chunkMap gives all chunks of a generation, each once.
func (t *Tree) chunkMap(gen uint64) ([]schema.ChunkExtent, error) { return chunkMapIn(t.db, gen) }

func chunkMapIn(db *state.Engine, gen uint64) ([]schema.ChunkExtent, error) {
	prefix := schema.Numbered(schema.PrefixChunkMap, gen)
	it, err := db.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return nil, wrapDisk(err)
	}
	defer it.Close()
	var out []schema.ChunkExtent
	for ok := it.First(); ok; ok = it.Next() {
		es, err := schema.DecodeChunkMap(it.Value())
		if err != nil {
			return nil, wrapDisk(err)
		}
		for _, e := range es { // one that crosses a page's end stands in both
			if len(out) == 0 || out[len(out)-1].Off < e.Off {
				out = append(out, e)
			}
		}
	}
	return out, wrapDisk(it.Error())
}

// Chunks gives the chunks of a view's file, in order, clipped to what the
// view shows; ok is false while some of it is only staged.
func (v *View) Chunks(ino uint64) (es []schema.ChunkExtent, ok bool, err error) {
	rec, err := v.inode(ino)
	if err != nil {
		return nil, false, err
	}
	c := shown(rec)
	ok = true
	gens := map[uint64]*chunkList{}
	err = v.t.stripes(ino, c, 0, func(s uint32, fs []schema.Fragment, _ uint64) (bool, error) {
		base := int64(s) * stripeSize
		for _, f := range fs {
			l := gens[f.Gen]
			if l == nil {
				if l, err = v.t.chunkList(f.Gen); err != nil {
					return false, err
				}
				gens[f.Gen] = l
			}
			from, to := base+int64(f.Off), min(base+int64(f.End()), c.Len)
			if from >= to {
				continue // appended since
			}
			if to > l.stored {
				ok = false
				return false, nil
			}
			es = l.appendRange(es, from, to)
		}
		return true, nil
	})
	return es, ok, err
}

// Copied says whether some of the view's file has a hot copy.
func (v *View) Copied(ino uint64) (found bool, err error) {
	rec, err := v.inode(ino)
	if err != nil {
		return false, err
	}
	seen := map[uint64]bool{}
	err = v.t.stripes(ino, shown(rec), 0, func(_ uint32, fs []schema.Fragment, _ uint64) (bool, error) {
		for _, f := range fs {
			if seen[f.Gen] {
				continue
			}
			seen[f.Gen] = true
			if found, err = v.t.IsHot(f.Gen); found || err != nil {
				return false, err
			}
		}
		return true, nil
	})
	return found, err
}

// chunkList is a generation's chunk map, read from front to back.
type chunkList struct {
	stored int64
	es     []schema.ChunkExtent
}

func (t *Tree) chunkList(gen uint64) (*chunkList, error) {
	g, err := t.generation(gen)
	if err != nil {
		return nil, wrapDisk(err)
	}
	l := &chunkList{stored: g.Stored}
	if g.Stored > 0 {
		l.es, err = t.chunkMap(gen)
	}
	return l, err
}

// appendRange adds what holds [from, to), joining it to the last extent when
// it goes on in the same chunk. Ranges come in ascending order.
func (l *chunkList) appendRange(out []schema.ChunkExtent, from, to int64) []schema.ChunkExtent {
	for len(l.es) > 0 && l.es[0].Off+int64(l.es[0].Len) <= from {
		l.es = l.es[1:]
	}
	for _, e := range l.es {
		if e.Off >= to {
			break
		}
		lo, hi := max(from, e.Off), min(to, e.Off+int64(e.Len))
		part := schema.ChunkExtent{Off: lo, Len: uint32(hi - lo), Skip: e.Skip + uint32(lo-e.Off), Raw: e.Raw, ID: e.ID}
		if k := len(out) - 1; k >= 0 && out[k].ID == part.ID && out[k].Off+int64(out[k].Len) == lo && out[k].Skip+out[k].Len == part.Skip {
			out[k].Len += part.Len
			continue
		}
		out = append(out, part)
	}
	return out
}

// Store records that the frozen content lies in chunks, all of which are
// durable and indexed. key names the content for Prior, "" for none. It
// changes nothing when the content has meanwhile been dropped.
func (f *Frozen) Store(ctx context.Context, es []schema.ChunkExtent, key string) error {
	t := f.t
	if err := f.verify(ctx, es); err != nil {
		return err
	}
	n, err := t.get(f.p.Ino)
	if errors.Is(err, ErrNotExist) {
		n = nil // deleted, but a snapshot may still name it
	} else if err != nil {
		return err
	} else {
		defer t.put(n)
		n.mu.Lock()
		defer n.mu.Unlock()
	}
	whole, err := f.whole()
	if err != nil {
		return err
	}
	target := f.gen
	if !whole {
		if target, err = t.db.NextGen(); err != nil {
			return wrapDisk(err)
		}
	}
	// The generation's record is changed under its own lock: a reader must see
	// either the old place or the new one.
	g, err := t.gens.getAny(f.gen)
	if err != nil || g == nil {
		return err
	}
	defer t.gens.put(g)
	g.mu.Lock()
	defer g.mu.Unlock()
	_, err = t.update(schema.KindStored, func(tx *txn) error {
		pending := schema.Numbered(schema.PrefixPending, f.gen)
		v, err := tx.Get(pending)
		if errors.Is(err, state.ErrNotFound) {
			return nil // dropped: nobody names it any more
		}
		if err != nil {
			return wrapDisk(err)
		}
		now, err := schema.DecodePending(v)
		if err != nil {
			return wrapDisk(fmt.Errorf("pending %d: %w", f.gen, err))
		}
		if now.Content == f.p.Content { // else more was committed meanwhile
			tx.Delete(pending)
		}
		if whole {
			// The index is asked, since others may drop their hold on g without its lock.
			rec, err := t.generation(f.gen)
			if err != nil || rec.Stored > f.p.Content.Len {
				return err // more of it is stored already
			}
			if err := t.putChunkMap(tx, target, es); err != nil {
				return err
			}
			rec.Stored = f.p.Content.Len
			tx.Put(schema.Numbered(schema.PrefixGen, f.gen), rec.Encode())
			if rec.File || rec.Inline { // else there is no copy: it is a hole, or was given up before
				tx.Put(schema.Numbered(schema.PrefixHot, f.gen), schema.Counter(uint64(f.p.Content.Alloc)))
			}
			tx.then(func() { g.rec = rec })
		} else {
			if err := t.putChunkMap(tx, target, es); err != nil {
				return err
			}
			tx.Put(schema.Numbered(schema.PrefixGen, target), schema.Generation{Ino: f.p.Ino, Stored: f.p.Content.Len}.Encode())
			if err := f.repoint(tx, target); err != nil {
				return err
			}
			tx.Put(schema.ReapKey(f.p.Ino, target), nil) // should no stripe name it after all
			t.reaper.add(tx, f.p.Ino)
		}
		if key != "" {
			tx.Put(priorKey(key), schema.Counter(target))
		}
		return nil
	})
	if n != nil {
		n.tail = stripeCache{}
	}
	return err
}

// getAny is get, but nil for a generation that is gone.
func (gt *genTable) getAny(id uint64) (*generation, error) {
	if _, err := gt.t.db.Get(schema.Numbered(schema.PrefixGen, id)); errors.Is(err, state.ErrNotFound) {
		return nil, nil
	}
	g, err := gt.get(id)
	if errors.Is(err, state.ErrNotFound) { // it went in between
		return nil, nil
	}
	return g, err
}

// whole says whether all the content's bytes lie in its newest generation.
func (f *Frozen) whole() (bool, error) {
	whole := true
	err := f.t.stripes(f.p.Ino, &f.p.Content, 0, func(s uint32, fs []schema.Fragment, _ uint64) (bool, error) {
		for _, fr := range fs {
			appended := int64(s)*stripeSize+int64(fr.Off) >= f.p.Content.Len // since
			whole = whole && (fr.Gen == f.gen || appended)
		}
		return whole, nil
	})
	return whole, err
}

// repoint makes the stripes that the content reads name generation target,
// which holds the same bytes, up to the content's length.
func (f *Frozen) repoint(tx *txn, target uint64) error {
	c := &f.p.Content
	return f.t.stripes(f.p.Ino, c, 0, func(s uint32, fs []schema.Fragment, ver uint64) (bool, error) {
		now := fs
		for _, fr := range fs {
			tx.Put(schema.ReapKey(f.p.Ino, fr.Gen), nil)
			f.t.freeables.touch(fr.Gen)
		}
		rest := c.Len - int64(s)*stripeSize
		for _, fr := range fs {
			if end := min(int64(fr.End()), rest); int64(fr.Off) < end {
				now = schema.Overlay(now, fr.Off, uint32(end)-fr.Off, target)
			}
		}
		tx.Put(schema.StripeKey(f.p.Ino, s, ver), schema.EncodeStripe(now))
		return true, nil
	})
}

// putChunkMap records the chunks of a generation, page by page, in the place of
// those of a shorter content of it.
func (t *Tree) putChunkMap(tx *txn, gen uint64, es []schema.ChunkExtent) error {
	old, err := t.chunkMap(gen)
	if err != nil {
		return err
	}
	keep := map[[32]byte]bool{}
	for _, e := range es {
		keep[e.ID] = true
	}
	old = slices.DeleteFunc(old, func(e schema.ChunkExtent) bool { return keep[e.ID] })
	if err := t.cfg.Chunks.Hold(tx.Tx, gen, chunkIDs(es)); err != nil {
		return fmt.Errorf("hold the chunks of generation %d: %w", gen, err)
	}
	if err := t.dropChunks(tx, gen, chunkIDs(old)); err != nil {
		return err
	}
	if err := tx.DeletePrefix(schema.Numbered(schema.PrefixChunkMap, gen)); err != nil {
		return wrapDisk(err)
	}
	for p, list := range chunkPages(es) {
		tx.Put(schema.ChunkMapKey(gen, p), schema.EncodeChunkMap(list))
	}
	return nil
}

// chunkPages gives the pages of a chunk map. A chunk that crosses a page's end
// stands in both.
func chunkPages(es []schema.ChunkExtent) map[uint32][]schema.ChunkExtent {
	pages := map[uint32][]schema.ChunkExtent{}
	for _, e := range es {
		for p := e.Off / schema.ChunkPage; p*schema.ChunkPage < e.Off+int64(e.Len); p++ {
			pages[uint32(p)] = append(pages[uint32(p)], e)
		}
	}
	return pages
}
