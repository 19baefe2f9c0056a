// Package retry makes requests again that failed for a passing reason.
//
// A change whose answer was lost may have happened. So when PutIfAbsent or
// ReplaceIfMatch is made again and meets an object that should not be there, its
// bytes are compared with those that were to be put (remote.Same): if they are
// the same, the earlier attempt has won. That is exact as long as nobody else
// puts the same bytes under the same key, which the contract asks for where it
// matters. An attempt that is still on its way can't do harm later: it finds the
// object that the later attempt made, or a version that is gone.
package retry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"sync"
	"time"

	"stepfs/chunkstore/remote"
)

// Options say how long to try. Zero values mean the defaults.
type Options struct {
	First  time.Duration // the longest wait before the second attempt; doubled for each further one; 200 ms
	Most   time.Duration // the longest wait there is; 20 s
	Within time.Duration // after this no attempt is begun; 2 min
	// Budget is how many attempts may be made again in a row, by all callers
	// together: a store in trouble is not to get many times the requests that it
	// gets when all is well. Each ten successes give one back. 100.
	Budget int
}

func (o Options) withDefaults() Options {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&o.First, 200*time.Millisecond)
	def(&o.Most, 20*time.Second)
	def(&o.Within, 2*time.Minute)
	if o.Budget == 0 {
		o.Budget = 100
	}
	return o
}

// Validate says what is wrong with the options.
func (o Options) Validate() error {
	o = o.withDefaults()
	if o.First < 0 || o.Most < o.First || o.Within < 0 || o.Budget < 0 {
		return fmt.Errorf("retry: waits of %v to %v within %v, budget %d", o.First, o.Most, o.Within, o.Budget)
	}
	return nil
}

// refill is how many successes give one attempt back to the budget.
const refill = 10

// Bucket makes requests of another again.
type Bucket struct {
	inner remote.Bucket
	opt   Options
	mu    struct {
		sync.Mutex
		left int // attempts in the budget, times refill
	}
}

// New wraps a bucket.
func New(inner remote.Bucket, opt Options) *Bucket {
	b := &Bucket{inner: inner, opt: opt.withDefaults()}
	b.mu.left = b.opt.Budget * refill
	return b
}

// Unwrap implements remote.Wrapper.
func (b *Bucket) Unwrap() remote.Bucket { return b.inner }

func (b *Bucket) String() string { return b.inner.String() }

// spend takes an attempt from the budget, if there is one.
func (b *Bucket) spend() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.left < refill {
		return false
	}
	b.mu.left -= refill
	return true
}

func (b *Bucket) earn() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.left = min(b.mu.left+1, b.opt.Budget*refill)
}

// tries are the attempts at one request.
type tries struct {
	b     *Bucket
	ctx   context.Context
	begun time.Time
	made  int           // failed attempts
	wait  time.Duration // the longest before the next
}

func (b *Bucket) begin(ctx context.Context) *tries {
	return &tries{b: b, ctx: ctx, begun: time.Now(), wait: b.opt.First}
}

// again waits and says nil if the request is to be made again after err; else
// it gives what its caller is to be told.
func (t *tries) again(err error) error {
	t.made++
	if !remote.Passing(err) {
		if t.made == 1 {
			return err
		}
		return t.tell(err, "")
	}
	// Half of the wait is fixed and half at random: many who failed together
	// must not come back together, nor at once.
	wait := t.wait/2 + rand.N(t.wait/2+1)
	switch {
	case time.Since(t.begun)+wait > t.b.opt.Within:
		return t.tell(err, "")
	case !t.b.spend():
		return t.tell(err, ", and too many others failed")
	}
	t.wait = min(2*t.wait, t.b.opt.Most)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-t.ctx.Done():
		return fmt.Errorf("%w (%w)", err, t.ctx.Err())
	}
}

func (t *tries) tell(err error, more string) error {
	return fmt.Errorf("%w (tried %d times in %v%s)", err, t.made, time.Since(t.begun).Round(time.Millisecond), more)
}

// do makes a request until it is answered.
func (b *Bucket) do(ctx context.Context, attempt func() error) error {
	t := b.begin(ctx)
	for {
		err := attempt()
		if err == nil {
			b.earn()
			return nil
		}
		if err = t.again(err); err != nil {
			return err
		}
	}
}

// Put implements remote.Bucket.
func (b *Bucket) Put(ctx context.Context, key string, c remote.Content) error {
	return b.do(ctx, func() error { return b.inner.Put(ctx, key, c) })
}

// PutIfAbsent implements remote.Bucket.
func (b *Bucket) PutIfAbsent(ctx context.Context, key string, c remote.Content) (string, error) {
	return b.once(ctx, key, c, remote.ErrExists, func() (string, error) {
		version, err := b.inner.PutIfAbsent(ctx, key, c)
		c.Fresh = false // it may be there now
		return version, err
	})
}

// ReplaceIfMatch implements remote.Bucket.
func (b *Bucket) ReplaceIfMatch(ctx context.Context, key, version string, c remote.Content) (string, error) {
	return b.once(ctx, key, c, remote.ErrChanged, func() (string, error) { return b.inner.ReplaceIfMatch(ctx, key, version, c) })
}

// once makes a change that happens once, and fails with lost when it has
// happened: by somebody else, or by an earlier attempt of ours.
func (b *Bucket) once(ctx context.Context, key string, c remote.Content, lost error, attempt func() (string, error)) (version string, err error) {
	tried := false
	err = b.do(ctx, func() (err error) {
		version, err = attempt()
		if tried && errors.Is(err, lost) {
			info, ours, e := remote.Same(ctx, b, key, c)
			switch {
			case ours:
				version, err = info.Version, nil
			case e != nil && !errors.Is(e, remote.ErrNotExist):
				// It is not known who has won, and that is what is said.
				err = fmt.Errorf("whether this was an earlier attempt of ours is not known: %w", e)
			}
		}
		tried = true
		return err
	})
	return version, err
}

// Get implements remote.Bucket.
func (b *Bucket) Get(ctx context.Context, key string, p []byte, off int64) (n int, info remote.Info, err error) {
	ended := false
	err = b.do(ctx, func() (err error) {
		n, info, err = b.inner.Get(ctx, key, p, off)
		if ended = err == io.EOF; ended {
			return nil
		}
		return err
	})
	if err == nil && ended {
		err = io.EOF
	}
	return n, info, err
}

// Stat implements remote.Bucket.
func (b *Bucket) Stat(ctx context.Context, key string) (info remote.Info, err error) {
	err = b.do(ctx, func() (err error) {
		info, err = b.inner.Stat(ctx, key)
		return err
	})
	return info, err
}

// List implements remote.Bucket. It goes on behind the last object that it gave.
func (b *Bucket) List(ctx context.Context, prefix, after string) iter.Seq2[remote.Object, error] {
	return func(yield func(remote.Object, error) bool) {
		after := after
		for t := b.begin(ctx); ; {
			var failed error
			for o, err := range b.inner.List(ctx, prefix, after) {
				if failed = err; err != nil {
					break
				}
				if !yield(o, nil) {
					return
				}
				after, t = o.Key, b.begin(ctx)
			}
			if failed == nil {
				b.earn()
				return
			}
			if err := t.again(failed); err != nil {
				yield(remote.Object{}, err)
				return
			}
		}
	}
}

// Delete implements remote.Bucket.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	return b.do(ctx, func() error { return b.inner.Delete(ctx, key) })
}
