package published

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote"
)

// Catalog is what is published in a bucket, as of its last Refresh. A ref never
// changes, so each is read once.
type Catalog struct {
	bucket remote.Bucket

	refresh sync.Mutex // one Refresh at a time
	known   map[refKey]*Step
	now     atomic.Pointer[catalogue]
}

// catalogue is a state of it, which does not change.
type catalogue struct {
	steps map[refKey]*Step
	names *Names
}

// NewCatalog makes one that is empty until it is refreshed.
func NewCatalog(b remote.Bucket) *Catalog {
	c := &Catalog{bucket: b, known: map[refKey]*Step{}}
	c.now.Store(&catalogue{names: newNames(nil)})
	return c
}

// Refresh looks for what was published and what was forgotten since the last
// time. It names the refs that are there and can't be read, which are left out.
// If it fails, what was known stays.
//
// A list may be behind (it is an answer of a server): what is not in it any more
// is asked for by name before it is gone.
func (c *Catalog) Refresh(ctx context.Context) (unreadable []error, err error) {
	c.refresh.Lock()
	defer c.refresh.Unlock()
	var mu sync.Mutex // guards known against the calls of eachRef, and unreadable
	listed := map[refKey]bool{}
	err = eachRef(ctx, c.bucket, func(k refKey) bool {
		mu.Lock()
		defer mu.Unlock()
		listed[k] = true
		return c.known[k] == nil
	}, func(f *bucket.Ref, err error) {
		var s Step
		if err == nil {
			s, err = stepOf(f)
		}
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			unreadable = append(unreadable, err)
			return
		}
		c.known[refKey{s.Writer, s.Ref}] = &s
	})
	if err != nil {
		return nil, fmt.Errorf("list what is published: %w", err)
	}
	if err := c.dropGone(ctx, listed); err != nil {
		return nil, fmt.Errorf("look for what is not listed any more: %w", err)
	}
	slices.SortFunc(unreadable, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	if old := c.now.Load().steps; old == nil || !maps.Equal(old, c.known) {
		steps := maps.Clone(c.known)
		c.now.Store(&catalogue{steps, newNames(slices.Collect(maps.Values(steps)))})
	}
	return unreadable, nil
}

// dropGone forgets the refs that are not there.
func (c *Catalog) dropGone(ctx context.Context, listed map[refKey]bool) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(refsAtOnce)
	var mu sync.Mutex
	var gone []refKey
	for k, s := range c.known {
		if listed[k] {
			continue
		}
		g.Go(func() error {
			there, err := isThere(ctx, c.bucket, s)
			if err == nil && !there {
				mu.Lock()
				gone = append(gone, k)
				mu.Unlock()
			}
			return err
		})
	}
	err := g.Wait()
	for _, k := range gone {
		delete(c.known, k)
	}
	return err
}

// isThere asks for a step's ref, in whose place there is a tombstone once it was
// forgotten.
func isThere(ctx context.Context, b remote.Bucket, s *Step) (bool, error) {
	info, err := b.Stat(ctx, bucket.RefKey(s.Writer, s.Ref))
	if errors.Is(err, remote.ErrNotExist) {
		return false, nil
	}
	return err == nil && info.Size != bucket.GoneSize, err
}

// Names is what there is, as a mount shows it.
func (c *Catalog) Names() *Names { return c.now.Load().names }

// Has says whether a step is published.
func (c *Catalog) Has(s *Step) bool { return c.now.Load().steps[refKey{s.Writer, s.Ref}] != nil }
