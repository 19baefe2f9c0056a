package stage

import (
	"fmt"
	"slices"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

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
