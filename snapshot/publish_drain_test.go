package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/fault"
	"stepfs/chunkstore/remote/mem"
	"stepfs/snapshot"
)

// A drain into the bucket returns once all that is sealed is published: it waits
// for a bucket that can't be reached, and not for one that refuses.
func TestDrainRemote(t *testing.T) {
	w := newWorld(t, nil)
	if err := w.m.DrainRemote(w.ctx(), nil, nil); !errors.Is(err, snapshot.ErrNoBucket) {
		t.Errorf("without a bucket: %v", err)
	}
	var down atomic.Pointer[error]
	b := fault.New(mem.New(), func(verb, key string) fault.Fault {
		if err := down.Load(); err != nil {
			return fault.Fault{Before: remote.Fail(verb, key, *err, errors.New("it is down"))}
		}
		return fault.Fault{}
	})
	w.publishTo(b, snapshot.Publish{})
	var steps []snapshot.Info
	save := func() {
		k := len(steps)
		w.put(fmt.Sprint(k), noise(int64(k), 300<<10))
		steps = append(steps, w.step(fmt.Sprint(k)))
	}
	for range 3 {
		save()
	}
	w.ok(w.m.DrainRemote(w.ctx(), nil, nil))
	w.wantPublished(b, steps...)

	passing, lasting := remote.ErrRetryable, remote.ErrAccess
	down.Store(&passing)
	save()
	waited := make(chan int, 1000)
	ended := make(chan error, 1)
	go func() {
		ended <- w.m.DrainRemote(w.ctx(), nil, func(left int, why error) {
			if errors.Is(why, passing) {
				waited <- left
			}
		})
	}()
	if left := <-waited; left != 1 {
		t.Errorf("%d steps are left", left)
	}
	down.Store(nil)
	w.ok(<-ended)
	w.wantPublished(b, steps...)

	down.Store(&lasting)
	save()
	if err := w.m.DrainRemote(w.ctx(), nil, nil); !errors.Is(err, lasting) {
		t.Errorf("a bucket that refuses: %v", err)
	}
	down.Store(nil)
	begun := time.Now() // it is not tried again for minutes otherwise
	w.ok(w.m.DrainRemote(w.ctx(), nil, nil))
	t.Logf("after a refusal: %v", time.Since(begun))
	w.wantPublished(b, steps...)

	ctx, cancel := context.WithCancel(w.ctx())
	down.Store(&passing)
	save()
	cancel()
	if err := w.m.DrainRemote(ctx, nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}
