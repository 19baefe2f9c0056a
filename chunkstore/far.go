package chunkstore

import (
	"cmp"
	"container/list"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/errors/oserror"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/pack"
	"stepfs/chunkstore/remote"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// A pack is away when its file is not here and the bucket has it (evict.go says how
// that comes). Its chunks are read from there: in ranges, ahead of readers, as those
// of a Published are, and with the same checks (far_read.go). Whether a file is here is asked
// first, each time: so one that came back is read.

// ErrUnreachable says that a chunk lies in the bucket alone, and that this can't be
// reached. It says nothing about the chunk.
var ErrUnreachable = errors.New("the data is only in the bucket, which can't be reached")

const (
	farAhead = 64 << 20 // encoded bytes that are fetched and not read yet
	farPacks = 256      // whose contents are kept in memory
	farRun   = 8        // chunks read one after the other until all of the read-ahead is used
	farReach = 32 << 20 // the most that is read ahead of one reader

	farPause   = 3 * time.Second
	farWait    = time.Minute // the longest that a reader waits for a range: a directory that hangs says nothing
	farSilence = time.Minute // the owner is told so often that the bucket can't be reached
)

// far reads what is away.
type far struct {
	s     *Store
	spans *spans
	kept  kept
	some  atomic.Bool // a pack is, or was, away
	open  atomic.Pointer[OpenBucket]

	mu     sync.Mutex
	bucket remote.Bucket // nil: not opened yet
	packs  map[uint64]*list.Element
	order  list.List // of *farPack, the one that was asked for last in front
	said   time.Time
	down   error         // the bucket was given up,
	since  time.Time     // then,
	pause  time.Duration // and is not asked for so long
	wait   time.Duration // that a reader waits
}

// farPack is where the chunks of a pack lie, which is away.
type farPack struct {
	number uint64
	at     bucket.Pack
	parts  []located // by offset
}

func (f *far) init(s *Store) {
	f.s, f.packs, f.pause, f.wait = s, make(map[uint64]*list.Element), farPause, farWait
	f.kept.s, f.kept.packs = s, make(map[uint64]*keptPack)
	f.spans = newSpans(farAhead, f.fetch, s.buffers.put)
}

func (f *far) close() {
	f.spans.close()
	f.kept.close()
}

// reset forgets what packs have which number.
func (f *far) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.packs)
	f.order.Init()
}

// ReadFrom says where the bucket is that has what is away. It is opened when it is
// needed, and asked as often as open has it.
func (s *Store) ReadFrom(open OpenBucket) { s.far.open.Store(&open) }

// from gives the bucket.
func (f *far) from(ctx context.Context) (remote.Bucket, error) {
	open := f.open.Load()
	if open == nil {
		return nil, fmt.Errorf("%w: the store was opened without it (stepfs mount --remote)", ErrUnreachable)
	}
	f.mu.Lock()
	b := f.bucket
	f.mu.Unlock()
	if b != nil {
		return b, nil
	}
	b, err := (*open)(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	if err := f.s.isOurs(ctx, b); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bucket = b
	return b, nil
}

// isOurs says whether a bucket is the one that the store uploads to. At a place
// where there is none, or another, nothing is missing.
func (s *Store) isOurs(ctx context.Context, b remote.Bucket) error {
	at, err := s.Attachment()
	if err != nil {
		return err
	}
	cfg, err := bucket.Read(ctx, b)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %s: %w", ErrUnreachable, b, err)
	case at == nil && cfg.Key != s.cfg.Key: // of a store that was made again from packs, that is all that is known
		return fmt.Errorf("%w: %s is a bucket of other stores", ErrUnreachable, b)
	case at != nil && cfg.ID != hex.EncodeToString(at.Bucket[:]):
		return fmt.Errorf("%w: %s is bucket %s, the store's is %x", ErrUnreachable, b, cfg.ID, at.Bucket)
	}
	return nil
}

// failed says what an error of the bucket means for what was asked for. Something
// that is not there is missing only if the bucket is.
func (f *far) failed(ctx context.Context, err error) error {
	if errors.Is(err, ErrUnreachable) {
		return err // what is not there is then the bucket, not what is in it
	}
	kind := kindOf(err)
	if kind == ErrMissing {
		f.mu.Lock()
		b := f.bucket
		f.mu.Unlock()
		if b != nil {
			if lost := f.s.isOurs(ctx, b); lost != nil {
				return lost
			}
		}
	}
	if kind == nil && Remotely(err) {
		kind = ErrUnreachable
	}
	if kind == nil {
		return err
	}
	return fmt.Errorf("%w: %w", kind, err)
}

// isAway says whether a pack is.
func (s *Store) isAway(number uint64) bool {
	if !s.far.some.Load() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	info := s.mu.table[number]
	return info != nil && info.away
}

// Here says whether a chunk can be read without the bucket: it, and all that it is
// made from, lies in packs that are here.
func (s *Store) Here(id [32]byte) (bool, error) {
	if !s.far.some.Load() {
		return true, nil
	}
	for below := uint8(pack.MaxDepth + 1); ; {
		loc, err := s.getChunk(s.db, id)
		if err != nil || s.isAway(loc.Pack) {
			return false, err
		}
		link, err := linkOf(loc)
		if err != nil || link.Depth == 0 || link.Depth >= below {
			return true, err
		}
		id, below = link.ID, link.Depth
	}
}

// pack gives what is known of a pack that is away.
func (f *far) pack(ctx context.Context, number uint64) (*farPack, error) {
	f.mu.Lock()
	if el := f.packs[number]; el != nil {
		f.order.MoveToFront(el)
		f.mu.Unlock()
		return el.Value.(*farPack), nil
	}
	f.mu.Unlock()
	p, err := f.look(ctx, number)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if el := f.packs[number]; el != nil { // somebody else did so, too
		return el.Value.(*farPack), nil
	}
	f.packs[number] = f.order.PushFront(p)
	if f.order.Len() > farPacks {
		delete(f.packs, f.order.Remove(f.order.Back()).(*farPack).number)
	}
	return p, nil
}

// look reads where a pack is, and its footer: that of its stub, or, if there is
// none, that of the bucket.
func (f *far) look(ctx context.Context, number uint64) (*farPack, error) {
	if number > 1<<32-1 {
		return nil, fmt.Errorf("%w: pack %d", ErrMissing, number) // parts have no room for it
	}
	s := f.s
	rec, err := getPack(s.db, number)
	if errors.Is(err, state.ErrNotFound) {
		return nil, errGone // it was collected
	}
	if err != nil {
		return nil, err
	}
	up, err := uploadOf(s.db, rec.Name)
	if err != nil {
		return nil, err
	}
	if up == nil || up.State < schema.UploadArrived {
		return nil, errGone
	}
	p := &farPack{number: number, at: bucket.Pack{Name: rec.Name, Writer: up.Writer, Seq: up.Seq, Size: int64(up.Size)}}
	foot, err := s.readFooter(rec.Name)
	if oserror.IsNotExist(err) || errors.Is(err, pack.ErrFormat) {
		var b remote.Bucket
		if b, err = f.from(ctx); err == nil {
			foot, err = bucket.ReadFooter(ctx, b, p.at)
		}
		if err != nil {
			return nil, f.failed(ctx, err)
		}
	}
	if err != nil {
		return nil, err
	}
	p.parts = make([]located, len(foot.Entries))
	for k, e := range foot.Entries {
		p.parts[k] = located{id: e.ID, off: e.PayloadOffset(), crc: e.CRC, pack: uint32(number), base: -1, enc: e.Enc, stored: e.Stored, raw: e.Raw}
	}
	return p, nil
}

// find gives the place of a chunk among the parts.
func (p *farPack) find(id ID, loc schema.ChunkLoc) (int, error) {
	// By index: readers write into parts (located.taken), so none is copied.
	k, ok := sort.Find(len(p.parts), func(k int) int { return cmp.Compare(loc.Offset, p.parts[k].off) })
	if !ok || p.parts[k].id != id || p.parts[k].stored != loc.Stored || p.parts[k].raw != loc.Raw {
		return 0, fmt.Errorf("%w: chunk %x is not at %d in pack %s", ErrCorrupt, id, loc.Offset, p.at.Name.FileName())
	}
	return k, nil
}

// fetch gets a range of a pack.
func (f *far) fetch(ctx context.Context, sp *span) error {
	if err := f.isDown(); err != nil {
		return err
	}
	p, err := f.pack(ctx, uint64(sp.pack))
	if err != nil {
		return err
	}
	b, err := f.from(ctx)
	if err == nil {
		err = f.s.fetchSpan(ctx, b, p.at.Key(), sp)
	}
	if err == nil {
		f.kept.put(p, sp)
		return nil
	}
	if err = f.failed(ctx, err); errors.Is(err, ErrUnreachable) && ctx.Err() == nil {
		f.giveUp(err)
	}
	return err
}
