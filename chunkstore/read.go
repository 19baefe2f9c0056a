package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/errors/oserror"

	"stepfs/chunkstore/pack"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// ReadAt fills dst with the bytes of chunk id from off on. rawLen is the
// chunk's length as its ref says. Every byte comes from a chunk whose name was
// checked after decoding; after an error dst is of no use. The errors that
// matter are ErrCorrupt and ErrMissing.
func (s *Store) ReadAt(ctx context.Context, id ID, rawLen uint32, dst []byte, off int) error {
	if off < 0 || off > int(rawLen) || len(dst) > int(rawLen)-off {
		return fmt.Errorf("%w: %d bytes at %d of %d", ErrRange, len(dst), off, rawLen)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.counters.read.Add(uint64(len(dst)))
	if e := s.cache.peek(id); e != nil {
		defer s.cache.release(e)
		s.counters.cacheHits.Add(1)
		return copyOut(id, dst, e.buf.bytes, off, rawLen)
	}
	release, err := s.bring(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	if len(dst) == int(rawLen) {
		done, err := s.readWhole(id, dst)
		if done || err != nil {
			return err
		}
	}
	e, err := s.cache.acquire(ctx, id, func() (*buffer, error) { return s.load(id, rawLen) })
	if err != nil {
		return err
	}
	defer s.cache.release(e)
	return copyOut(id, dst, e.buf.bytes, off, rawLen)
}

// copyOut checks against the ref's length too: a ref with the right name and
// the wrong length is damage elsewhere.
func copyOut(id ID, dst, plain []byte, off int, rawLen uint32) error {
	if len(plain) != int(rawLen) {
		return fmt.Errorf("%w: chunk %x has %d bytes, its ref says %d", ErrCorrupt, id, len(plain), rawLen)
	}
	copy(dst, plain[off:])
	return nil
}

// readWhole reads a raw chunk that is wanted whole straight into the caller's
// memory and checks it there. done is false when it is encoded.
func (s *Store) readWhole(id ID, dst []byte) (done bool, err error) {
	err = s.reading(id, uint32(len(dst)), func(loc schema.ChunkLoc, rec schema.PackRecord) error {
		if done = pack.Encoding(loc.Enc) == pack.EncRaw; !done {
			return nil
		}
		s.counters.loads.Add(1)
		return s.fetchAny(true, id, loc, rec, dst)
	})
	return done, err
}

// load reads, decodes and verifies a chunk into a buffer of the pool.
func (s *Store) load(id ID, rawLen uint32) (*buffer, error) {
	s.loads <- struct{}{}
	defer func() { <-s.loads }()
	return s.whole(id, rawLen, pack.MaxDepth+1, true)
}

// whole is load without a turn in the queue, of a chunk that is less deep than
// below. One load of a delta has two chunks in memory, however deep it is.
// Unless sure, the chunk is not held against its name: that of what is made from
// it will do, and only if that is wrong all are.
func (s *Store) whole(id ID, rawLen uint32, below uint8, sure bool) (*buffer, error) {
	s.counters.loads.Add(1)
	b := s.buffers.get(int(min(rawLen, pack.MaxRaw)))
	err := s.reading(id, rawLen, func(loc schema.ChunkLoc, rec schema.PackRecord) error {
		if link, err := linkOf(loc); err != nil || link.Depth >= below {
			return fmt.Errorf("%w: chunk %x is made from one that is %d deep, at a depth of %d", ErrCorrupt, id, link.Depth, below)
		}
		return s.fetchAny(sure, id, loc, rec, b.bytes)
	})
	if err != nil {
		s.buffers.put(b)
		return nil, err
	}
	return b, nil
}

// under gives the bytes from which a chunk is made where it lies; nil: none.
func (s *Store) under(id ID, loc schema.ChunkLoc, sure bool) (*buffer, error) {
	link, err := linkOf(loc)
	if err != nil || link.Depth == 0 {
		return nil, err
	}
	return s.baseBytes(id, link, loc.Raw, sure)
}

// baseBytes gives what a delta of rawLen bytes is from, of its base. The cache is
// asked, but neither filled nor waited for: whoever loads holds a place in the
// queue that the one who is waited for may need.
func (s *Store) baseBytes(id ID, link pack.Base, rawLen uint32, sure bool) (b *buffer, err error) {
	n, size := link.BaseRaw(rawLen), link.Size(rawLen)
	if size > pack.MaxRaw {
		return nil, &baseError{id, fmt.Errorf("%w: %d bytes of a base", ErrCorrupt, size)}
	}
	if e := s.cache.peek(link.ID); e != nil {
		defer s.cache.release(e)
		if len(e.buf.bytes) != int(n) {
			return nil, &baseError{id, copyOut(link.ID, nil, e.buf.bytes, 0, n)}
		}
		b = s.buffers.get(size)
		link.Take(b.bytes, e.buf.bytes)
		return b, nil
	}
	if b, err = s.whole(link.ID, n, link.Depth, sure); err != nil {
		return nil, &baseError{id, err}
	}
	return s.window(link, b, rawLen), nil
}

// baseError says that a chunk can't be decoded because of its base, which is no
// fault of its own bytes.
type baseError struct {
	id  ID
	err error
}

func (e *baseError) Error() string { return fmt.Sprintf("chunk %x needs its base: %v", e.id, e.err) }
func (e *baseError) Unwrap() error { return e.err }

// errGone says that the pack's file is not there.
var errGone = errors.New("no such pack file")

// reading calls use with where a chunk lies, and again when the pack or the base
// has gone meanwhile because the chunk was moved to another. Every move is to a
// pack with a new number, so what is found twice in a row is lost.
func (s *Store) reading(id ID, rawLen uint32, use func(schema.ChunkLoc, schema.PackRecord) error) error {
	last, missed := uint64(0), error(nil)
	for {
		loc, rec, err := s.find(id, rawLen)
		if err != nil {
			return err
		}
		var under *baseError
		if loc.Pack == last && errors.As(missed, &under) {
			return s.report(missed)
		}
		if loc.Pack == last {
			s.damage.losePack(loc.Pack)
			return s.report(fmt.Errorf("%w: pack %s, with chunk %x in it", ErrMissing, pack.Name(rec.Name).FileName(), id))
		}
		missed = use(loc, rec)
		if !errors.Is(missed, errGone) && !errors.Is(missed, ErrMissing) {
			return missed
		}
		last = loc.Pack
	}
}

// find locates a chunk for reading: the pack may be retiring.
func (s *Store) find(id ID, rawLen uint32) (schema.ChunkLoc, schema.PackRecord, error) {
	loc, rec, err := s.locate(id)
	if errors.Is(err, state.ErrNotFound) {
		return loc, rec, fmt.Errorf("%w: chunk %x is not in the index", ErrMissing, id)
	}
	if err != nil {
		return loc, rec, err
	}
	if loc.Raw != rawLen || loc.Raw > pack.MaxRaw || loc.Stored > pack.MaxRaw {
		return loc, rec, fmt.Errorf("%w: chunk %x has %d bytes (stored %d), its ref says %d", ErrCorrupt, id, loc.Raw, loc.Stored, rawLen)
	}
	return loc, rec, nil
}

var errWrongName = errors.New("its bytes do not have its name")

// fetch fills dst, which is as long as the chunk, and verifies it.
func (s *Store) fetch(id ID, loc schema.ChunkLoc, rec schema.PackRecord, dst []byte) error {
	return s.fetchIf(true, id, loc, rec, dst)
}

// fetchIf is fetch that verifies only if sure.
func (s *Store) fetchIf(sure bool, id ID, loc schema.ChunkLoc, rec schema.PackRecord, dst []byte) error {
	name := pack.Name(rec.Name).FileName()
	f, release, err := s.stored(id, loc, rec)
	if err != nil {
		return err
	}
	defer release()
	err = s.plain(f, id, loc, dst)
	if err == nil && (!sure || s.named(dst, id)) {
		return nil
	}
	if err == nil {
		err = errWrongName
	}
	var below *baseError
	if errors.As(err, &below) {
		return err
	}
	b, berr := s.under(id, loc, true)
	if s.buffers.put(b); errors.As(berr, &below) {
		return berr // that is whose fault it is
	}
	var io *ioError
	if errors.As(err, &io) {
		err = fmt.Errorf("read pack %s, chunk %x at %d: %w", name, id, loc.Offset, io.err)
		if badSector(io.err) {
			s.damage.badChunk(id)
			return s.report(err)
		}
		return err
	}
	s.damage.badChunk(id)
	return s.report(fmt.Errorf("%w: pack %s, chunk %x at %d: %w", ErrCorrupt, name, id, loc.Offset, err))
}

// fetchAny is fetchIf for readers: what is damaged here they get from the bucket, if
// that has it.
func (s *Store) fetchAny(sure bool, id ID, loc schema.ChunkLoc, rec schema.PackRecord, dst []byte) error {
	err := s.fetchIf(sure, id, loc, rec, dst)
	if errors.Is(err, ErrCorrupt) && s.plainFar(id, loc, dst) {
		return nil
	}
	return err
}

func (s *Store) plainFar(id ID, loc schema.ChunkLoc, dst []byte) bool {
	if at, err := s.uploaded(loc.Pack); at == nil || err != nil || s.far.open.Load() == nil {
		return false
	}
	s.far.kept.drop(loc.Pack) // it may be that which is wrong
	r, release, err := s.far.take(s.far.spans.ctx, id, loc)
	if err != nil {
		return false
	}
	defer release()
	return s.plain(r, id, loc, dst) == nil && s.named(dst, id)
}

// stored gives a pack where a chunk lies in it: the file, or, when that is not
// here, what the bucket has of it. errGone: neither.
func (s *Store) stored(id ID, loc schema.ChunkLoc, rec schema.PackRecord) (r io.ReaderAt, release func(), err error) {
	path := s.fs.PathJoin(s.dir, pack.Name(rec.Name).FileName())
	f, err := s.files.acquire(path)
	if oserror.IsNotExist(err) && !s.isAway(loc.Pack) {
		f, err = s.files.acquire(path) // it may just have come back
	}
	if err == nil {
		s.touch(loc.Pack)
		return f, func() { s.files.release(f) }, nil
	}
	if !oserror.IsNotExist(err) {
		return nil, nil, fmt.Errorf("open pack: %w", err)
	}
	if !s.isAway(loc.Pack) && !s.goneButUploaded(loc.Pack, rec) {
		return nil, nil, errGone
	}
	r, release, err = s.far.take(s.far.spans.ctx, id, loc)
	if err != nil && !errors.Is(err, errGone) {
		err = s.farError(id, err)
	}
	return r, release, err
}

// goneButUploaded says whether a file that should be here is in the bucket. Then it
// is read there, until it has been fetched.
func (s *Store) goneButUploaded(number uint64, rec schema.PackRecord) bool {
	at, err := s.uploaded(number)
	if at == nil || err != nil || at.Name != pack.Name(rec.Name) {
		return false
	}
	s.mu.Lock()
	info := s.mu.table[number]
	s.mu.Unlock()
	if info == nil {
		return false
	}
	s.far.some.Store(true)
	s.setAway(info, true)
	s.damage.badFile(number)
	_ = s.report(fmt.Errorf("%w: pack %s; the bucket has it", ErrMissing, at.Name.FileName()))
	return true
}

// plain reads a payload and decodes it into dst.
func (s *Store) plain(f io.ReaderAt, id ID, loc schema.ChunkLoc, dst []byte) error {
	if pack.Encoding(loc.Enc) == pack.EncRaw {
		if int(loc.Stored) != len(dst) {
			return fmt.Errorf("raw chunk of %d bytes stored in %d", len(dst), loc.Stored)
		}
		return readStored(f, dst, loc.Offset)
	}
	under, err := s.under(id, loc, false) // first: payloads of a whole chain are not held
	if err != nil {
		return err
	}
	defer s.buffers.put(under)
	b := s.buffers.get(int(loc.Stored))
	defer s.buffers.put(b)
	if err := readStored(f, b.bytes, loc.Offset); err != nil {
		return err
	}
	return s.decode(pack.Encoding(loc.Enc), b.bytes, dst, under.content())
}

// ioError is a failure of the disk, which says nothing about the bytes.
type ioError struct{ err error }

func (e *ioError) Error() string { return e.err.Error() }
func (e *ioError) Unwrap() error { return e.err }

func readStored(f io.ReaderAt, b []byte, off int64) error {
	n, err := f.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return fmt.Errorf("the pack ends after %d of %d bytes", n, len(b))
	}
	return &ioError{err}
}

// report tells the owner about damage and gives the error back.
func (s *Store) report(err error) error {
	if s.cfg.Events.Damage != nil {
		s.cfg.Events.Damage(err)
	}
	return err
}
