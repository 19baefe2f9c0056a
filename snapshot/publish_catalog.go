package snapshot

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync/atomic"

	"stepfs/internal/schema"
)

// A reader of the bucket would have to fetch a ref for each step, so the publisher
// puts a catalog of them behind each bucket.CatalogRefs. Nobody waits for it, and
// nothing depends on it: what a crash leaves out, and what was published before
// there were catalogs, the next daemon catches up on. Barriers are left out: the
// bucket forgets them.

// cataloguer puts catalogs.
type cataloguer struct {
	p     *publisher
	every int64 // refs of a catalog
	nudge chan struct{}
	fresh atomic.Int64 // refs that no catalog is about, as far as is known; at first: enough for one

	// What follows is run's.
	known bool   // last is
	last  uint64 // number of the last ref that a catalog is about
}

func newCataloguer(p *publisher) *cataloguer {
	c := &cataloguer{p: p, every: int64(p.m.cfg.CatalogRefs), nudge: make(chan struct{}, 1)}
	c.fresh.Store(c.every)
	return c
}

// look is called when the bucket was reached.
func (c *cataloguer) look() {
	if c.fresh.Load() < c.every {
		return
	}
	select {
	case c.nudge <- struct{}{}:
	default:
	}
}

// published counts one more ref.
func (c *cataloguer) published() {
	c.fresh.Add(1)
	c.look()
}

// run puts catalogs until ctx ends. That one can't be put is not reported: what is
// in its way is in the way of refs, too.
func (c *cataloguer) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.nudge:
		}
		for broken := (retry{}); c.fresh.Load() >= c.every; {
			c.fresh.Store(0)
			left, err := c.next(ctx)
			if c.fresh.Add(left); err == nil {
				continue
			}
			c.fresh.Add(c.every)
			broken.failed(err)
			if pause(ctx, broken.wait); ctx.Err() != nil {
				return
			}
		}
	}
}

// next puts the next catalog, if there are refs enough for one, and says how many
// are left.
func (c *cataloguer) next(ctx context.Context) (left int64, err error) {
	refs, err := c.refs()
	if err != nil || int64(len(refs)) < c.every {
		return int64(len(refs)), err
	}
	if !c.known {
		if c.last, err = c.p.up.Catalogued(ctx); err == nil {
			c.known = true
			return c.next(ctx)
		}
		return 0, err
	}
	last, err := c.p.up.Catalogue(ctx, c.last+1, refs[:c.every])
	if err != nil {
		return 0, err
	}
	c.last = last
	at, _ := slices.BinarySearch(refs, last+1)
	return int64(len(refs) - at), nil
}

// refs gives the numbers of the steps' refs that no catalog is about.
func (c *cataloguer) refs() (all []uint64, err error) {
	w, ok := c.p.up.Writer()
	if !ok {
		return nil, nil
	}
	err = c.p.m.eachRefUpload(func(_ uint64, u schema.RefUpload) {
		if !u.Barrier && !u.Forgotten && u.Writer == w && u.Seq > c.last {
			all = append(all, u.Seq)
		}
	})
	slices.SortFunc(all, cmp.Compare)
	return all, err
}

// eachRefUpload calls fn for each snapshot that has a ref.
func (m *Manager) eachRefUpload(fn func(seq uint64, u schema.RefUpload)) error {
	it, err := m.db.NewIter([]byte{schema.PrefixRefUpload}, []byte{schema.PrefixRefUpload + 1})
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		seq, err := schema.ParseNumbered(it.Key())
		if err != nil {
			return err
		}
		u, err := schema.DecodeRefUpload(it.Value())
		if err != nil {
			return fmt.Errorf("ref of snapshot %d: %w", seq, err)
		}
		fn(seq, u)
	}
	return it.Error()
}
