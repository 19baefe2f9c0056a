// Package limit bounds what a bucket is asked for: requests at a time, and
// bytes a second up and down.
package limit

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"time"

	"stepfs/chunkstore/remote"
)

// Options are the limits. Zero means none.
type Options struct {
	Requests int   // at a time
	Up, Down int64 // bytes a second
}

// Validate says what is wrong with the options.
func (o Options) Validate() error {
	if o.Requests < 0 || o.Up < 0 || o.Down < 0 {
		return fmt.Errorf("a limit is negative: %d requests, %d bytes/s up, %d down", o.Requests, o.Up, o.Down)
	}
	return nil
}

// Bucket limits another.
type Bucket struct {
	inner    remote.Bucket
	slots    chan struct{} // nil: no limit
	up, down *pace
}

// New wraps a bucket.
func New(inner remote.Bucket, opt Options) *Bucket {
	b := &Bucket{inner: inner, up: newPace(opt.Up), down: newPace(opt.Down)}
	if opt.Requests > 0 {
		b.slots = make(chan struct{}, opt.Requests)
	}
	return b
}

// Unwrap implements remote.Wrapper.
func (b *Bucket) Unwrap() remote.Bucket { return b.inner }

func (b *Bucket) String() string { return b.inner.String() }

// enter waits for a slot.
func (b *Bucket) enter(ctx context.Context, op, key string) error {
	if b.slots == nil {
		return nil
	}
	select {
	case b.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return remote.Ended(ctx, op, key)
	}
}

func (b *Bucket) leave() {
	if b.slots != nil {
		<-b.slots
	}
}

// paced has a content leave at our pace, after its own.
func (b *Bucket) paced(c remote.Content) remote.Content {
	own := c.Pace
	if b.up == nil {
		return c
	}
	c.Pace = func(ctx context.Context, n int) error {
		if own != nil {
			if err := own(ctx, n); err != nil {
				return err
			}
		}
		return b.up.wait(ctx, n)
	}
	return c
}

// Put implements remote.Bucket.
func (b *Bucket) Put(ctx context.Context, key string, c remote.Content) error {
	if err := b.enter(ctx, "put", key); err != nil {
		return err
	}
	defer b.leave()
	return b.inner.Put(ctx, key, b.paced(c))
}

// PutIfAbsent implements remote.Bucket.
func (b *Bucket) PutIfAbsent(ctx context.Context, key string, c remote.Content) (string, error) {
	if err := b.enter(ctx, "put", key); err != nil {
		return "", err
	}
	defer b.leave()
	return b.inner.PutIfAbsent(ctx, key, b.paced(c))
}

// ReplaceIfMatch implements remote.Bucket. Leases are small and urgent: their
// bytes are not counted.
func (b *Bucket) ReplaceIfMatch(ctx context.Context, key, version string, c remote.Content) (string, error) {
	if err := b.enter(ctx, "replace", key); err != nil {
		return "", err
	}
	defer b.leave()
	return b.inner.ReplaceIfMatch(ctx, key, version, c)
}

// Get implements remote.Bucket. All that is asked for is waited for before the
// request is made: a connection that is not read from is cut by some servers.
func (b *Bucket) Get(ctx context.Context, key string, p []byte, off int64) (int, remote.Info, error) {
	if b.down.wait(ctx, len(p)) != nil {
		return 0, remote.Info{}, remote.Ended(ctx, "get", key)
	}
	if err := b.enter(ctx, "get", key); err != nil {
		return 0, remote.Info{}, err
	}
	defer b.leave()
	return b.inner.Get(ctx, key, p, off)
}

// Stat implements remote.Bucket.
func (b *Bucket) Stat(ctx context.Context, key string) (remote.Info, error) {
	if err := b.enter(ctx, "stat", key); err != nil {
		return remote.Info{}, err
	}
	defer b.leave()
	return b.inner.Stat(ctx, key)
}

// List implements remote.Bucket. It has a slot only while it looks for the next
// object: whoever is given one may make requests of its own.
func (b *Bucket) List(ctx context.Context, prefix, after string) iter.Seq2[remote.Object, error] {
	return func(yield func(remote.Object, error) bool) {
		if err := b.enter(ctx, "list", prefix); err != nil {
			yield(remote.Object{}, err)
			return
		}
		inside := true
		defer func() {
			if inside {
				b.leave()
			}
		}()
		for o, err := range b.inner.List(ctx, prefix, after) {
			b.leave()
			inside = false
			if !yield(o, err) || err != nil {
				return
			}
			if err := b.enter(ctx, "list", prefix); err != nil {
				yield(remote.Object{}, err)
				return
			}
			inside = true
		}
	}
}

// Delete implements remote.Bucket.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	if err := b.enter(ctx, "delete", key); err != nil {
		return err
	}
	defer b.leave()
	return b.inner.Delete(ctx, key)
}

// slack is how much of the time in which nothing went may be made up for.
const slack = 100 * time.Millisecond

// pace hands out the time at a rate: whoever wants to move bytes gets the
// moment at which those before have gone.
type pace struct {
	perByte float64 // ns
	mu      struct {
		sync.Mutex
		free time.Time // when everything that was asked for has gone
	}
}

func newPace(rate int64) *pace {
	if rate <= 0 {
		return nil
	}
	return &pace{perByte: float64(time.Second) / float64(rate)}
}

// wait returns when n bytes may go, or with ctx's error.
func (p *pace) wait(ctx context.Context, n int) error {
	if p == nil {
		return ctx.Err()
	}
	p.mu.Lock()
	now := time.Now()
	if earliest := now.Add(-slack); p.mu.free.Before(earliest) {
		p.mu.free = earliest
	}
	at := p.mu.free
	p.mu.free = at.Add(time.Duration(float64(n) * p.perByte))
	p.mu.Unlock()
	if !at.After(now) {
		return ctx.Err()
	}
	timer := time.NewTimer(at.Sub(now))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
