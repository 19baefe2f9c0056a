package chunkstore

import (
	"context"

	"stepfs/internal/check"
	"stepfs/internal/schema"
)

// What is made from what is said twice: by the record of a chunk, for readers,
// and by the key of its base, which keeps the base. In the pass over all chunks
// a base is held against the keys that stand with it; that each delta has its
// key is proved by comparing both sides as sets (madeFrom).

// bases looks at the keys of what is made from a chunk.
func (c *checker) bases(g *check.Group, loc *schema.ChunkLoc) error {
	made := uint64(0)
	err := g.Each(schema.PrefixChunkBase, func(k, _ []byte) error {
		made++
		c.delta = true
		if _, _, _, err := schema.ParseChunkBaseKey(k); err != nil {
			return c.r.Corrupt(chunkName(g.ID[4:]), err)
		}
		return nil
	})
	if err == nil && made > 0 && loc == nil {
		c.r.Damage("base-missing", chunkName(g.ID[4:]), "%d chunks are made from it, and the index does not know where it is", made)
	}
	return err
}

// madeFrom holds the records of deltas against the keys of their bases.
func (c *checker) madeFrom(ctx context.Context) error {
	if !c.delta { // which chunks has looked for
		return nil
	}
	var b1, b2 []byte
	records := func(yield func([]byte) error) error {
		return c.r.Each(ctx, []byte{schema.PrefixChunk}, func(k, v []byte) error {
			domain, id, err := schema.ParseChunkKey(k)
			loc, lerr := schema.DecodeChunkLoc(v)
			if err != nil || lerr != nil || domain != c.cfg.Domain {
				return nil // said before, or none of ours
			}
			link, err := linkOf(loc)
			if err != nil {
				return c.r.Corrupt(chunkName(id[:]), err)
			}
			if link.Depth == 0 {
				return nil
			}
			b1 = append(append(b1[:0], link.ID[:]...), id[:]...)
			return yield(b1)
		})
	}
	keys := func(yield func([]byte) error) error {
		return c.r.Each(ctx, []byte{schema.PrefixChunkBase}, func(k, _ []byte) error {
			domain, base, id, err := schema.ParseChunkBaseKey(k)
			if err != nil || domain != c.cfg.Domain {
				return nil
			}
			b2 = append(append(b2[:0], base[:]...), id[:]...)
			return yield(b2)
		})
	}
	unkept := func(m []byte) error {
		c.r.Damage("base-key-missing", chunkName(m[32:]), "it is made from %s, and nothing says so: that may be taken for dead", chunkName(m[:32]))
		return nil
	}
	unused := func(m []byte) error {
		c.r.Leak("base-key-unused", chunkName(m[:32]), "it is kept for %s, which is not made from it", chunkName(m[32:]))
		return nil
	}
	return check.Compare(records, keys, unkept, unused)
}
