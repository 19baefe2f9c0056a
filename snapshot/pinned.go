package snapshot

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"stepfs/chunkstore"
)

// A pinned step stays on this disk: what it needs is not evicted, and what is only
// in the bucket is fetched. A pin is a hold of the name PinHold, so it is durable,
// listed and kept from expiring as any hold is.
//
// The invariant: before packs are evicted, those of every pinned step that is stored
// depend on it (chunkstore.Needs). One that is not stored yet is not published, so
// what it alone has can't go; what it shares with others may, and is fetched then.

// PinHold is the name of the hold that keeps a step on this disk.
const PinHold = "pin"

// pins are the pinned steps.
type pins struct {
	m *Manager

	mu   sync.Mutex
	want map[uint64]bool // the snapshots that are pinned; nil: not read yet

	turn chan struct{} // held by who changes needs
	// needs are the packs of those that are stored. Only the goroutine of
	// packCache.run takes one out.
	needs  map[uint64]*chunkstore.Needs
	failed map[uint64]string // why what one needs is not known
}

func newPins(m *Manager) *pins {
	return &pins{m: m, turn: make(chan struct{}, 1), needs: map[uint64]*chunkstore.Needs{}, failed: map[uint64]string{}}
}

// PinStep keeps a step on this disk, and returns once all of it is here.
func (m *Manager) PinStep(ctx context.Context, seq uint64, by Hold) (Info, error) {
	by.Name = PinHold
	i, err := m.Hold(seq, by)
	if err != nil || i.State != StateStored {
		return i, err
	}
	if err := m.Warm(ctx, seq); err != nil {
		return i, fmt.Errorf("%s is pinned, and not all of it is here yet: %w", i.Path(), err)
	}
	return i, nil
}

// set notes that a snapshot is pinned, or is not any more.
func (p *pins) set(seq uint64, pinned bool) {
	p.mu.Lock()
	if p.want != nil {
		if pinned {
			p.want[seq] = true
		} else {
			delete(p.want, seq)
		}
	}
	p.mu.Unlock()
	p.m.packs.wake()
}

// wanted gives the pinned snapshots. They are read once.
func (p *pins) wanted() (map[uint64]bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.want == nil {
		all, err := p.m.all()
		if err != nil {
			return nil, err
		}
		p.want = map[uint64]bool{}
		for _, i := range all {
			if i.Pinned() {
				p.want[i.Seq] = true
			}
		}
	}
	return maps.Clone(p.want), nil
}

// hold has all packs of pinned steps depended on. It comes before packs are evicted.
func (p *pins) hold(ctx context.Context) error {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	want, err := p.wanted()
	if err != nil {
		return err
	}
	for seq := range want {
		if p.needs[seq] != nil {
			continue
		}
		if err := p.holdOne(ctx, seq); err != nil {
			return fmt.Errorf("find what pinned snapshot %d needs: %w", seq, err)
		}
	}
	return nil
}

func (p *pins) holdOne(ctx context.Context, seq uint64) error {
	i, err := p.m.Get(seq)
	if errors.Is(err, ErrNotExist) || err == nil && i.State != StateStored {
		return nil
	}
	if err != nil {
		return err
	}
	needs, err := p.m.needs(ctx, i)
	if err == nil {
		p.needs[seq] = needs
		delete(p.failed, seq)
		return nil
	}
	if !errors.Is(err, chunkstore.ErrCorrupt) && !errors.Is(err, chunkstore.ErrMissing) {
		return err
	}
	if p.failed[seq] != err.Error() { // what is damaged holds nothing else up
		p.failed[seq] = err.Error()
		p.m.fault("find what a pinned snapshot needs", err)
	}
	return nil
}

// free lets go of what is not pinned any more. Only packCache.run calls it.
func (p *pins) free(ctx context.Context) error {
	want, err := p.wanted()
	if err != nil {
		return err
	}
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for seq, needs := range p.needs {
		if !want[seq] {
			needs.Release()
			delete(p.needs, seq)
			delete(p.failed, seq)
		}
	}
	return nil
}

// fetch has all that is pinned be here. Only packCache.run calls it.
func (p *pins) fetch(ctx context.Context) error {
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	all := slices.Collect(maps.Values(p.needs))
	<-p.turn
	for _, needs := range all {
		if err := needs.Fetch(ctx); err != nil {
			return fmt.Errorf("fetch what is pinned: %w", err)
		}
	}
	return nil
}
