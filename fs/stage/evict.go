package stage

import (
	"encoding/binary"
	"errors"
	"fmt"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// Hot calls fn for each generation that is stored and still has its own copy,
// oldest first, with the bytes that evicting it would free.
func (t *Tree) Hot(fn func(gen uint64, bytes int64) (more bool)) error { return t.HotAfter(0, fn) }

// HotAfter is Hot for the generations behind one.
func (t *Tree) HotAfter(after uint64, fn func(gen uint64, bytes int64) (more bool)) error {
	it, err := t.db.NewIter(schema.Numbered(schema.PrefixHot, after+1), []byte{schema.PrefixHot + 1})
	if err != nil {
		return wrapDisk(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		gen, err := schema.ParseNumbered(it.Key())
		if err != nil {
			return wrapDisk(err)
		}
		n, err := schema.ParseCounter(it.Value())
		if err != nil {
			return wrapDisk(err)
		}
		if !fn(gen, int64(n)) {
			return nil
		}
	}
	return wrapDisk(it.Error())
}

// Evict gives up the hot copy of a stored generation. One that holds bytes
// which no chunk has stays, and so does one of which a chunk is known to be
// damaged: it may be the last copy.
func (t *Tree) Evict(gen uint64) error {
	if last, err := t.lastCopy(gen); err != nil || last {
		return err
	}
	g, err := t.gens.getAny(gen)
	if err != nil || g == nil {
		return err
	}
	defer t.gens.put(g)
	n, err := t.get(g.owner())
	if err == nil {
		defer t.put(n)
		n.mu.Lock() // no write may add to it
		defer n.mu.Unlock()
	} else if !errors.Is(err, ErrNotExist) {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.marked || !g.rec.File && !g.rec.Inline {
		return nil
	}
	if ok, err := t.allStored(g); err != nil || !ok {
		return err
	}
	_, err = t.update(schema.KindEvict, func(tx *txn) error {
		rec, err := t.generation(gen)
		if errors.Is(err, state.ErrNotFound) {
			return nil // freed meanwhile
		}
		if err != nil {
			return err
		}
		rec.File, rec.Inline = false, false
		tx.Put(schema.Numbered(schema.PrefixGen, gen), rec.Encode())
		tx.Delete(schema.Numbered(schema.PrefixHot, gen))
		if g.rec.File {
			tx.Put(schema.Numbered(schema.PrefixDoomed, gen), nil)
		}
		if g.rec.Inline {
			if err := tx.DeletePrefix(schema.Numbered(schema.PrefixInline, gen)); err != nil {
				return wrapDisk(err)
			}
		}
		tx.then(func() { g.rec, g.inline = rec, nil })
		return nil
	})
	if err != nil {
		return err
	}
	t.gens.trust(gen)
	return wrapDisk(g.closeFile())
}

// lastCopy says whether a chunk of a generation that has its own copy is known to
// be damaged.
func (t *Tree) lastCopy(gen uint64) (bool, error) {
	es, err := t.CopyExtents(gen)
	if err != nil || len(es) == 0 || t.cfg.Chunks == nil {
		return false, err
	}
	return t.cfg.Chunks.AnyDamaged(chunkIDs(es))
}

// owner is the inode that wrote g.
func (g *generation) owner() uint64 {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.rec.Ino
}

// generation gives a generation's record as it is in the index.
func (t *Tree) generation(gen uint64) (schema.Generation, error) {
	v, err := t.db.Get(schema.Numbered(schema.PrefixGen, gen))
	if err != nil {
		return schema.Generation{}, fmt.Errorf("generation %d: %w", gen, err)
	}
	g, err := schema.DecodeGeneration(v)
	return g, wrapDisk(err)
}

// allStored says whether every byte of g that a stripe names is in its chunks:
// one of its own inode, or of those that share it.
func (t *Tree) allStored(g *generation) (bool, error) {
	inos := []uint64{g.rec.Ino}
	prefix := schema.Numbered(schema.PrefixGenRef, g.id)
	it, err := t.db.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return false, wrapDisk(err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		inos = append(inos, binary.BigEndian.Uint64(it.Key()[len(prefix):]))
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return false, wrapDisk(err)
	}
	for _, ino := range inos {
		if all, err := t.allStoredOf(g, ino); err != nil || !all {
			return false, err
		}
	}
	return true, nil
}

func (t *Tree) allStoredOf(g *generation, ino uint64) (bool, error) {
	all := true
	prefix := schema.StripeInode(ino)
	it, err := t.db.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return false, wrapDisk(err)
	}
	defer it.Close()
	for ok := it.First(); ok && all; ok = it.Next() {
		s, _, err := schema.ParseStripeKey(it.Key())
		if err != nil {
			return false, wrapDisk(err)
		}
		fs, err := schema.DecodeStripe(it.Value())
		if err != nil {
			return false, wrapDisk(err)
		}
		for _, f := range fs {
			all = all && (f.Gen != g.id || int64(s)*stripeSize+int64(f.End()) <= g.rec.Stored)
		}
	}
	return all, wrapDisk(it.Error())
}

// UnlinkEvicted unlinks the staging files of what was evicted, once that is
// durable.
func (t *Tree) UnlinkEvicted() error { return t.unlinkDoomed() }
