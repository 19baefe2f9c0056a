package stage

import (
	"context"
	"errors"
	"fmt"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// What ingest needs of the tree: the frozen contents that wait, their bytes
// (frozen.go), and the swap from staged to stored. The swap gives the generation
// a chunk map (chunkmap.go); who names the generation notices nothing.

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
