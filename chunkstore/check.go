package chunkstore

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"sync"

	"golang.org/x/sync/errgroup"

	"stepfs/chunkstore/pack"
	"stepfs/internal/check"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// A check holds three things against each other: what the index says of chunks
// (K, c, d), what the records of packs say (P), and the pack files
// (check_packs.go). All keys are read from one view, in which the ledger's
// invariants hold to the letter. In memory are the counts of each pack.

// Holders knows who needs chunks: whoever calls Hold and Drop.
type Holders interface {
	// Held yields each chunk that each holder names.
	Held(ctx context.Context, v *state.View, yield func(holder uint64, id [32]byte) error) error
	// Leaving says whether a holder is being taken away: it still names chunks
	// that it holds no more.
	Leaving(v *state.View, holder uint64) (bool, error)
	// Places tells where a holder has the chunks that it is asked for.
	Places(holder uint64, asked func(id [32]byte) bool, fn func(id [32]byte, at check.Place)) error
	// Needs adds the files that read one of these places, up to what n has room
	// for.
	Needs(at check.Places, n *check.Needs) error
}

// CheckOptions say what Check looks at besides the structure.
type CheckOptions struct {
	Holders Holders // nil: references are taken as they are
	// ReadData is the share of chunks whose bytes are read and held against
	// their names, from 0 to 1.
	ReadData float64
}

// CheckStats count what Check has looked at.
type CheckStats struct {
	Packs, Chunks, References uint64
	Read                      uint64 // chunks whose bytes were read
	ReadBytes                 uint64 // of packs
	Away                      uint64 // packs that are only in the bucket, of which nothing was read
}

// Check looks whether index, references and packs agree, while the store is
// used. An error says that it could not look; findings go to r.
func (s *Store) Check(ctx context.Context, r *check.Run, o CheckOptions) (CheckStats, error) {
	c := &checker{Store: s, out: r.Report, opts: o, packs: map[uint64]*packCount{}, seed: maphash.MakeSeed()}
	run := *r
	run.Report = c.found
	c.r = &run
	for _, step := range [...]func(context.Context) error{c.index, c.records, c.strangers, c.losses} {
		if err := step(ctx); err != nil {
			return c.stats, fmt.Errorf("check chunks: %w", err)
		}
	}
	return c.stats, nil
}

// index looks at what the index says of chunks, walking over several parts of it
// side by side.
func (c *checker) index(ctx context.Context) error {
	walks, ctx := errgroup.WithContext(ctx)
	walks.Go(func() error {
		if err := c.chunks(ctx); err != nil {
			return err
		}
		return c.madeFrom(ctx)
	})
	walks.Go(func() error { return c.references(ctx) })
	return walks.Wait()
}

// checker is one run of Check.
type checker struct {
	*Store
	r     *check.Run // its Report is found
	opts  CheckOptions
	packs map[uint64]*packCount
	seed  maphash.Seed
	buf   []byte // of chunk
	delta bool   // a chunk is made from another, or something says so

	// one is held by whoever has something to say: packs are read side by side.
	one   sync.Mutex
	out   func(check.Finding)
	lost  []lostPack
	stats CheckStats
}

// packCount is what the index says lies in a pack.
type packCount struct {
	chunks uint64 // that are read from it
	alive  uint64 // of them, without a dead key
	stored uint64 // bytes of those
	sum    uint64 // of the fingerprints of chunks
	record bool   // it has a record
}

func (c *checker) pack(number uint64) *packCount {
	p := c.packs[number]
	if p == nil {
		p = &packCount{}
		c.packs[number] = p
	}
	return p
}

// old: some packs are older than references, so of their chunks, and of those
// that lay in them once, references may be missing.
func (c *checker) old() bool { return c.refsFrom.Load() > 1 }

// chunks looks at each chunk's location, references and dead key.
func (c *checker) chunks(ctx context.Context) error {
	kinds := string([]byte{schema.PrefixChunk, schema.PrefixChunkRef, schema.PrefixChunkDead, schema.PrefixChunkBase})
	return c.r.Join(ctx, kinds, 4+32, func(g *check.Group) error {
		if c.stats.Chunks++; c.stats.Chunks%4096 == 0 {
			c.r.Done(0.4 * float64(binary.BigEndian.Uint32(g.ID[4:])) / (1 << 32))
		}
		return c.chunk(g)
	})
}

func (c *checker) chunk(g *check.Group) error {
	corrupt := func(err error) error {
		if err == nil { // no name is made for each of a million chunks
			return nil
		}
		return c.r.Corrupt(chunkName(g.ID[4:]), err)
	}
	var loc *schema.ChunkLoc
	var dead *schema.DeadChunk
	refs := uint64(0)
	err := g.Each(schema.PrefixChunk, func(k, v []byte) error {
		l, err := schema.DecodeChunkLoc(v)
		if err == nil {
			loc = &l
			c.delta = c.delta || pack.Encoding(l.Enc) == pack.EncDelta
			c.buf = append(append(c.buf[:0], k[5:]...), v...)
			c.pack(l.Pack).sum += maphash.Bytes(c.seed, c.buf)
		}
		return corrupt(err)
	})
	if err == nil {
		err = g.Each(schema.PrefixChunkRef, func(k, _ []byte) error {
			_, _, _, err := schema.ParseChunkRefKey(k)
			refs++
			return corrupt(err)
		})
	}
	if err == nil {
		err = g.Each(schema.PrefixChunkDead, func(_, v []byte) error {
			d, err := schema.DecodeDeadChunk(v)
			if err == nil {
				dead = &d
			}
			return corrupt(err)
		})
	}
	if err == nil {
		err = c.bases(g, loc)
	}
	c.stats.References += refs
	if err == nil {
		c.judge(g.ID[4:], loc, dead, refs)
	}
	return err
}

func chunkName(id []byte) string { return fmt.Sprintf("chunk %x", id) }

// judge holds a chunk's records against each other.
func (c *checker) judge(id []byte, loc *schema.ChunkLoc, dead *schema.DeadChunk, refs uint64) {
	switch {
	case loc == nil && refs > 0:
		c.r.Damage("chunk-missing", chunkName(id), "%d holders need it, and the index does not know where it is", refs)
		return
	case loc == nil:
		c.r.Damage("dead-key", chunkName(id), "it is marked dead and is not in the index")
		return
	case dead != nil && refs > 0:
		c.r.Damage("dead-and-held", chunkName(id), "it is marked dead, and %d holders need it", refs)
	case dead != nil && (dead.Pack != loc.Pack || dead.Stored != loc.Stored):
		c.r.Damage("dead-key", chunkName(id), "it is dead in pack %d (%d bytes), and read from pack %d (%d bytes)", dead.Pack, dead.Stored, loc.Pack, loc.Stored)
	case dead == nil && refs == 0 && !c.old():
		c.r.Leak("chunk-unowned", chunkName(id), "nobody holds it, and it is not marked dead")
	}
	p := c.pack(loc.Pack)
	p.chunks++
	if dead == nil {
		p.alive++
		p.stored += uint64(loc.Stored)
	}
}

// references holds what holders name against the references.
func (c *checker) references(ctx context.Context) error {
	if c.opts.Holders == nil {
		return nil
	}
	member := func(buf []byte, holder uint64, id [32]byte) []byte {
		return append(binary.BigEndian.AppendUint64(buf[:0], holder), id[:]...)
	}
	var b1, b2 []byte
	named := func(yield func([]byte) error) error {
		return c.opts.Holders.Held(ctx, c.r.View, func(holder uint64, id [32]byte) error {
			b1 = member(b1, holder, id)
			return yield(b1)
		})
	}
	refs := func(yield func([]byte) error) error {
		return c.r.Each(ctx, []byte{schema.PrefixChunkRef}, func(k, _ []byte) error {
			domain, id, holder, err := schema.ParseChunkRefKey(k)
			if err != nil || domain != c.cfg.Domain {
				return nil // said before, or none of ours
			}
			b2 = member(b2, holder, id)
			return yield(b2)
		})
	}
	return check.Compare(named, refs, c.unheld, c.unnamed)
}

// unheld: a holder names a chunk that it does not hold.
func (c *checker) unheld(m []byte) error {
	holder := binary.BigEndian.Uint64(m)
	leaving, err := c.opts.Holders.Leaving(c.r.View, holder)
	if err != nil || leaving {
		return err
	}
	object := chunkName(m[8:])
	indexed, err := c.r.Has(schema.ChunkKey(c.cfg.Domain, [32]byte(m[8:])))
	switch {
	case err != nil:
		return err
	case !indexed:
		c.r.Damage("chunk-missing", object, "%s needs it, and the index does not know where it is", holderName(holder))
		return nil
	case c.old():
		return nil
	}
	c.r.Damage("reference-missing", object, "%s needs it and does not hold it: it may be taken for dead", holderName(holder))
	return nil
}

// unnamed: a reference whose holder does not name the chunk.
func (c *checker) unnamed(m []byte) error {
	c.r.Leak("reference-unused", chunkName(m[8:]), "%s holds it and does not name it", holderName(binary.BigEndian.Uint64(m)))
	return nil
}

func holderName(holder uint64) string {
	if schema.IsTreeHolder(holder) {
		return fmt.Sprintf("the tree of snapshot %d", holder&^(1<<63))
	}
	return fmt.Sprintf("generation %d", holder)
}
