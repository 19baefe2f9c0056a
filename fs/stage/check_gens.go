package stage

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"slices"

	"stepfs/internal/check"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// kindsByGen are the kinds of keys that begin with a generation.
var kindsByGen = string([]byte{
	schema.PrefixGen, schema.PrefixGenRef, schema.PrefixInline, schema.PrefixChunkMap, schema.PrefixHot,
	schema.PrefixPending, schema.PrefixDoomed, schema.PrefixDeadHold,
})

// generations checks all that is kept by generation, and yields who has a hold
// on each: the inode that wrote it, and those that share it.
func (c *treeCheck) generations(r *check.Run, yield func(m []byte) error) error {
	var buf []byte
	return r.Join(c.ctx, kindsByGen, 8, func(g *check.Group) error {
		gen := binary.BigEndian.Uint64(g.ID)
		if schema.IsTreeHolder(gen) { // a snapshot's, in PrefixDeadHold
			return nil
		}
		var rec *schema.Generation
		var others []uint64
		unread := false
		err := g.Each(schema.PrefixGen, func(_, v []byte) error {
			x, err := schema.DecodeGeneration(v)
			if unread = err != nil; !unread {
				rec = &x
			}
			return corruptGen(r, gen, err)
		})
		if err == nil {
			err = g.Each(schema.PrefixGenRef, func(k, _ []byte) error {
				if len(k) != 17 {
					r.Damage("record", genName(gen), "a key %x", k)
					return nil
				}
				others = append(others, binary.BigEndian.Uint64(k[9:]))
				return nil
			})
		}
		if err != nil {
			return err
		}
		if unread {
			return nil // what it would have said of the rest is not known
		}
		if rec == nil {
			c.remains(r, g, gen, len(others))
			return c.chunkMapOf(r, g, gen)
		}
		if err := c.generationOf(r, g, gen, rec, len(others)); err != nil {
			return err
		}
		if rec.Ino != 0 && !slices.Contains(others, rec.Ino) { // it may have come back to it (clone.go)
			others = append(others, rec.Ino)
		}
		for _, ino := range others {
			if buf = hold(buf, gen, ino); err == nil {
				err = yield(buf)
			}
		}
		return err
	})
}

// corruptGen is Run.Corrupt: no name is made for each of a million generations.
func corruptGen(r *check.Run, gen uint64, err error) error {
	if err == nil {
		return nil
	}
	return r.Corrupt(genName(gen), err)
}

// remains reports what is left of a generation that has no record.
func (c *treeCheck) remains(r *check.Run, g *check.Group, gen uint64, others int) {
	if others > 0 {
		r.Leak("generation-remains", genName(gen), "%d inodes share it, and it has no record", others)
	}
	for _, k := range [...]struct {
		kind byte
		what string
	}{
		{schema.PrefixInline, "blocks in the index"}, {schema.PrefixHot, "a mark of its hot copy"},
		{schema.PrefixPending, "a place among what waits for ingest"},
	} {
		if g.Has(k.kind) {
			r.Leak("generation-remains", genName(gen), "it has %s, and no record", k.what)
		}
	}
	if g.Has(schema.PrefixChunkMap) && !g.Has(schema.PrefixDeadHold) {
		r.Leak("generation-remains", genName(gen), "it has a chunk map and no record, and is not queued to give up its chunks")
	}
}

// generationOf checks a generation that has a record.
func (c *treeCheck) generationOf(r *check.Run, g *check.Group, gen uint64, rec *schema.Generation, others int) error {
	copied := rec.File || rec.Inline
	if rec.Ino == 0 && others == 0 {
		r.Leak("generation-unnamed", genName(gen), "no inode has a hold on it")
	}
	if g.Has(schema.PrefixDeadHold) {
		r.Damage("generation-leaving", genName(gen), "its chunks are about to be given up, and it is still there")
	}
	if rec.File && g.Has(schema.PrefixDoomed) {
		r.Damage("generation-leaving", genName(gen), "its staging file is about to be unlinked, and it is still in it")
	}
	if g.Has(schema.PrefixHot) && !copied {
		r.Leak("hot-mark", genName(gen), "it is marked as a hot copy, and has none")
	}
	if copied && rec.Stored > 0 && !g.Has(schema.PrefixHot) {
		r.Leak("hot-mark", genName(gen), "it is stored and has a copy of its own, which is not marked as one: it is never given up")
	}
	if g.Has(schema.PrefixInline) && !rec.Inline {
		r.Leak("inline-blocks", genName(gen), "it has blocks in the index, and is not there")
	}
	if g.Has(schema.PrefixChunkMap) && rec.Stored == 0 {
		r.Leak("chunk-map", genName(gen), "it has a chunk map, and is not stored")
	}
	err := g.Each(schema.PrefixPending, func(_, v []byte) error {
		_, err := schema.DecodePending(v)
		return corruptGen(r, gen, err)
	})
	if err == nil {
		err = c.chunkMapOf(r, g, gen)
	}
	if r != c.r { // the second time
		return err
	}
	c.stats.Generations++
	if err == nil && rec.File {
		err = c.stagingFile(r, gen)
	}
	return err
}

// chunkMapOf checks the pages of a generation's chunk map.
func (c *treeCheck) chunkMapOf(r *check.Run, g *check.Group, gen uint64) error {
	return g.Each(schema.PrefixChunkMap, func(k, v []byte) (err error) {
		c.es, err = schema.AppendChunkMap(c.es[:0], v)
		if len(k) != 13 {
			r.Damage("record", genName(gen), "a key %x", k)
		}
		return corruptGen(r, gen, err)
	})
}

// stagingFile checks that a generation's staging file is there.
func (c *treeCheck) stagingFile(r *check.Run, gen uint64) error {
	there, err := c.isStaged(gen)
	if err != nil || there {
		return err
	}
	// It goes only after the record that it is gone.
	if now, err := c.claims(gen); err != nil || !now {
		return err
	}
	r.Damage("staging-missing", genName(gen), "its staging file is not there")
	return nil
}

func (c *treeCheck) isStaged(gen uint64) (bool, error) {
	f, err := c.cfg.Disk.Open(gen)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, wrapDisk(err)
	}
	return true, wrapDisk(f.Close())
}

// claims says whether a generation is in a staging file by now.
func (c *treeCheck) claims(gen uint64) (bool, error) {
	g, err := c.generation(gen)
	switch {
	case errors.Is(err, state.ErrNotFound):
		return false, nil
	case errors.Is(err, schema.ErrCorrupt):
		return true, nil // that was said; what it meant is not known
	}
	return g.File, err
}

// strangers looks for staging files that no generation is in.
func (c *treeCheck) strangers() error {
	return c.cfg.Disk.List(func(gen uint64) error {
		c.stats.StagingFiles++
		if err := c.ctx.Err(); err != nil {
			return err
		}
		if known, err := c.knows(gen); err != nil || known {
			return err
		}
		// A write makes the file first and then the record, under a lock; a file
		// goes before the last word of it does. Twice, since it may have gone and
		// come back.
		for range 2 {
			c.gens.await(gen)
			if known, err := c.knows(gen); err != nil || known {
				return err
			}
			if there, err := c.isStaged(gen); err != nil || !there {
				return err
			}
		}
		c.r.Leak("staging-unknown", genName(gen), "there is a staging file, and no record of it")
		return nil
	})
}

// knows says whether the index has a use for a staging file by now: a
// generation is in it, or it is to be unlinked.
func (c *treeCheck) knows(gen uint64) (bool, error) {
	if claimed, err := c.claims(gen); err != nil || claimed {
		return claimed, err
	}
	_, err := c.db.Get(schema.Numbered(schema.PrefixDoomed, gen))
	if errors.Is(err, state.ErrNotFound) {
		return false, nil
	}
	return err == nil, wrapDisk(err)
}

// await returns once a write to a generation that is under way is recorded, or
// undone.
func (gt *genTable) await(id uint64) {
	gt.mu.Lock()
	g := gt.all[id]
	gt.mu.Unlock()
	if g != nil {
		g.mu.RLock()
		defer g.mu.RUnlock()
	}
}
