package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/pack"
	"stepfs/chunkstore/remote"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// Needs are the packs that a snapshot needs, in the order in which they were met:
// the store's own, and those of other writers that hold what need not be sent.
// Until Release none of its own is collected, so that each is a file that can be
// put, and what was looked up stays true. It is not safe for concurrent use.
type Needs struct {
	u      *Uploads
	packs  []*neededPack
	known  map[uint64]struct{} // by number
	theirs theirs
	stays  bool // nothing leaves for it
}

// neededPack is a pack that is needed.
type neededPack struct {
	info *packInfo // pinned
	name pack.Name
	rec  schema.PackUpload
	old  bool // its number was given out by an earlier attempt
}

func (n *neededPack) pack() bucket.Pack {
	return bucket.Pack{Name: n.name, Writer: n.rec.Writer, Seq: n.rec.Seq, Size: int64(n.rec.Size)}
}

// Needs begins a list.
func (u *Uploads) Needs() *Needs { return &Needs{u: u, known: make(map[uint64]struct{})} }

// Alone has it need nothing of other writers, from now on.
func (n *Needs) Alone() { n.theirs.off = true }

// mayLeave says ErrOlder for what may not be published.
func (n *Needs) mayLeave(id ID) error {
	if n.stays {
		return nil
	}
	older, err := n.u.s.Older(id)
	if older {
		err = fmt.Errorf("chunk %x: %w", id, ErrOlder)
	}
	return err
}

// movePoll is how often it is asked whether a chunk's pack is still retiring.
const movePoll = 100 * time.Millisecond

// Add adds the packs that it takes to read a chunk: its own and those of all that
// it is made from.
func (n *Needs) Add(ctx context.Context, id ID) error {
	var path []ID
	for below := uint8(pack.MaxDepth + 1); ; {
		if err := n.mayLeave(id); err != nil {
			return err
		}
		if there, err := n.addThere(ctx, id, path); there || err != nil {
			return err
		}
		loc, err := n.pinned(ctx, id)
		if err != nil {
			return err
		}
		link, err := linkOf(loc)
		if err != nil || link.Depth == 0 {
			return err
		}
		if link.Depth >= below {
			return fmt.Errorf("%w: chunk %x is %d deep, below one of %d", ErrCorrupt, id, link.Depth, below)
		}
		path = append(path, id)
		id, below = link.ID, link.Depth
	}
}

// pinned pins the pack in which a chunk lies. One that is being collected is
// waited for: its chunks are elsewhere in a moment. One that is not there twice
// in a row is lost.
func (n *Needs) pinned(ctx context.Context, id ID) (schema.ChunkLoc, error) {
	for lost := uint64(0); ; {
		loc, at, err := n.pin(id)
		switch {
		case err != nil || at == pinned:
			return loc, err
		case at == gone && loc.Pack == lost:
			return loc, fmt.Errorf("%w: pack %d, with chunk %x in it", ErrMissing, loc.Pack, id)
		case at == gone:
			lost = loc.Pack
			continue
		}
		select {
		case <-time.After(movePoll):
		case <-n.u.s.closing:
			return loc, ErrClosed
		case <-ctx.Done():
			return loc, ctx.Err()
		}
	}
}

// pinning is what came of an attempt to pin.
type pinning int

const (
	pinned pinning = iota
	retiring
	gone
)

func (n *Needs) pin(id ID) (loc schema.ChunkLoc, at pinning, err error) {
	s := n.u.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if loc, err = s.getChunk(s.db, id); err != nil {
		if errors.Is(err, state.ErrNotFound) {
			err = fmt.Errorf("%w: chunk %x is not in the index", ErrMissing, id)
		}
		return loc, gone, err
	}
	if _, known := n.known[loc.Pack]; known {
		return loc, pinned, nil
	}
	info := s.mu.table[loc.Pack]
	switch {
	case info == nil:
		return loc, gone, nil
	case info.retiring:
		return loc, retiring, nil
	}
	info.pins++
	n.known[loc.Pack] = struct{}{}
	n.packs = append(n.packs, &neededPack{info: info, name: info.rec.Name, rec: schema.PackUpload{Size: info.rec.Size}})
	return loc, pinned, nil
}

// Release lets the packs go. It may be called more than once.
func (n *Needs) Release() {
	n.u.s.mu.Lock()
	defer n.u.s.mu.Unlock()
	for _, p := range n.packs {
		p.info.pins--
	}
	n.packs = nil
}

// reserve finds out what is known of packs, and gives numbers to those of which
// nothing is, and to those that may not be used any more where they are. It gives
// the first of these numbers; 0: there are none.
func (u *Uploads) reserve(packs []*neededPack) (first uint64, err error) {
	lease := u.attached.Load().lease
	err = u.record(true, func(tx *state.Tx) error {
		var fresh []*neededPack
		for _, p := range packs {
			rec, err := uploadOf(tx, p.name)
			if err != nil {
				return err
			}
			if rec != nil {
				p.rec, p.old = *rec, true
			}
			if rec == nil || !lease.MayUse(p.pack()) {
				if u.s.isAway(p.info.number) { // then what is recorded is all that there is
					return fmt.Errorf("%w: pack %s is only in the bucket, where it is about to be pruned, and was not fetched yet", ErrMissing, p.name.FileName())
				}
				fresh = append(fresh, p)
			}
		}
		if len(fresh) == 0 {
			return nil
		}
		var w bucket.Writer
		if w, first, err = u.numbers(tx, func(a *schema.Attachment) *uint64 { return &a.NextPack }, len(fresh)); err != nil {
			return err
		}
		for k, p := range fresh {
			p.old = false
			p.rec.State, p.rec.Writer, p.rec.Seq = schema.UploadReserved, w, first+uint64(k)
			tx.Put(schema.PackUploadKey(p.name), p.rec.Encode())
		}
		return nil
	})
	return first, err
}

// put has packs arrive. One that can't be put does not keep the others back; a
// bucket that can't be reached does.
func (u *Uploads) put(ctx context.Context, packs []*neededPack) error {
	var g errgroup.Group
	g.SetLimit(uploadWorkers)
	some, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	var first error
	for _, p := range packs {
		if p.rec.State != schema.UploadReserved {
			continue
		}
		g.Go(func() error {
			if some.Err() != nil {
				return nil
			}
			if u.s.cfg.Background != nil {
				u.s.cfg.Background()
			}
			err := u.putPack(some, p)
			if err == nil {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			if first == nil {
				first = err
			}
			if Remotely(err) {
				cancel()
			}
			return nil
		})
	}
	_ = g.Wait() // first has it
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return first
}

// Remotely says whether an error is the bucket's, or its connection's, and not of
// what was to be put.
func Remotely(err error) bool {
	var r *remote.Error
	return errors.As(err, &r) && !slices.ContainsFunc([]error{remote.ErrContent, remote.ErrInvalid},
		func(kind error) bool { return errors.Is(err, kind) })
}
