package snapshot_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/bucket/prune"
	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/fault"
	"stepfs/chunkstore/remote/mem"
	"stepfs/snapshot"
)

// forgetAndPrune forgets a published snapshot, and prunes with no patience, as
// another machine does.
func forgetAndPrune(t testing.TB, b remote.Bucket, i snapshot.Info) {
	t.Helper()
	if f := refs(t, b)[i.Seq]; f == nil {
		t.Errorf("%s is not published", i.ID())
	} else if err := prune.Forget(t.Context(), b, f.Writer, f.Seq); err != nil {
		t.Error(err)
	}
	for range 3 {
		if _, err := prune.Run(t.Context(), b, prune.Options{}); err != nil {
			t.Error(err)
		}
	}
}

// packsIn counts the packs of a bucket.
func packsIn(t testing.TB, b remote.Bucket) (n int) {
	t.Helper()
	for _, err := range b.List(t.Context(), bucket.PacksPrefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

// What was pruned in the bucket is not relied on: a step that needs it sends it
// again, under other numbers.
func TestPublishPruned(t *testing.T) {
	w := newWorld(t, nil)
	b := newCounted(mem.New(), nil)
	w.publishTo(b, snapshot.Publish{})
	w.put("a", noise(1, 1<<20))
	one := w.step("1")
	w.published()
	before := packsIn(t, b)
	forgetAndPrune(t, b, one)
	if n := packsIn(t, b); n != 0 {
		t.Fatalf("of %d packs that nobody needs %d are left", before, n)
	}
	two := w.step("2")
	w.published()
	if got := refs(t, b)[two.Seq]; len(refs(t, b)) != 1 || got == nil || packsIn(t, b) != len(got.Packs) {
		t.Fatalf("%v is published, and %d packs are there", got, packsIn(t, b))
	}
	same(t, "published 2", describe(t, w.tree.At(two.Seq), two.ScopeIno), fromBucket(t, b, refs(t, b)[two.Seq]))
	w.noFaults()
}

// The same in the middle of an upload: at each of its requests, the others being
// made before or after that.
func TestPublishPrunedMeanwhile(t *testing.T) {
	for k, done := 1, false; !done; k++ {
		base := mem.New()
		var left atomic.Int64
		var one snapshot.Info
		b := newCounted(base, func(verb, key string) fault.Fault {
			if left.Add(-1) == 0 {
				forgetAndPrune(t, base, one)
			}
			return fault.Fault{}
		})
		w := newWorld(t, nil)
		w.put("a", noise(1, 300<<10))
		one = w.step("1")
		w.drain()
		w.publishTo(b, snapshot.Publish{})
		w.published()
		left.Store(int64(k))
		w.put("b", noise(2, 300<<10)) // and a is needed again
		two := w.step("2")
		w.published()
		done = left.Swap(-1) > 0
		if f := refs(t, base)[two.Seq]; f == nil {
			t.Errorf("request %d: the step is not published, though nobody forgot it", k)
		} else {
			same(t, "published 2", describe(t, w.tree.At(two.Seq), two.ScopeIno), fromBucket(t, base, f))
		}
		w.noFaults()
		if t.Failed() {
			t.Fatalf("request %d", k)
		}
	}
}

// A daemon that was killed when its ref had arrived, and was fenced since, finds
// out that it had: the step has one ref, also if others go first.
func TestPublishFenced(t *testing.T) {
	for _, other := range []bool{false, true} {
		t.Run(fmt.Sprint("other first ", other), func(t *testing.T) {
			w := newWorld(t, nil)
			w.put("b", noise(2, 100<<10))
			before := w.step("0")
			w.put("a", noise(1, 300<<10))
			one := w.step("1")
			w.drain()
			_, err := w.m.Forget(snapshot.Forget{Names: []string{"0"}, By: "test"})
			w.ok(err)
			base := mem.New()
			d := &dying{left: 1, after: true, dead: make(chan struct{})}
			w.publishing(fault.New(base, func(verb, key string) fault.Fault {
				if d.left == 1 && (verb != "put-if-absent" || !strings.HasPrefix(key, bucket.RefsPrefix)) {
					return fault.Fault{}
				}
				return d.rule(verb, key)
			}), snapshot.Publish{})
			w.restart()
			<-d.dead
			w.until("the ref is there", func() bool { return len(refs(t, base)) == 1 })
			garbage := bucket.Pack{Writer: bucket.NewWriter(), Seq: 1, Size: 1}
			w.ok(base.Put(t.Context(), garbage.Key(), remote.Bytes([]byte("x"))))
			fenced := 0
			for range 3 {
				r, err := prune.Run(t.Context(), base, prune.Options{})
				w.ok(err)
				fenced += len(r.Fenced)
			}
			if fenced != 1 {
				t.Fatalf("%d writers were fenced", fenced)
			}
			want := []snapshot.Info{one}
			w.conf = nil
			w.publishing(base, snapshot.Publish{})
			if other {
				_, err := w.m.Unforget("", []string{"0"})
				w.ok(err)
				want = append(want, before)
			}
			w.restart()
			w.published()
			w.wantPublished(base, want...)
			if r, err := w.m.PublishReport(); err != nil || r.Published != len(want) {
				t.Errorf("%+v %v", r, err)
			}
		})
	}
}

// A copy of a store takes over; the first one says so and publishes no more.
func TestPublishTakenOver(t *testing.T) {
	w := newWorld(t, nil)
	b := mem.New()
	w.publishTo(b, snapshot.Publish{})
	w.put("a", noise(1, 100<<10))
	one := w.step("1")
	w.published()
	r, err := w.m.PublishReport()
	w.ok(err)
	if _, err := prune.Take(t.Context(), b, r.Writer); err != nil {
		t.Fatal(err)
	}
	w.put("a", noise(2, 100<<10))
	w.step("2")
	w.until("it says so", func() bool {
		r, err := w.m.PublishReport()
		w.ok(err)
		return r.Err != nil && r.Next.Sub(r.ErrAt) > time.Minute && strings.Contains(r.Err.Error(), "another store has uploaded under this one's name")
	})
	w.wantPublished(b, one)
}
