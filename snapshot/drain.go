package snapshot

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// drain is one call of Drain: everything that cut seq sees is wanted, and what
// lasts of what earlier ones saw.
type drain struct{ seq uint64 }

// Drain takes a barrier and returns once everything that it sees is stored and
// the steps that were sealed before have their trees in packs; what is written
// meanwhile is not waited for. fn, which may be nil, hears after each pass how
// many bytes still wait. An error says what could not be stored.
func (m *Manager) Drain(ctx context.Context, fn func(left int64)) error {
	if m.cfg.ReadOnly {
		return fmt.Errorf("%w: nothing is stored", ErrReadOnly)
	}
	seq, err := m.barrier(ctx, "drain")
	if err != nil {
		return err
	}
	s := m.store
	d := &drain{seq}
	begun, tried := s.begin(d), false
	defer s.end(d)
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.cond.Broadcast()
	})
	defer stop()
	for {
		left, through, err := s.await(ctx, &begun)
		if err != nil {
			return err
		}
		if fn != nil {
			fn(left)
		}
		waits, err := s.waits(seq)
		switch {
		case !waits, through && (tried || err == nil):
			// What still waits after a pass that took all there was, and did not
			// fail, has been appended to since: as the cut saw it, it is stored.
			return err
		case through:
			begun, tried = s.retryAll(), true // it may have failed before this call
		}
	}
}

// await returns after the next pass. through says that a pass behind begun has
// left nothing to do; begun then becomes the newest one.
func (s *storer) await(ctx context.Context, begun *uint64) (left int64, through bool, err error) {
	s.wake()
	s.mu.Lock()
	defer s.mu.Unlock()
	for ended := s.ended; s.ended == ended && !s.closed && ctx.Err() == nil; {
		s.cond.Wait()
	}
	if through = s.done > *begun; through {
		*begun = s.passes
		err = s.lastErr
	}
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case s.closed:
		err = ErrClosed
	}
	return s.left, through, err
}

// waits says whether something that cut seq sees is not stored, or why it
// can't be.
func (s *storer) waits(seq uint64) (waits bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var failed []error
	for _, st := range s.steps {
		if st.seq <= seq {
			waits = true
			failed = append(failed, st.err)
		}
	}
	var g goal
	g.add(seq)
	err = s.m.tree.Pending(func(f Frozen) bool {
		if g.has(f) {
			waits = true
			if r := s.bad[f.Ino()]; r != nil && len(failed) < maxMarks {
				failed = append(failed, r.err)
			}
		}
		return true
	})
	return waits, errors.Join(append(failed, err)...)
}

// begin adds a drain, for which everything that failed is tried again at once.
func (s *storer) begin(d *drain) (begun uint64) {
	s.mu.Lock()
	s.drains[d] = struct{}{}
	s.mu.Unlock()
	return s.retryAll()
}

func (s *storer) end(d *drain) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.drains, d)
}

// retryAll has everything that failed tried again at once. Passes up to begun
// may not have seen that.
func (s *storer) retryAll() (begun uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.steps {
		st.retry = retry{}
	}
	for _, r := range s.bad {
		r.next = time.Time{}
	}
	select {
	case s.hurry <- struct{}{}:
	default:
	}
	return s.passes
}
