package chunkstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"runtime"

	"github.com/cockroachdb/errors/oserror"
	"golang.org/x/sync/errgroup"

	"stepfs/chunkstore/pack"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

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
	// A pack is read from front to back, and as many of them at a time as there
	// are cores to hash what is read.
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(runtime.GOMAXPROCS(0))
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		if err = ctx.Err(); err == nil {
			err = c.record(ctx, it.Key(), it.Value(), next, work)
		}
	}
	if err = errors.Join(work.Wait(), err, it.Error(), it.Close()); err != nil {
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

// record looks at a pack's record, and gives the rest of the work on the pack to
// others.
func (c *checker) record(ctx context.Context, k, v []byte, next uint64, others *errgroup.Group) error {
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
	others.Go(func() error {
		foot, err := c.file(number, rec, p)
		if err != nil || foot == nil {
			return err
		}
		return c.contents(ctx, number, rec, foot, p)
	})
	return nil
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
func (c *checker) file(number uint64, rec schema.PackRecord, p *packCount) (*pack.Footer, error) {
	name := pack.Name(rec.Name).FileName()
	st, err := c.fs.Stat(c.fs.PathJoin(c.dir, name))
	if err == nil && uint64(st.Size()) != rec.Size {
		c.r.Damage("pack-size", packName(number), "%s has %d bytes, its record says %d", name, st.Size(), rec.Size)
		return nil, nil
	}
	up, uerr := uploadOf(c.db, rec.Name)
	if uerr != nil {
		return nil, uerr
	}
	away := oserror.IsNotExist(err) && c.isAway(number) && up != nil && up.State == schema.UploadOnly // it was evicted
	var foot pack.Footer
	if err == nil || away {
		foot, err = c.readFooter(rec.Name)
	}
	switch {
	case err == nil:
		return &foot, nil
	case away && oserror.IsNotExist(err):
		c.r.Leak("pack-stub", packName(number), "%s is only in the bucket, and its stub here is gone: what is in it can't be listed without the bucket", name)
		return nil, nil
	case oserror.IsNotExist(err):
		// Collect unlinks a pack whose record is durably gone.
		if _, err := getPack(c.db, number); errors.Is(err, state.ErrNotFound) {
			return nil, nil
		}
		c.r.Damage("pack-missing", packName(number), "%s is not there; %d chunks are read from it", name, p.chunks)
		return nil, nil
	case errors.Is(err, pack.ErrFormat):
		c.r.Damage("pack-unreadable", packName(number), "%v; %d chunks are read from it", err, p.chunks)
		return nil, nil
	}
	return nil, err
}

// contents holds a footer against the record and the index.
func (c *checker) contents(ctx context.Context, number uint64, rec schema.PackRecord, foot *pack.Footer, p *packCount) error {
	want := c.newRecord(rec.Name, *foot)
	if rec.Domain != want.Domain || rec.Naming != want.Naming || rec.Size != want.Size || rec.Chunks != want.Chunks || rec.Raw != want.Raw || rec.Stored != want.Stored {
		c.r.Damage("pack-record", packName(number), "its record says %d chunks of %d bytes, %d stored, in a file of %d; its footer %d of %d, %d, in %d",
			rec.Chunks, rec.Raw, rec.Stored, rec.Size, want.Chunks, want.Raw, want.Stored, want.Size)
	}
	// When the fingerprints agree, the index has exactly what the footer lists.
	// Otherwise, for copies and what is swept too, each chunk is looked up.
	sum := uint64(0)
	var buf []byte
	for _, e := range foot.Entries {
		buf = append(append(buf[:0], e.ID[:]...), chunkLoc(number, e).Encode()...)
		sum += maphash.Bytes(c.seed, buf)
	}
	same := sum == p.sum && uint64(len(foot.Entries)) == p.chunks
	read := c.opts.ReadData
	if c.isAway(number) {
		read = 0 // that is for who checks the bucket
		c.one.Lock()
		c.stats.Away++
		c.one.Unlock()
	}
	if same && read == 0 {
		return nil
	}
	listed := uint64(0)
	ahead := c.readAhead(rec, foot.Body)
	defer ahead.close()
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
		if read > 0 && rand.Float64() < read {
			ahead.of(e.Offset)
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

// read reads a chunk and holds it against its name, and the header of its part
// against the footer.
func (c *checker) read(number uint64, e pack.Entry, rec schema.PackRecord) error {
	c.one.Lock()
	c.stats.Read++
	c.stats.ReadBytes += uint64(e.Stored)
	c.one.Unlock()
	b := c.buffers.get(int(e.Raw))
	defer c.buffers.put(b)
	err := c.fetch(e.ID, chunkLoc(number, e), rec, b.bytes)
	if errors.Is(err, ErrCorrupt) || badSector(err) {
		c.r.Damage("chunk-data", chunkName(e.ID[:]), "%v", err)
		err = nil
	}
	if under := (*baseError)(nil); errors.As(err, &under) && errors.Is(err, ErrMissing) {
		err = nil // said by the keys, or the chunk is made from something else by now
	}
	if err == nil {
		var same bool
		if same, err = c.partHeader(number, e, rec); err == nil && !same {
			c.r.Damage("part-header", chunkName(e.ID[:]), "the header before it in %s (%s, at %d) is not what the footer says", packName(number), pack.Name(rec.Name).FileName(), e.Offset)
		}
	}
	if errors.Is(err, errGone) || errors.Is(err, ErrUnreachable) {
		return nil // collected since its footer was read; or made from what is only in the bucket
	}
	return err
}

// partHeader looks whether a part says of itself what the footer says of it.
// Nobody reads that until the footer is damaged, and then there is nothing else.
func (s *Store) partHeader(number uint64, e pack.Entry, rec schema.PackRecord) (same bool, err error) {
	name := pack.Name(rec.Name).FileName()
	f, err := s.files.acquire(s.fs.PathJoin(s.dir, name))
	if oserror.IsNotExist(err) {
		return false, errGone
	}
	if err != nil {
		return false, fmt.Errorf("open pack: %w", err)
	}
	defer s.files.release(f)
	want := make([]byte, pack.PartHeaderSize, pack.PartHeaderSize+len(e.Ext))
	pack.PutPartHeader(want, e, rec.Domain)
	want = append(want, e.Ext...)
	got := make([]byte, len(want))
	if err := readStored(f, got, e.Offset); badSector(err) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("read pack %s: %w", name, err)
	}
	return bytes.Equal(got, want), nil
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
