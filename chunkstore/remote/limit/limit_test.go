package limit_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/fault"
	"stepfs/chunkstore/remote/limit"
	"stepfs/chunkstore/remote/mem"
	"stepfs/chunkstore/remote/remotetest"
)

func TestConformance(t *testing.T) {
	remotetest.Suite{New: func(*testing.T) remote.Bucket {
		return limit.New(mem.New(), limit.Options{Requests: 3, Up: 1 << 40, Down: 1 << 40})
	}}.Run(t)
}

// No more requests at a time than allowed, and as many.
func TestRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int64
		slow := fault.New(mem.New(), func(verb, key string) fault.Fault {
			n := now.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(time.Second)
			now.Add(-1)
			return fault.Fault{}
		})
		b := limit.New(slow, limit.Options{Requests: 3})
		begun := time.Now()
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { _ = b.Put(t.Context(), "k", remote.Bytes(nil)) })
			wg.Go(func() { _, _ = b.PutIfAbsent(t.Context(), "k", remote.Bytes(nil)) })
			wg.Go(func() { _, _ = b.ReplaceIfMatch(t.Context(), "k", "1", remote.Bytes(nil)) })
			wg.Go(func() { _, _, _ = b.Get(t.Context(), "k", nil, 0) })
			wg.Go(func() { _, _ = b.Stat(t.Context(), "k") })
			wg.Go(func() { _ = b.Delete(t.Context(), "k") })
		}
		wg.Wait()
		if took := time.Since(begun); most.Load() != 3 || took != 8*time.Second {
			t.Errorf("%d at a time, 24 in %v", most.Load(), took)
		}
	})
}

// With one slot, whoever goes through a list can ask for what it names; who
// leaves it, or fails in it, leaves no slot taken.
func TestListHoldsNoSlot(t *testing.T) {
	inner := mem.New()
	fail := false
	b := limit.New(fault.New(inner, func(verb, _ string) fault.Fault {
		if fail && verb == "list" {
			return fault.Fault{Before: remote.ErrRetryable}
		}
		return fault.Fault{}
	}), limit.Options{Requests: 1})
	for _, key := range []string{"a", "b", "c"} {
		if err := b.Put(t.Context(), key, remote.Bytes(nil)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range 3 {
		for o, err := range b.List(ctx, "", "") {
			if err == nil {
				_, err = b.Stat(ctx, o.Key)
			}
			if err != nil && !fail {
				t.Fatal(err)
			}
			if o.Key == "b" {
				break
			}
		}
		fail = !fail
	}
	if _, err := b.Stat(ctx, "a"); err != nil {
		t.Fatal(err)
	}
}

// Bytes go at the rate, whoever sends them, and no pause is made up for.
func TestRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := limit.New(mem.New(), limit.Options{Up: 1 << 20, Down: 2 << 20})
		data := remotetest.Random(1, 1<<20)
		took := func(fn func()) time.Duration {
			begun := time.Now()
			fn()
			return time.Since(begun)
		}
		near := func(what string, got, want time.Duration) {
			if got < want-300*time.Millisecond || got > want+100*time.Millisecond {
				t.Errorf("%s took %v, want %v", what, got, want)
			}
		}
		four := func(fn func(key string) error) func() {
			return func() {
				var wg sync.WaitGroup
				for _, key := range []string{"a", "b", "c", "d"} {
					wg.Go(func() {
						if err := fn(key); err != nil {
							t.Error(err)
						}
					})
				}
				wg.Wait()
			}
		}
		put := four(func(key string) error { return b.Put(t.Context(), key, remote.Bytes(data)) })
		near("4 MiB at 1 MiB/s", took(put), 4*time.Second)
		time.Sleep(time.Hour)
		near("4 MiB after a pause", took(put), 4*time.Second)
		near("4 MiB at 2 MiB/s", took(func() {
			four(func(key string) error {
				for off := int64(0); off < 1<<20; off += 1 << 16 {
					if _, _, err := b.Get(t.Context(), key, make([]byte, 1<<16), off); err != nil {
						return err
					}
				}
				return nil
			})()
		}), 2*time.Second)
	})
}

func TestCancelledWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := limit.New(mem.New(), limit.Options{Up: 1, Down: 1})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.Put(ctx, "k", remote.Bytes(make([]byte, 1000_000))); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if _, _, err := b.Get(ctx, "k", make([]byte, 1000), 0); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

func TestValidate(t *testing.T) {
	for _, o := range []limit.Options{{Requests: -1}, {Up: -1}, {Down: -1}} {
		if o.Validate() == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}
