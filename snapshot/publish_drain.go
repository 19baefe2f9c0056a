package snapshot

import (
	"context"
	"errors"
	"slices"
	"time"
)

// publishPoll is how often DrainRemote looks.
const publishPoll = 50 * time.Millisecond

// DrainRemote is Drain, and returns once all steps that are sealed by then, and
// are to be published (Config.Publish), are. fn, which may be nil, hears how many
// are left, and what they wait for. A bucket that can't be reached for a while is
// waited for; an error says what needs somebody to do something.
func (m *Manager) DrainRemote(ctx context.Context, stored func(left int64), fn func(left int, why error)) error {
	p := m.publisher
	if p.up == nil {
		return ErrNoBucket
	}
	if err := m.Drain(ctx, stored); err != nil {
		return err
	}
	waited := p.retryAll()
	tick := time.NewTicker(publishPoll)
	defer tick.Stop()
	for {
		left, why, err := p.left(waited)
		if fn != nil {
			fn(left, why)
		}
		if left == 0 || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// retryAll has everything that failed tried again at once, and gives what has yet
// to be published.
func (p *publisher) retryAll() (waiting []uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.queue {
		s.retry = retry{}
		if !s.done {
			waiting = append(waiting, s.seq)
		}
	}
	p.err = nil
	select {
	case p.hurry <- struct{}{}:
	default:
	}
	return waiting
}

// left says how many of some steps have yet to be published, why they are not if
// that is known, and as an error if they can't be as things are.
func (p *publisher) left(of []uint64) (n int, why, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var alone []error
	for _, s := range p.queue {
		if s.done || !slices.Contains(of, s.seq) {
			continue
		}
		n++
		if s.err != nil {
			alone = append(alone, s.err)
		}
	}
	switch why = p.err; {
	case n == 0:
		return 0, nil, nil
	case why != nil && lasting(why):
		return n, why, why
	case len(alone) == n:
		return n, alone[0], errors.Join(alone...)
	case p.closed:
		return n, why, ErrClosed
	}
	return n, why, nil
}
