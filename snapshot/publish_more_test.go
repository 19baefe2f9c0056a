package snapshot_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"stepfs/chunkstore"
	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/fault"
	"stepfs/chunkstore/remote/mem"
	"stepfs/chunkstore/remote/retry"
	"stepfs/fs/stage"
	"stepfs/internal/schema"
	"stepfs/snapshot"
)

// drifting gives versions of n fp32 weights, each a small step from the one before.
func drifting(n, versions int) (out []string) {
	rng := rand.New(rand.NewPCG(1, 1))
	w := make([]float32, n)
	for i := range w {
		w[i] = float32(rng.NormFloat64() * 0.03)
	}
	for range versions {
		b := make([]byte, 0, 4*n)
		for i := range w {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(w[i]))
			w[i] += float32(rng.NormFloat64() * 3e-6)
		}
		out = append(out, string(b))
	}
	return out
}

// A ref names the packs of bases too, all the way down: those of steps that are
// not published are there.
func TestPublishDeltas(t *testing.T) {
	w := newWorld(t, nil)
	b := mem.New()
	w.publishTo(b, snapshot.Publish{Complete: true, Every: 4})
	var steps []snapshot.Info
	for k, data := range drifting(100<<10, 6) {
		w.put("w", data)
		steps = append(steps, w.step(fmt.Sprint(k)))
		w.drain()
	}
	w.published()
	if s := w.chunks.Stats(); s.SavedDeltas == 0 {
		t.Fatal("there are no deltas")
	}
	w.wantPublished(b, steps[0], steps[4])
	w.noFaults()
}

// What was written again locally is uploaded when a later step needs it, and the
// older ref goes on naming what it named.
func TestPublishRepacked(t *testing.T) {
	h := &hands{}
	w := newWorld(t, keeping(h, nil))
	b := newCounted(mem.New(), nil)
	w.publishTo(b, snapshot.Publish{})
	w.put("a", noise(1, 1<<20))
	w.put("b", noise(2, 100<<10))
	one := w.step("1")
	w.drain()
	w.published()
	w.remove("a")
	w.barrier()
	_, err := w.m.Forget(snapshot.Forget{Names: []string{"1"}, By: "test"})
	w.ok(err)
	w.prune()
	if _, err := w.chunks.Collect(w.ctx(), collectAll); err != nil {
		t.Fatal(err)
	}
	two := w.step("2")
	w.drain()
	w.published()
	got := refs(t, b)
	same(t, "published 2", describe(t, w.tree.At(two.Seq), two.ScopeIno), fromBucket(t, b, got[two.Seq]))
	for _, p := range got[two.Seq].Packs {
		if slices.Contains(got[one.Seq].Packs, p) {
			t.Errorf("%s was not written again", p.Key())
		}
	}
	fromBucket(t, b, got[one.Seq])
	b.once(t)
	// What is gone here is not remembered.
	w.eachUpload(func(name string) {
		if f, err := w.mem.Open("s/packs/" + name); err != nil {
			t.Errorf("pack %s is gone and still known: %v", name, err)
		} else {
			w.ok(f.Close())
		}
	})
}

// eachUpload calls fn for the file of each pack of which an upload is recorded.
func (w *world) eachUpload(fn func(name string)) {
	w.t.Helper()
	it, err := w.eng.NewIter([]byte{schema.PrefixPackUpload}, []byte{schema.PrefixPackUpload + 1})
	w.ok(err)
	for ok := it.First(); ok; ok = it.Next() {
		fn(fmt.Sprintf("%x.pack", it.Key()[1:]))
	}
	w.ok(it.Close())
}

// gate is a rule that holds up puts of packs.
type packGate struct {
	met  chan struct{} // closed at the first
	open chan struct{}
	once sync.Once
}

func (g *packGate) rule(verb, key string) fault.Fault {
	if verb == "put-if-absent" && strings.HasPrefix(key, bucket.PacksPrefix) {
		g.once.Do(func() { close(g.met) })
		<-g.open
	}
	return fault.Fault{}
}

// A pack that is being uploaded is not collected.
func TestPublishPins(t *testing.T) {
	h := &hands{}
	w := newWorld(t, keeping(h, nil))
	w.put("a", noise(1, 1<<20))
	w.put("b", noise(2, 100<<10))
	w.step("1")
	w.drain()
	w.remove("a")
	two := w.step("2")
	w.drain()
	_, err := w.m.Forget(snapshot.Forget{Names: []string{"1"}, By: "test"})
	w.ok(err)
	g := &packGate{met: make(chan struct{}), open: make(chan struct{})}
	b := fault.New(mem.New(), g.rule)
	w.publishTo(b, snapshot.Publish{})
	<-g.met
	w.prune()
	stats, err := w.chunks.Collect(w.ctx(), collectAll)
	w.ok(err)
	if stats.Pinned == 0 {
		t.Errorf("nothing was in the way: %+v", stats)
	}
	close(g.open)
	w.published()
	w.wantPublished(b, two)
	if stats, err = w.chunks.Collect(w.ctx(), collectAll); err != nil || stats.Packs == 0 || stats.Pinned > 0 {
		t.Errorf("a pack is held for ever: %+v %v", stats, err)
	}
	w.noFaults()
}

// A damaged pack does not leave, and is reported. It keeps no other step back.
func TestPublishDamaged(t *testing.T) {
	w := newWorld(t, nil)
	w.hurt = true
	w.put("1/a", noise(1, 100<<10))
	bad, err := w.m.Snapshot(w.ctx(), "1", "1", "xattr", nil)
	w.ok(err)
	w.drain()
	packs, err := w.mem.List("s/packs")
	w.ok(err)
	for _, name := range packs {
		f, err := w.mem.OpenReadWrite("s/packs/"+name, "")
		w.ok(err)
		st, err := f.Stat()
		w.ok(err)
		at := st.Size() / 2
		c := make([]byte, 1)
		_, err = f.ReadAt(c, at)
		w.ok(err)
		if st.Size() > 50<<10 {
			c[0] ^= 1
			_, err = f.WriteAt(c, at)
			w.ok(err)
		}
		w.ok(f.Close())
	}
	w.put("2/a", noise(2, 100<<10))
	good, err := w.m.Snapshot(w.ctx(), "2", "2", "xattr", nil)
	w.ok(err)
	w.drain()
	b := mem.New()
	w.publishTo(b, snapshot.Publish{})
	w.until("the step is published and the other fails", func() bool {
		r, err := w.m.PublishReport()
		w.ok(err)
		return r.Published == 1 && r.Queue == 1 && r.Err != nil
	})
	w.wantPublished(b, good)
	w.mu.Lock()
	said := strings.Join(w.faults, "\n")
	w.mu.Unlock()
	if !strings.Contains(said, "is not uploaded") || !strings.Contains(said, bad.Path()) {
		t.Errorf("faults: %s", said)
	}
}

// While the bucket can't be reached everything goes on, and is said; afterwards
// all is published. What stays until somebody does something is a fault, once.
func TestPublishOffline(t *testing.T) {
	var down atomic.Pointer[error]
	rule := func(verb, key string) fault.Fault {
		if err := down.Load(); err != nil {
			return fault.Fault{Before: remote.Fail(verb, key, *err, errors.New("it is down"))}
		}
		return fault.Fault{}
	}
	for _, kind := range []error{remote.ErrRetryable, remote.ErrAccess} {
		t.Run(kind.Error(), func(t *testing.T) {
			w := newWorld(t, nil)
			b := newCounted(mem.New(), rule)
			down.Store(nil)
			w.publishTo(b, snapshot.Publish{})
			w.put("a", noise(1, 100<<10))
			steps := []snapshot.Info{w.step("0")}
			w.published()
			down.Store(&kind)
			for k := range 3 {
				w.put("a", noise(int64(k+2), 100<<10))
				steps = append(steps, w.step(fmt.Sprint(k+1)))
				w.drain()
			}
			var r snapshot.PublishReport
			w.until("it fails", func() (failed bool) {
				var err error
				r, err = w.m.PublishReport()
				w.ok(err)
				return r.Err != nil
			})
			if r.Queue != 3 || r.Published != 1 || !r.Oldest.Equal(steps[1].Time) || r.AtRisk < 300<<10 || !errors.Is(r.Err, kind) {
				t.Errorf("%+v", r)
			}
			w.mu.Lock()
			faults := len(w.faults)
			w.mu.Unlock()
			wait := r.Next.Sub(r.ErrAt)
			if fatal := kind == remote.ErrAccess; fatal && (wait < time.Minute || faults != 1) || !fatal && (wait > time.Minute || faults != 0) {
				t.Errorf("the next attempt is in %v, and there are %d faults", wait, faults)
			}
			down.Store(nil)
			if kind == remote.ErrAccess {
				w.restart() // or wait
			}
			w.published()
			w.wantPublished(b, steps...)
			b.once(t)
		})
	}
}

// No step is given up for lack of room while it waits to be published, whatever
// the job has deleted.
func TestPublishBeforeRoom(t *testing.T) {
	var down atomic.Bool
	down.Store(true)
	b := fault.New(mem.New(), func(verb, key string) fault.Fault {
		if down.Load() {
			return fault.Fault{Before: remote.Fail(verb, key, remote.ErrRetryable, nil)}
		}
		return fault.Fault{}
	})
	w := newWorld(t, func(c *snapshot.Config) { keeping(&hands{}, nil)(c); c.Undo, c.UseGrace, c.NoSeal = 0, 0, true })
	w.publishing(b, snapshot.Publish{})
	w.limit(24<<20, 1<<20)
	err := w.rotate(1, 12)
	if !errors.Is(err, stage.ErrNoSpace) {
		t.Fatalf("a full store whose bucket is down: %v", err)
	}
	r, err := w.m.PublishReport()
	w.ok(err)
	steps, err := w.m.Steps("", "", 100)
	w.ok(err)
	if r.Queue != len(steps) || len(steps) < 4 {
		t.Errorf("%d steps wait, of %d", r.Queue, len(steps))
	}
	for _, i := range steps {
		var k int
		if _, err := fmt.Sscan(i.Name, &k); err != nil {
			t.Fatal(err)
		}
		w.whole(k)
	}
	down.Store(false)
	w.restart()
	w.published()
	if got := refs(t, b); len(got) != len(steps) {
		t.Errorf("%d of %d are published", len(got), len(steps))
	}
}

// What is forgotten before its turn comes is not published.
func TestPublishForgotten(t *testing.T) {
	w := newWorld(t, nil)
	w.put("a", noise(1, 100<<10))
	w.step("1")
	w.put("a", noise(2, 100<<10))
	two := w.step("2")
	w.drain()
	_, err := w.m.Forget(snapshot.Forget{Names: []string{"1"}, By: "test"})
	w.ok(err)
	b := mem.New()
	w.publishTo(b, snapshot.Publish{})
	w.published()
	w.wantPublished(b, two)
	_, err = w.m.Unforget("", []string{"1"})
	w.ok(err)
	w.until("what was brought back is published", func() bool { return len(refs(t, b)) == 2 })
}

// Faults of all kinds on the way, with the retries of a daemon around them.
func TestPublishThroughFaults(t *testing.T) {
	w := newWorld(t, nil)
	base := mem.New()
	faulty := fault.New(base, fault.Sometimes(0.2, 7))
	w.publishTo(retrying(faulty), snapshot.Publish{})
	var steps []snapshot.Info
	for k := range 5 {
		w.put(fmt.Sprint(k), noise(int64(k), 300<<10))
		steps = append(steps, w.step(fmt.Sprint(k)))
		w.drain()
	}
	w.published()
	faulty.Wait()
	w.wantPublished(base, steps...)
}

func TestPublishPolicy(t *testing.T) {
	for _, text := range []string{"all", "complete", "1", "20"} {
		p, err := snapshot.ParsePublish(text)
		if err != nil || p.String() != text {
			t.Errorf("%s is %s, %v", text, p, err)
		}
	}
	for _, text := range []string{"", "0", "-1", "every", "1.5", "99999999999"} {
		if p, err := snapshot.ParsePublish(text); err == nil {
			t.Errorf("%q is %s", text, p)
		}
	}
	complete, partial := snapshot.VerdictComplete, snapshot.VerdictPartial
	steps := []snapshot.Info{{Name: "1", Verdict: complete}, {Name: "2", Verdict: partial}, {Name: "3", Verdict: complete}, {Name: "x", Explicit: true, Verdict: snapshot.VerdictUnverified},
		{Name: "4", Verdict: snapshot.VerdictUnverified}, {Name: "1", Scope: "s", Verdict: complete}, {Name: "5", Verdict: complete}, {Verdict: ""}}
	for text, want := range map[string]string{"all": "1 2 3 x 4 1 5", "complete": "1 3 x 4 1 5", "1": "1 2 3 x 4 1 5", "2": "1 x 4 1", "3": "1 x 1 5"} {
		p, err := snapshot.ParsePublish(text)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		since := map[string]int{}
		for _, i := range steps {
			if wanted, known := p.Wants(i, false, since); wanted && known {
				got = append(got, i.Name)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s publishes %v, want %s", text, got, want)
		}
	}
}

// collectAll writes every pack again of which a part is dead.
var collectAll = chunkstore.CollectOptions{DeadShare: 1e-9}

func retrying(b remote.Bucket) remote.Bucket {
	return retry.New(b, retry.Options{First: time.Millisecond, Most: 10 * time.Millisecond, Budget: 1000})
}
