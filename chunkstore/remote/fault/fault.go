// Package fault makes requests to a bucket fail, for tests, in all the ways in
// which they do.
package fault

import (
	"context"
	"errors"
	"io"
	"iter"
	"math/rand/v2"
	"sync"
	"time"

	"stepfs/chunkstore/remote"
)

// Fault is what happens to a request. The zero value: nothing.
type Fault struct {
	Before error         // it is not made, and fails so
	After  error         // it is made, and its answer is lost: it fails so
	Late   error         // it fails so at once, and is made after Delay: see Wait
	Delay  time.Duration // before it is made
	Damage bool          // of what is got one bit is another
}

// Rule says what happens to a request. Verbs are put, put-if-absent, replace,
// get, stat, list and delete; of a list each object is a request of its own.
type Rule func(verb, key string) Fault

// ErrInjected is what faults of Sometimes are made of.
var ErrInjected = errors.New("injected")

// Sometimes has a share of all requests fail for passing reasons, before or
// after they are made. Bytes that are got are not damaged.
func Sometimes(share float64, seed uint64) Rule {
	var mu sync.Mutex
	rnd := rand.New(rand.NewPCG(seed, seed))
	return func(verb, key string) Fault {
		mu.Lock()
		defer mu.Unlock()
		if rnd.Float64() >= share {
			return Fault{}
		}
		err := remote.Fail(verb, key, remote.ErrRetryable, ErrInjected)
		switch rnd.IntN(3) {
		case 0:
			return Fault{Before: err}
		case 1:
			return Fault{Late: err, Delay: time.Duration(rnd.IntN(2000)) * time.Microsecond}
		}
		return Fault{After: err}
	}
}

// Bucket has another fail.
type Bucket struct {
	inner remote.Bucket
	rule  Rule
	late  sync.WaitGroup
}

// New wraps a bucket.
func New(inner remote.Bucket, rule Rule) *Bucket { return &Bucket{inner: inner, rule: rule} }

// Unwrap implements remote.Wrapper.
func (b *Bucket) Unwrap() remote.Bucket { return b.inner }

func (b *Bucket) String() string { return b.inner.String() }

// Wait waits for the requests that are late.
func (b *Bucket) Wait() { b.late.Wait() }

// do makes a request, or does not, as the rule says.
func (b *Bucket) do(ctx context.Context, verb, key string, request func(ctx context.Context, f Fault) error) error {
	f := b.rule(verb, key)
	if f.Before != nil {
		return f.Before
	}
	if f.Late != nil {
		ctx := context.WithoutCancel(ctx) // it has left this machine
		b.late.Go(func() {
			time.Sleep(f.Delay)
			_ = request(ctx, f) // nobody waits for it any more
		})
		return f.Late
	}
	if f.Delay > 0 {
		timer := time.NewTimer(f.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return remote.Ended(ctx, verb, key)
		}
	}
	err := request(ctx, f)
	if f.After != nil {
		return f.After
	}
	return err
}

// Put implements remote.Bucket.
func (b *Bucket) Put(ctx context.Context, key string, c remote.Content) error {
	return b.do(ctx, "put", key, func(ctx context.Context, _ Fault) error { return b.inner.Put(ctx, key, c) })
}

// PutIfAbsent implements remote.Bucket.
func (b *Bucket) PutIfAbsent(ctx context.Context, key string, c remote.Content) (string, error) {
	return change(b, ctx, "put-if-absent", key, func(ctx context.Context) (string, error) { return b.inner.PutIfAbsent(ctx, key, c) })
}

// ReplaceIfMatch implements remote.Bucket.
func (b *Bucket) ReplaceIfMatch(ctx context.Context, key, version string, c remote.Content) (string, error) {
	return change(b, ctx, "replace", key, func(ctx context.Context) (string, error) { return b.inner.ReplaceIfMatch(ctx, key, version, c) })
}

// change makes a request that gives a version, which a late one keeps to itself.
func change(b *Bucket, ctx context.Context, verb, key string, request func(ctx context.Context) (string, error)) (string, error) {
	result := make(chan string, 1)
	err := b.do(ctx, verb, key, func(ctx context.Context, _ Fault) error {
		version, err := request(ctx)
		result <- version
		return err
	})
	if err != nil {
		return "", err
	}
	return <-result, nil
}

// Get implements remote.Bucket.
func (b *Bucket) Get(ctx context.Context, key string, p []byte, off int64) (int, remote.Info, error) {
	type got struct {
		n    int
		info remote.Info
	}
	result := make(chan got, 1)
	err := b.do(ctx, "get", key, func(ctx context.Context, f Fault) error {
		p := p
		if f.Late != nil {
			p = make([]byte, len(p)) // the caller has gone on with its own
		}
		n, info, err := b.inner.Get(ctx, key, p, off)
		if f.Damage && n > 0 {
			p[n/2] ^= 1
		}
		result <- got{n, info}
		return err
	})
	if err != nil && err != io.EOF {
		return 0, remote.Info{}, err
	}
	r := <-result
	return r.n, r.info, err
}

// Stat implements remote.Bucket.
func (b *Bucket) Stat(ctx context.Context, key string) (remote.Info, error) {
	result := make(chan remote.Info, 1)
	err := b.do(ctx, "stat", key, func(ctx context.Context, _ Fault) error {
		info, err := b.inner.Stat(ctx, key)
		result <- info
		return err
	})
	if err != nil {
		return remote.Info{}, err
	}
	return <-result, nil
}

// List implements remote.Bucket.
func (b *Bucket) List(ctx context.Context, prefix, after string) iter.Seq2[remote.Object, error] {
	return func(yield func(remote.Object, error) bool) {
		for o, err := range b.inner.List(ctx, prefix, after) {
			if err == nil {
				err = b.do(ctx, "list", o.Key, func(context.Context, Fault) error { return nil })
			}
			if !yield(o, err) || err != nil {
				return
			}
		}
	}
}

// Delete implements remote.Bucket.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	return b.do(ctx, "delete", key, func(ctx context.Context, _ Fault) error { return b.inner.Delete(ctx, key) })
}
