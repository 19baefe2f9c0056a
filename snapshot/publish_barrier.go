package snapshot

import (
	"context"
	"fmt"

	"stepfs/chunkstore/bucket"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// With Config.DurableRemote a barrier, and a snapshot that somebody asked for,
// return only once the bucket has them. A barrier is then stored and published as
// a step is, at once. One is on its way at a time; who comes meanwhile waits for
// the newest barrier of all that have come, which is the next. When it is there,
// the refs of barriers before it are forgotten: of barriers the bucket keeps the
// newest.
//
// The invariant: whoever is told that a barrier went well finds in the bucket,
// from then on, that snapshot or a later one of a barrier.
//
// What is in the way for a while is waited for. What needs somebody to do
// something is the barrier's error, as is the end of the daemon: the snapshot is
// in the store all the same.

// barriers are those that have to be published.
type barriers struct {
	working uint64         // is being stored and published; 0: none is
	pending uint64         // is next; 0: none is
	reached uint64         // newest that is published
	broken  uint64         // newest that can't be
	why     error          // that is so
	old     []publishedRef // that are forgotten once another one is there; used by run alone
	changed chan struct{}  // closed, and made anew, when any of this or the publisher's state changes
}

// publishedRef is the ref of a barrier.
type publishedRef struct {
	snapshot, seq uint64
	writer        bucket.Writer
}

// tellLocked wakes whoever waits.
func (b *barriers) tellLocked() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// inBucket returns once a barrier, or a later one, is published.
func (p *publisher) inBucket(ctx context.Context, seq uint64) error {
	p.mu.Lock()
	b := &p.barriers
	if b.broken >= seq {
		b.broken = 0 // it is tried again
	}
	if seq > b.reached && seq > b.working && seq > b.pending {
		b.pending = seq
		p.nextBarrierLocked()
	}
	p.mu.Unlock()
	return p.await(ctx, func() (done bool, err error) {
		switch {
		case b.reached >= seq:
			return true, nil
		case b.broken >= seq:
			return true, b.why
		}
		return false, nil
	})
}

// stepInBucket returns once a step is published, if it is to be.
func (p *publisher) stepInBucket(ctx context.Context, seq uint64) error {
	return p.await(ctx, func() (done bool, err error) {
		for _, s := range p.queue {
			if s.seq == seq && !s.done {
				return s.err != nil, s.err
			}
		}
		return true, nil
	})
}

// await returns once done says so, which is asked with mu held.
func (p *publisher) await(ctx context.Context, done func() (bool, error)) error {
	select {
	case p.hurry <- struct{}{}:
	default:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for failures := p.failures; ; {
		ok, err := done()
		switch {
		case ok:
		case p.failures > failures && p.err != nil && lasting(p.err):
			err = p.err
		case p.closed:
			err = ErrClosed
		default:
			changed := p.barriers.changed
			p.mu.Unlock()
			select {
			case <-changed:
			case <-ctx.Done():
			}
			p.mu.Lock()
			if ctx.Err() != nil {
				return ctx.Err()
			}
			continue
		}
		if err != nil {
			err = fmt.Errorf("it is in the store, and not in the bucket: %w", err)
		}
		return err
	}
}

// nextBarrierLocked begins with the barrier that is next, if none is under way.
func (p *publisher) nextBarrierLocked() {
	b := &p.barriers
	if b.working != 0 || b.pending == 0 {
		return
	}
	b.working, b.pending = b.pending, 0
	p.m.pin(b.working, 1)
	p.queue = append([]*issue{{step: step{seq: b.working}, barrier: true, decided: true}}, p.queue...)
	p.m.store.barrier(b.working)
}

// endBarrierLocked ends with the one that is under way. err: it can't be published.
func (p *publisher) endBarrierLocked(seq uint64, err error) {
	b := &p.barriers
	if b.working != seq {
		return
	}
	p.m.pin(seq, -1)
	b.working = 0
	if err == nil {
		b.reached = max(b.reached, seq)
	} else {
		b.broken, b.why = seq, err
	}
	p.nextBarrierLocked()
}

// failBarrier: it can't be stored.
func (p *publisher) failBarrier(seq uint64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dropLocked(seq)
	p.endBarrierLocked(seq, err)
	p.barriers.tellLocked()
}

// forgetBarriers has the bucket forget the barriers before one that is there. One
// that it can't forget now goes with the next.
func (p *publisher) forgetBarriers(ctx context.Context, last *bucket.Ref) {
	b := &p.barriers
	var left []publishedRef
	for _, r := range b.old {
		if r.snapshot == last.Snapshot {
			continue
		}
		if p.forget(ctx, r) != nil {
			left = append(left, r)
		}
	}
	b.old = append(left, publishedRef{last.Snapshot, last.Seq, last.Writer})
}

func (p *publisher) forget(ctx context.Context, r publishedRef) error {
	if err := p.up.Forget(ctx, r.writer, r.seq); err != nil {
		return err
	}
	return p.dropRef(r.snapshot)
}

func (p *publisher) dropRef(snapshot uint64) error {
	_, err := p.m.db.Update(schema.KindUpload, func(tx *state.Tx) error {
		tx.Delete(schema.Numbered(schema.PrefixRefUpload, snapshot))
		return nil
	})
	return err
}

// loadRefs finds the barriers whose refs are there, and what has yet to be
// forgotten.
func (p *publisher) loadRefs() error {
	return p.m.eachRefUpload(func(seq uint64, u schema.RefUpload) {
		switch {
		case u.Forgotten:
			p.forgets.due(seq, u)
		case u.Barrier:
			p.barriers.old = append(p.barriers.old, publishedRef{seq, u.Seq, u.Writer})
			p.barriers.reached = max(p.barriers.reached, seq)
		}
	})
}

// EndWaits has everybody who waits for the bucket be told that it is not there:
// the daemon is about to end.
func (m *Manager) EndWaits() { m.publisher.close() }
