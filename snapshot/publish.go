package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"stepfs/chunkstore"
	"stepfs/chunkstore/remote"
)

// publisher has sealed steps published, in the background: once one is stored,
// the packs that it needs are uploaded, and then its ref is put, which is what
// publishes it (publish_ref.go). Steps go in the order of their sealing. One that
// can't be published for a reason of its own is tried again later, and keeps
// nothing back; when the bucket can't be reached all wait. Nothing is dropped but
// what is forgotten before its turn comes, and no step is given up for lack of
// room while it waits here.
type publisher struct {
	m     *Manager
	up    *chunkstore.Uploads
	nudge chan struct{} // there may be work
	hurry chan struct{} // somebody waits: what failed is tried again at once

	catalogs *cataloguer
	forgets  *forgetter
	renewer  *renewer

	mu        sync.Mutex
	closed    bool
	barriers  barriers
	failures  uint64
	queue     []*issue       // in the order of their numbers
	since     map[string]int // by scope: steps since one was published
	published int
	last      time.Time // when one was, since the start
	err       error     // why the last attempt failed; nil: it did not
	errAt     time.Time
	next      time.Time // no attempt before
}

// issue is a sealed step that is, or may have to be, published.
type issue struct {
	step
	done    bool // it was, before the start
	decided bool // it has to be
	barrier bool // and it is a barrier, which has no name
}

// slowRetry is how long it is until the next attempt after an error that will
// stay until somebody does something.
const slowRetry = 5 * time.Minute

const (
	renewEvery      = 10 * time.Minute // much less than prune waits for a lease
	releasePatience = 2 * time.Second  // a daemon that ends has no more
)

func newPublisher(m *Manager) *publisher {
	p := &publisher{m: m, up: m.cfg.Uploads, nudge: make(chan struct{}, 1), hurry: make(chan struct{}, 1), since: map[string]int{},
		barriers: barriers{changed: make(chan struct{})}}
	p.catalogs, p.forgets, p.renewer = newCataloguer(p), newForgetter(p), &renewer{m: m}
	return p
}

// load finds what is not published yet.
func (p *publisher) load() error {
	if err := p.loadRefs(); err != nil {
		return err
	}
	all, err := p.m.all()
	if err != nil {
		return err
	}
	for _, i := range all {
		if i.Name == "" || i.Forgotten != nil {
			continue
		}
		u, err := p.m.refUpload(p.m.db, i.Seq)
		if err != nil {
			return err
		}
		done := u != nil
		if done {
			p.published++
		}
		p.queue = append(p.queue, &issue{step: step{seq: i.Seq}, done: done})
	}
	return nil
}

// sealed queues a step, once.
func (p *publisher) sealed(seq uint64) {
	if p.up == nil {
		return
	}
	p.mu.Lock()
	if !slices.ContainsFunc(p.queue, func(s *issue) bool { return s.seq == seq }) {
		p.queue = append(p.queue, &issue{step: step{seq: seq}})
	}
	p.mu.Unlock()
	p.wake()
}

func (p *publisher) wake() {
	select {
	case p.nudge <- struct{}{}:
	default:
	}
}

// waits says whether a snapshot has yet to be published.
func (p *publisher) waits(seq uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.queue, func(s *issue) bool { return s.seq == seq && !s.done })
}

// run publishes what is due until ctx ends.
func (p *publisher) run(ctx context.Context) {
	BeNice()
	var beside sync.WaitGroup
	beside.Go(func() { p.renew(ctx) })
	beside.Go(func() { p.catalogs.run(ctx) })
	beside.Go(func() { p.forgets.run(ctx) })
	defer p.release()
	defer beside.Wait()
	defer p.close()
	var broken retry
	for ctx.Err() == nil {
		more, err := p.pass(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			broken.failed(err)
			if lasting(err) {
				broken.wait = slowRetry
			}
			p.failed(err, broken.wait)
			select {
			case <-ctx.Done():
			case <-p.hurry:
				broken = retry{}
			case <-time.After(broken.wait):
			}
			continue
		case more:
			broken = retry{}
			continue
		}
		select {
		case <-ctx.Done():
		case <-p.nudge:
		case <-p.hurry:
		case <-time.After(p.idle()):
		}
	}
}

// renew keeps the store's lease while nothing is published, and while something
// is that takes long, and looks for what the bucket has lost. What fails here is
// met by the next step, which says so.
func (p *publisher) renew(ctx context.Context) {
	var mended time.Time
	for {
		pause(ctx, renewEvery)
		if ctx.Err() != nil {
			return
		}
		_ = p.up.Renew(ctx)
		if _, attached := p.up.Writer(); !attached || time.Since(mended) < mendEvery {
			continue
		}
		if _, err := p.mend(ctx); !chunkstore.Remotely(err) {
			mended = time.Now()
		}
	}
}

func (p *publisher) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.barriers.tellLocked()
}

// release gives the lease back, if the bucket answers: prune does without it.
func (p *publisher) release() {
	ctx, cancel := context.WithTimeout(context.Background(), releasePatience)
	defer cancel()
	_ = p.up.Release(ctx)
}

// idle is how long there is nothing to be tried again.
func (p *publisher) idle() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := idleTick
	for _, s := range p.queue {
		if s.err != nil {
			d = min(d, max(0, time.Until(s.next)))
		}
	}
	return d
}

// lasting says whether an error stays until somebody does something.
func lasting(err error) bool {
	return !remote.Passing(err) && !errors.Is(err, context.DeadlineExceeded)
}

// failed notes why nothing goes on.
func (p *publisher) failed(err error, wait time.Duration) {
	p.mu.Lock()
	first := p.err == nil || p.err.Error() != err.Error()
	p.failures++
	p.barriers.tellLocked()
	p.err, p.errAt, p.next = err, p.m.cfg.Now(), p.m.cfg.Now().Add(wait)
	p.mu.Unlock()
	if first && lasting(err) {
		p.m.fault("publish", err)
	}
}

// failedAlone notes why one step does not.
func (p *publisher) failedAlone(s *issue, err error) {
	p.mu.Lock()
	first := s.err == nil || s.err.Error() != err.Error()
	s.failed(err)
	if s.barrier {
		p.dropLocked(s.seq)
		p.endBarrierLocked(s.seq, err)
	}
	p.barriers.tellLocked()
	p.mu.Unlock()
	if first {
		p.m.fault("publish", err)
	}
}

// pass publishes one step. An error is one that every other step would meet too.
func (p *publisher) pass(ctx context.Context) (more bool, err error) {
	_, attached := p.up.Writer()
	if err := p.up.Attach(ctx); err != nil {
		return false, err
	}
	if !attached {
		p.m.packs.wake() // now it is known which packs may go
	}
	unknown := p.forgets.some(false)
	if err := p.catchUp(ctx); err != nil {
		return false, err
	}
	if err := p.forgets.settled(unknown); err != nil {
		return false, err
	}
	p.forgets.look()
	p.catalogs.look()
	s, i, err := p.take()
	if s == nil || err != nil {
		return false, err
	}
	p.m.pin(i.Seq, 1) // it does not expire meanwhile
	fresh, err := p.publish(ctx, i)
	p.m.pin(i.Seq, -1)
	if err != nil {
		err = fmt.Errorf("publish %s: %w", i.Path(), err)
	}
	switch {
	case err == nil:
		p.did(s.seq, i.Name == "", fresh)
	case ctx.Err() != nil:
		return false, nil
	case chunkstore.Remotely(err) || errors.Is(err, chunkstore.ErrTaken) || errors.Is(err, chunkstore.ErrOtherBucket):
		return false, err
	default:
		p.failedAlone(s, err)
	}
	return true, nil
}

// did notes that a step is published.
func (p *publisher) did(seq uint64, barrier, fresh bool) {
	p.mu.Lock()
	p.dropLocked(seq)
	p.endBarrierLocked(seq, nil)
	p.barriers.tellLocked()
	p.err = nil
	if fresh && !barrier {
		p.published++
		p.last = p.m.cfg.Now()
	}
	p.mu.Unlock()
	if !fresh || barrier {
		return
	}
	p.catalogs.published()
	p.m.packs.wake()
	if i, err := p.m.Get(seq); err == nil && p.m.cfg.Events.Published != nil {
		p.m.cfg.Events.Published(i)
	}
}

func (p *publisher) dropLocked(seq uint64) {
	p.queue = slices.DeleteFunc(p.queue, func(s *issue) bool { return s.seq == seq })
}

// take gives the oldest step that is to be published and is stored.
func (p *publisher) take() (*issue, Info, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.decideLocked(); err != nil {
		return nil, Info{}, err
	}
	now := time.Now()
	for _, s := range slices.Clone(p.queue) {
		if !s.decided || !s.due(now) {
			continue
		}
		i, err := p.m.Get(s.seq)
		switch {
		case errors.Is(err, ErrNotExist) || err == nil && !s.barrier && (i.Name == "" || i.Forgotten != nil):
			p.dropLocked(s.seq)
			p.endBarrierLocked(s.seq, err)
			p.barriers.tellLocked()
		case err != nil:
			return nil, i, err
		case i.State == StateStored:
			return s, i, nil
		}
	}
	return nil, Info{}, nil
}

// decideLocked asks the policy about steps, in their order: what it says of one
// may depend on those before.
func (p *publisher) decideLocked() error {
	for _, s := range slices.Clone(p.queue) {
		if s.decided {
			continue
		}
		i, err := p.m.Get(s.seq)
		if err != nil && !errors.Is(err, ErrNotExist) {
			return err
		}
		wanted, known := false, true
		if err == nil && i.Forgotten == nil {
			wanted, known = p.m.cfg.Publish.wants(i, s.done, p.since)
		}
		switch {
		case !known:
			return nil
		case !wanted || s.done:
			p.dropLocked(s.seq)
			p.barriers.tellLocked()
		default:
			s.decided = true
		}
	}
	return nil
}
