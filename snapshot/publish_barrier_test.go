package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/fault"
	"stepfs/chunkstore/remote/mem"
	"stepfs/snapshot"
)

// durable has a world acknowledge barriers only once they are in a bucket.
func (w *world) durable(b remote.Bucket) {
	w.t.Helper()
	w.publishing(b, snapshot.Publish{Complete: true})
	before := w.conf
	w.conf = func(c *snapshot.Config) { before(c); c.DurableRemote = true }
	w.restart()
}

// newestRef is the newest snapshot that is in a bucket where others publish and
// forget meanwhile.
func newestRef(t testing.TB, b remote.Bucket) (newest uint64) {
	for o, err := range b.List(context.Background(), bucket.RefsPrefix, "") {
		if err != nil {
			t.Error(err)
			return 0
		}
		w, seq, _ := bucket.ParseNumbered(bucket.RefsPrefix, o.Key)
		f, err := bucket.ReadRef(context.Background(), b, w, seq)
		if err == nil {
			newest = max(newest, f.Snapshot)
		} else if !errors.Is(err, bucket.ErrGone) {
			t.Error(err)
		}
	}
	return newest
}

// A barrier that was acknowledged is in the bucket, whole, and takes the place of
// the one before it, also of an earlier daemon's. Steps stay.
func TestDurableRemote(t *testing.T) {
	w := newWorld(t, nil)
	b := mem.New()
	w.durable(b)
	w.put("closed", noise(1, 100<<10))
	var steps []snapshot.Info
	for k := range 4 {
		ino, fh := w.openFile("open", unix.O_TRUNC)
		w.pwrite(ino, fh, noise(int64(k+2), 200<<10), 0)
		seq, err := w.m.Barrier(w.ctx(), "fsync", ino)
		w.ok(err)
		got := refs(t, b)
		if f := got[seq]; f == nil || len(got) != 1+len(steps) {
			t.Fatalf("barrier %d is acknowledged, and there are %d refs", seq, len(got))
		} else {
			same(t, fmt.Sprint("barrier ", k), describe(t, w.tree.At(seq), 1), fromBucket(t, b, f))
		}
		again, err := w.m.Barrier(w.ctx(), "fsync", ino)
		if err != nil || again != seq {
			t.Errorf("the same once more is barrier %d, %v", again, err)
		}
		w.closeFile(ino, fh)
		steps = append(steps, w.step(fmt.Sprint(k)))
		if f := refs(t, b)[steps[k].Seq]; f == nil {
			t.Fatalf("step %d is acknowledged, and not in the bucket", k)
		}
		if k == 1 {
			w.restart()
		}
	}
	// A barrier over a tree that a step shows is that step, which stays.
	ino, fh := w.openFile("open", 0)
	seq, err := w.m.Barrier(w.ctx(), "fsync", ino)
	w.ok(err)
	w.closeFile(ino, fh)
	w.put("closed", noise(99, 100<<10))
	a, err := w.tree.Find("closed")
	w.ok(err)
	last, err := w.m.Barrier(w.ctx(), "fsync", a.Ino)
	w.ok(err)
	got := refs(t, b)
	for _, i := range steps {
		if got[i.Seq] == nil {
			t.Errorf("%s went with a barrier (%d, %d)", i.ID(), seq, last)
		}
	}
	if len(got) != len(steps)+1 || got[last] == nil {
		t.Errorf("%d refs are there, of %d steps and barrier %d", len(got), len(steps), last)
	}
	w.noFaults()
}

// Those who come together share what is published.
func TestDurableRemoteTogether(t *testing.T) {
	w := newWorld(t, nil)
	b := newCounted(mem.New(), nil)
	w.durable(b)
	const writers, rounds = 16, 3
	var g sync.WaitGroup
	for k := range writers {
		g.Go(func() {
			for r := range rounds {
				ino := w.put(fmt.Sprint("f", k), noise(int64(k*100+r), 10<<10))
				seq, err := w.m.Barrier(w.ctx(), "fsync", ino)
				if err != nil {
					t.Error(err)
					return
				}
				newest := newestRef(t, b)
				for tries := 0; newest < seq && tries < 10; tries++ {
					newest = newestRef(t, b) // it was forgotten between the list and the look
				}
				if newest < seq {
					t.Errorf("barrier %d is acknowledged, and the newest that is there is %d", seq, newest)
				}
			}
		})
	}
	g.Wait()
	b.mu.Lock()
	n := 0
	for key, times := range b.refs {
		if strings.HasPrefix(key, "refs/") {
			n += times
		}
	}
	b.mu.Unlock()
	t.Logf("%d barriers, %d refs", writers*rounds, n)
	if n == 0 || n > writers*rounds/2 {
		t.Errorf("%d refs for %d barriers", n, writers*rounds)
	}
}

// A bucket that can't be reached is waited for; what it refuses, and what the end
// of the daemon keeps from it, is the caller's error.
func TestDurableRemoteOffline(t *testing.T) {
	var down atomic.Pointer[error]
	w := newWorld(t, nil)
	tried := make(chan struct{}, 1000)
	b := fault.New(mem.New(), func(verb, key string) fault.Fault {
		if err := down.Load(); err != nil {
			select {
			case tried <- struct{}{}:
			default:
			}
			return fault.Fault{Before: remote.Fail(verb, key, *err, errors.New("it is down"))}
		}
		return fault.Fault{}
	})
	w.durable(b)
	passing, lasting := remote.ErrRetryable, remote.ErrAccess
	sync := func(k int) error {
		_, err := w.m.Barrier(context.Background(), "fsync", w.put("a", noise(int64(k), 100<<10)))
		return err
	}
	w.ok(sync(0))
	down.Store(&lasting)
	if err := sync(1); !errors.Is(err, lasting) || !strings.Contains(err.Error(), "it is in the store, and not in the bucket") {
		t.Errorf("a bucket that refuses: %v", err)
	}
	if _, err := w.m.Snapshot(w.ctx(), "", "s", "mkdir", nil); !errors.Is(err, lasting) {
		t.Errorf("a snapshot, and a bucket that refuses: %v", err)
	}
	down.Store(nil)
	w.ok(sync(2))

	down.Store(&passing)
	ended := make(chan error, 1)
	go func() { ended <- sync(3) }()
	for len(tried) > 0 {
		<-tried
	}
	<-tried
	select {
	case err := <-ended:
		t.Fatalf("it was acknowledged, and nothing was: %v", err)
	default:
	}
	down.Store(nil)
	w.ok(<-ended)

	down.Store(&passing)
	go func() { ended <- sync(4) }()
	<-tried
	w.m.EndWaits()
	if err := <-ended; !errors.Is(err, snapshot.ErrClosed) {
		t.Errorf("the daemon ends: %v", err)
	}
}
