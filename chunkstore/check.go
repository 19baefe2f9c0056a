package chunkstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"

	"github.com/cockroachdb/errors/oserror"

	"stepfs/chunkstore/pack"
	"stepfs/internal/check"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// A check holds three things against each other: what the index says of chunks
// (K, c, d), what the records of packs say (P), and the pack files. All keys
// are read from one view, in which the ledger's invariants hold to the letter.
// In memory are the counts of each pack.

// Holders knows who needs chunks: whoever calls Hold and Drop.
type Holders interface {
	// Held yields each chunk that each holder names.
	Held(ctx context.Context, v *state.View, yield func(holder uint64, id [32]byte) error) error
	// Leaving says whether a holder is being taken away: it still names chunks
	// that it holds no more.
	Leaving(v *state.View, holder uint64) (bool, error)
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
}

// Check looks whether index, references and packs agree, while the store is
// used. An error says that it could not look; findings go to r.
func (s *Store) Check(ctx context.Context, r *check.Run, o CheckOptions) (CheckStats, error) {
	c := &checker{Store: s, r: r, opts: o, packs: map[uint64]*packCount{}, seed: maphash.MakeSeed()}
	for _, step := range [...]func(context.Context) error{c.chunks, c.references, c.records, c.strangers} {
		if err := step(ctx); err != nil {
			return c.stats, fmt.Errorf("check chunks: %w", err)
		}
	}
	return c.stats, nil
}

// checker is one run of Check.
type checker struct {
	*Store
	r     *check.Run
	opts  CheckOptions
	stats CheckStats
	packs map[uint64]*packCount
	seed  maphash.Seed
	buf   []byte
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
	kinds := string([]byte{schema.PrefixChunk, schema.PrefixChunkRef, schema.PrefixChunkDead})
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
			c.pack(l.Pack).sum += c.fingerprint(k[5:], v)
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

// records looks at each pack's record and file.
func (c *checker) records(ctx context.Context) error {
	next := max(c.firstNew, 1)
	if v, err := c.r.View.Get(schema.PackCounterKey()); err == nil {
		if n, err := schema.ParseCounter(v); err == nil {
			next = max(next, n)
		}
	}
	lower, upper := schema.PackBounds()
	it, err := c.r.View.NewIter(lower, upper)
	if err != nil {
		return err
	}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		if err = ctx.Err(); err == nil {
			err = c.record(ctx, it.Key(), it.Value(), next)
		}
	}
	if err = errors.Join(err, it.Error(), it.Close()); err != nil {
		return err
	}
	for number, p := range c.packs {
		if p.chunks > 0 && !p.record {
			c.r.Damage("pack-record-missing", packName(number), "%d chunks are in it, and it has no record", p.chunks)
		}
	}
	return nil
}

func packName(number uint64) string { return fmt.Sprintf("pack %d", number) }

func (c *checker) record(ctx context.Context, k, v []byte, next uint64) error {
	number, err := schema.ParsePackKey(k)
	if err != nil {
		return c.r.Corrupt(fmt.Sprintf("key %x", k), err)
	}
	c.stats.Packs++
	c.r.Done(0.5 + 0.5*min(1, float64(number)/float64(next)))
	p := c.pack(number)
	p.record = true
	rec, err := schema.DecodePackRecord(v)
	if err != nil {
		return c.r.Corrupt(packName(number), err)
	}
	if number >= next {
		c.r.Damage("pack-number", packName(number), "numbers from %d on are about to be given out again", next)
	}
	c.dead(number, rec, p)
	foot, err := c.file(number, rec)
	if err != nil || foot == nil {
		return err
	}
	return c.contents(ctx, number, rec, foot, p)
}

// dead checks a record's counts of what is not needed. Packs from before
// references have had copies that nobody counted.
func (c *checker) dead(number uint64, rec schema.PackRecord, p *packCount) {
	want := rec
	want.DeadChunks, want.Dead = rec.Chunks-min(p.alive, rec.Chunks), rec.Stored-min(p.stored, rec.Stored)
	short := rec.DeadChunks < want.DeadChunks && c.collectable(number) || rec.Dead < want.Dead && c.collectable(number)
	switch {
	case rec.DeadChunks > want.DeadChunks || rec.Dead > want.Dead:
		c.r.Damage("pack-dead-count", packName(number), "its record counts %d dead chunks of %d bytes, there are %d of %d", rec.DeadChunks, rec.Dead, want.DeadChunks, want.Dead)
	case short:
		c.r.Leak("pack-dead-count", packName(number), "its record counts %d dead chunks of %d bytes, there are %d of %d", rec.DeadChunks, rec.Dead, want.DeadChunks, want.Dead)
	}
}

// file checks that a pack's file is there and what its record says, and gives
// its footer; nil: it is of no use, which was said, or is gone by now.
func (c *checker) file(number uint64, rec schema.PackRecord) (*pack.Footer, error) {
	name := pack.Name(rec.Name).FileName()
	st, err := c.fs.Stat(c.fs.PathJoin(c.dir, name))
	if err == nil && uint64(st.Size()) != rec.Size {
		c.r.Damage("pack-size", packName(number), "%s has %d bytes, its record says %d", name, st.Size(), rec.Size)
		return nil, nil
	}
	var foot pack.Footer
	if err == nil {
		foot, err = c.readFooter(rec.Name)
	}
	switch {
	case err == nil:
		return &foot, nil
	case oserror.IsNotExist(err):
		// Collect unlinks a pack whose record is durably gone.
		if _, err := getPack(c.db, number); errors.Is(err, state.ErrNotFound) {
			return nil, nil
		}
		c.r.Damage("pack-missing", packName(number), "%s is not there; %d chunks are read from it", name, c.packs[number].chunks)
		return nil, nil
	case errors.Is(err, pack.ErrFormat):
		c.r.Damage("pack-unreadable", packName(number), "%v; %d chunks are read from it", err, c.packs[number].chunks)
		return nil, nil
	}
	return nil, err
}

// contents holds a footer against the record and the index.
func (c *checker) contents(ctx context.Context, number uint64, rec schema.PackRecord, foot *pack.Footer, p *packCount) error {
	want := c.newRecord(rec.Name, foot.Body, foot.Entries)
	if rec.Domain != want.Domain || rec.Size != want.Size || rec.Chunks != want.Chunks || rec.Raw != want.Raw || rec.Stored != want.Stored {
		c.r.Damage("pack-record", packName(number), "its record says %d chunks of %d bytes, %d stored, in a file of %d; its footer %d of %d, %d, in %d",
			rec.Chunks, rec.Raw, rec.Stored, rec.Size, want.Chunks, want.Raw, want.Stored, want.Size)
	}
	// When the fingerprints agree, the index has exactly what the footer lists.
	// Otherwise, for copies and what is swept too, each chunk is looked up.
	sum := uint64(0)
	for _, e := range foot.Entries {
		sum += c.fingerprint(e.ID[:], chunkLoc(number, e).Encode())
	}
	same := sum == p.sum && uint64(len(foot.Entries)) == p.chunks
	if same && c.opts.ReadData == 0 {
		return nil
	}
	listed := uint64(0)
	for _, e := range foot.Entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !same {
			here, err := c.entry(number, e)
			if err != nil {
				return err
			}
			if !here {
				continue
			}
		}
		listed++
		if c.opts.ReadData > 0 && rand.Float64() < c.opts.ReadData {
			if err := c.read(number, e, rec); err != nil {
				return err
			}
		}
	}
	if listed != p.chunks {
		c.r.Damage("pack-contents", packName(number), "the index has %d chunks in it, its footer lists %d of them", p.chunks, listed)
	}
	return nil
}

// fingerprint is a number for a chunk at a place, as its record says it.
func (c *checker) fingerprint(id, value []byte) uint64 {
	c.buf = append(append(c.buf[:0], id...), value...)
	return maphash.Bytes(c.seed, c.buf)
}

// entry says whether the index has a chunk where this entry of a pack is.
func (c *checker) entry(number uint64, e pack.Entry) (here bool, err error) {
	v, err := c.r.View.Get(schema.ChunkKey(c.cfg.Domain, e.ID))
	if errors.Is(err, state.ErrNotFound) {
		return false, nil // swept; if somebody needs it, it was missed above
	}
	if err != nil {
		return false, err
	}
	loc, err := schema.DecodeChunkLoc(v)
	if err != nil || loc.Pack != number {
		return false, nil // said before, or a copy
	}
	want := chunkLoc(number, e)
	if loc.Offset != want.Offset || loc.Stored != want.Stored || loc.Raw != want.Raw || loc.Type != want.Type || loc.Enc != want.Enc || string(loc.Ext) != string(want.Ext) {
		c.r.Damage("chunk-location", chunkName(e.ID[:]), "the index says %+v, the footer %+v", loc, want)
	}
	return true, nil
}

// read reads a chunk and holds it against its name.
func (c *checker) read(number uint64, e pack.Entry, rec schema.PackRecord) error {
	c.stats.Read++
	c.stats.ReadBytes += uint64(e.Stored)
	b := c.buffers.get(int(e.Raw))
	defer c.buffers.put(b)
	err := c.fetch(e.ID, chunkLoc(number, e), rec, b.bytes)
	switch {
	case errors.Is(err, ErrCorrupt):
		c.r.Damage("chunk-data", chunkName(e.ID[:]), "%v", err)
		return nil
	case errors.Is(err, errGone):
		return nil // collected since its footer was read
	}
	return err
}

// strangers looks for pack files that no record names.
func (c *checker) strangers(ctx context.Context) error {
	files, err := c.fs.List(c.dir)
	if err != nil {
		return err
	}
	for _, n := range files {
		// Packs on their way in and out have their names, too.
		name, ok := pack.ParseFileName(n)
		if !ok || c.isNamed(name) {
			continue
		}
		if _, err := c.fs.Stat(c.fs.PathJoin(c.dir, n)); oserror.IsNotExist(err) || c.isNamed(name) {
			continue // it went, or came back, meanwhile
		}
		if _, err := c.readFooter(name); errors.Is(err, pack.ErrFormat) {
			c.r.Damage("pack-unreadable", n, "no record names it, and its chunks can't be indexed: %v", err)
			continue
		}
		c.r.Leak("pack-unknown", n, "no record names it; the next start finds out what is in it")
	}
	return ctx.Err()
}

func (c *checker) isNamed(name pack.Name) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.mu.names[name]
	return ok
}
