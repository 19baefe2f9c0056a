// Package pace keeps work in the background from taking what others need.
package pace

import (
	"context"
	"time"
)

const (
	slice = 200 * time.Microsecond // worked between two rests, at least
	share = 2                      // rests last so many times as long as the work
	most  = 100 * time.Millisecond // a rest lasts: somebody may begin to wait for what the work is for
)

// Pace has work rest after each bit of it, for twice as long as that took: it
// then takes a third of one core, and of the locks that it needs, at most.
type Pace struct {
	ctx   context.Context
	on    bool
	since time.Time
}

// New begins a piece of work that ends with ctx. If it is not gentle, it never
// rests.
func New(ctx context.Context, gentle bool) *Pace { return &Pace{ctx, gentle, time.Now()} }

// Skip has what was done until now count for nothing: it had a pace of its own.
func (p *Pace) Skip() { p.since = time.Now() }

// Rest rests if it is time to, and gives ctx's error. The caller holds no lock
// that others wait for.
func (p *Pace) Rest() error {
	worked := time.Since(p.since)
	if !p.on || worked < slice {
		return p.ctx.Err()
	}
	timer := time.NewTimer(min(share*worked, most))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.ctx.Done():
	}
	p.since = time.Now()
	return p.ctx.Err()
}
