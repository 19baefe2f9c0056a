package snapshot

import (
	"context"
	"errors"
	"time"

	"stepfs/chunkstore"
)

// packCache keeps what the store takes within a limit, by giving up the files of
// packs that are published (chunkstore/evict.go). Hot copies go first: the evictor
// leaves them what the packs leave of the limit. What is not published stays,
// however much that is.
//
// It works apart from the evictor, since it waits for the bucket, and no writer is
// to wait for that. Only when room is so scarce that snapshots would go next, a
// writer that waits for room has packs go before them.
type packCache struct {
	m     *Manager
	pins  *pins
	nudge chan struct{}

	named bool // nameOld is done; of run's goroutine

	// Of the evictor's goroutine:
	pressed time.Time // when there was nothing to be had for room
}

const (
	cacheTick  = time.Minute // between two looks that nothing asked for
	cacheRetry = time.Minute // after the bucket could not be asked
	pressWait  = 5 * time.Second
)

func newPackCache(m *Manager) *packCache {
	return &packCache{m: m, pins: newPins(m), nudge: make(chan struct{}, 1)}
}

// wake has it look whether it is time to evict.
func (c *packCache) wake() {
	select {
	case c.nudge <- struct{}{}:
	default:
	}
}

// PacksFetched tells that there are more packs here. It does not wait.
func (m *Manager) PacksFetched() { m.packs.wake() }

// Warm fetches the packs that a stored snapshot needs and that are only in the
// bucket. Its tree says which these are.
func (m *Manager) Warm(ctx context.Context, seq uint64) error {
	if err := m.begin(); err != nil {
		return err
	}
	defer m.wg.Done()
	m.pin(seq, 1)
	defer m.pin(seq, -1)
	i, err := m.Get(seq)
	if err != nil {
		return err
	}
	defer m.packs.wake() // once nothing depends on them, they may go
	needs, err := m.needs(ctx, i)
	if err != nil {
		return err
	}
	defer needs.Release()
	return needs.Fetch(ctx)
}

// needs depends on the packs that a stored snapshot needs.
func (m *Manager) needs(ctx context.Context, i Info) (*chunkstore.Needs, error) {
	needs := m.cfg.Chunks.Needs()
	w := treeWalk{ctx: ctx, chunks: m.cfg.Chunks, needs: needs}
	if _, err := w.root(i); err != nil {
		needs.Release()
		return nil, err
	}
	return needs, nil
}

// hotLimit is how many bytes hot copies may take; 0: as many as there is room for.
func (c *packCache) hotLimit() int64 {
	limit, most := c.m.cfg.HotLimit, c.m.cfg.CacheLimit
	if most == 0 {
		return limit
	}
	left := max(1, most-c.m.cfg.Chunks.Local())
	if limit == 0 {
		return left
	}
	return min(limit, left)
}

// run keeps the limit, and what is pinned here, until ctx ends.
func (c *packCache) run(ctx context.Context) {
	BeNice()
	var last string
	for ctx.Err() == nil {
		wait := cacheTick
		if err := c.keep(ctx); err == nil {
			last = ""
		} else if ctx.Err() == nil {
			if wait = cacheRetry; err.Error() != last {
				c.m.fault("evict packs", err)
			}
			last = err.Error()
		}
		select {
		case <-ctx.Done():
		case <-c.nudge:
		case <-time.After(wait):
		}
	}
}

// keep evicts what is too much, and fetches what is pinned.
func (c *packCache) keep(ctx context.Context) error {
	err := c.pins.free(ctx)
	if err == nil {
		err = c.pins.hold(ctx)
	}
	if err != nil {
		return err
	}
	over := c.m.cfg.Chunks.Local() - c.m.cfg.CacheLimit
	if c.m.cfg.CacheLimit > 0 && over > 0 {
		if err = c.nameOld(ctx); err == nil {
			_, err = c.m.cfg.Chunks.Evict(ctx, over)
		}
	}
	return errors.Join(err, c.pins.fetch(ctx))
}

// press gives up packs for a writer that waits for so much room. A bucket that does
// not answer is not asked again for a while: then something else has to go.
func (c *packCache) press(ctx context.Context, need uint64) (freed bool) {
	if c.m.cfg.Uploads == nil || time.Since(c.pressed) < cacheRetry {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, pressWait)
	defer cancel()
	n, err := c.evict(ctx, int64(need))
	if err != nil || n == 0 {
		c.pressed = time.Now()
	}
	return n > 0
}

// evict gives up packs that are not pinned.
func (c *packCache) evict(ctx context.Context, need int64) (freed int64, err error) {
	if err := c.pins.hold(ctx); err != nil {
		return 0, err
	}
	return c.m.cfg.Chunks.Evict(ctx, need)
}
