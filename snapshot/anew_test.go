package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/restic/chunker"

	"stepfs/chunkstore"
	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/mem"
	"stepfs/fs/stage"
	"stepfs/internal/schema"
	"stepfs/snapshot"
)

// alone gives a store that was made with a polynomial and a key of its own.
func alone(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, nil)
	w.ok(w.stop(true))
	w.mem.MkdirAll("s", 0o700)
	w.naming = ownNaming
	w.open()
	return w
}

func ownNaming(c *chunkstore.Config) {
	pol, err := chunker.DerivePolynomial(rand.New(rand.NewSource(8)))
	if err != nil {
		panic(err)
	}
	c.Polynomial, c.Key = pol, [32]byte{4, 5, 6}
}

// join has a store that was alone name chunks as the others do, from its next opening
// on.
func (w *world) join() {
	var own chunkstore.Config
	ownNaming(&own)
	w.naming = func(c *chunkstore.Config) { c.Older = [][32]byte{own.Key} }
}

// fill makes steps of weights that drift, beside what never changes.
func (w *world) fill(versions []string, other string) (steps []snapshot.Info) {
	w.put("other", other)
	for k, v := range versions {
		w.putWeights(v)
		steps = append(steps, w.step(fmt.Sprint(k)))
		w.drain()
	}
	return steps
}

// TestJoin: of two stores of the same data the second was filled before it came to the
// bucket of the first. The data are there once, and both stores have all that they
// had.
func TestJoin(t *testing.T) {
	versions, other := drifting(40<<10, 4), noise(3, 1<<20)
	b := &sent{Bucket: mem.New()}
	one, two := newWorld(t, nil), alone(t)
	one.fill(versions, other)
	one.publishTo(b, snapshot.Publish{})
	one.published()
	all := b.take()
	steps := two.fill(versions, other)
	was := describe(t, two.tree.At(steps[1].Seq), steps[1].ScopeIno)
	var told atomic.Int64
	two.join()
	two.publishing(b, snapshot.Publish{})
	conf := two.conf
	two.conf = func(c *snapshot.Config) {
		conf(c)
		c.Events.Renaming = func(n int64) { told.Add(n) }
	}
	two.restart()
	older := two.chunks.OlderBytes()
	two.published()
	again := b.take()
	t.Logf("%d bytes of packs, then %d", all, again)
	if again > all/20 {
		t.Errorf("%d bytes were sent that lay there, of %d", again, all)
	}
	if told.Load() != older || older < int64(len(other)) {
		t.Errorf("it was said once that %d bytes are stored anew, of %d", told.Load(), older)
	}
	for _, i := range steps {
		two.comesBack(b, i)
		two.onlyNewest(i)
	}
	// What is dead is collected: neither what is read here nor what the trees name is.
	_, err := two.chunks.Collect(t.Context(), chunkstore.CollectOptions{DeadShare: 1e-9})
	two.ok(err)
	for _, i := range steps {
		i, err := two.m.Get(i.Seq)
		two.ok(err)
		m := &merkle{t: t, chunks: two.chunks, eng: two.eng, out: map[string]string{}, first: map[uint64]string{}, objects: map[string][32]byte{}}
		m.root(i.Tree)
		same(t, "the tree of "+i.ID(), describe(t, two.tree.At(i.Seq), i.ScopeIno), m.out)
	}
	same(t, "what was stored before", was, describe(t, two.tree.At(steps[1].Seq), steps[1].ScopeIno))
	// What comes then is stored once, by the newest key.
	last := drifting(40<<10, 5)[4]
	two.putWeights(last)
	i := two.step("last")
	two.drain()
	two.published()
	two.comesBack(b, i)
	two.noFaults()
	if f := two.findings(); len(f) > 0 {
		t.Error(f)
	}
}

// onlyNewest looks whether a step holds what its tree names, and nothing of an older
// key but the objects of the tree that it had.
func (w *world) onlyNewest(i snapshot.Info) {
	w.t.Helper()
	i, err := w.m.Get(i.Seq)
	w.ok(err)
	if older, err := w.chunks.Older(i.Tree); older || err != nil {
		w.t.Errorf("the tree of %s is of an older key (%v)", i.ID(), err)
	}
	if _, err := w.eng.Get(schema.TreeRefKey(schema.TreeHolder(i.Seq), i.Tree)); err != nil {
		w.t.Error(err)
	}
}

// TestJoinRootIsLast: the root of a tree that was stored anew is put once all that it
// leads to is durable. A repair finds roots in packs, and takes the newest of a step for
// the one that is whole.
func TestJoinRootIsLast(t *testing.T) {
	w := alone(t)
	steps := w.fill(drifting(40<<10, 3), noise(3, 1<<20))
	w.join()
	b := mem.New()
	w.publishing(b, snapshot.Publish{})
	conf, seen := w.conf, &rootLast{}
	w.conf = func(c *snapshot.Config) {
		conf(c)
		seen.Chunks, c.Chunks = c.Chunks, seen
	}
	w.ok(w.stop(true))
	w.open()
	w.published()
	if seen.mu.Lock(); seen.roots != len(steps) || seen.early > 0 {
		t.Errorf("of %d roots for %d steps, %d were put while something was not durable", seen.roots, len(steps), seen.early)
	}
	seen.mu.Unlock()
	for _, i := range steps {
		w.comesBack(b, i)
	}
}

// rootLast sees whether what was put is durable when a root is.
type rootLast struct {
	snapshot.Chunks
	mu           sync.Mutex
	open         bool // something was put since the last flush
	roots, early int
}

func (r *rootLast) Put(ctx context.Context, data []byte) (*chunkstore.Pending, error) {
	r.mu.Lock()
	if data[0] == schema.ObjectRoot {
		r.roots++
		if r.open {
			r.early++
		}
	}
	r.open = true
	r.mu.Unlock()
	return r.Chunks.Put(ctx, data)
}

func (r *rootLast) IngestOver(ctx context.Context, src chunkstore.Source, plan chunkstore.Plan) (*chunkstore.Pending, error) {
	r.mu.Lock()
	r.open = true
	r.mu.Unlock()
	return r.Chunks.IngestOver(ctx, src, plan)
}

func (r *rootLast) Flush(ctx context.Context) error {
	err := r.Chunks.Flush(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open = r.open && err != nil
	return err
}

// TestJoinKilled: a daemon that is killed, or loses power, in the middle of storing
// anew, again and again, goes on where it was, and sends nothing twice.
func TestJoinKilled(t *testing.T) {
	versions, other := drifting(40<<10, 3), noise(3, 1<<20)
	for _, power := range []bool{false, true} {
		b := &sent{Bucket: mem.New()}
		one, two := newWorld(t, nil), alone(t)
		one.fill(versions, other)
		one.publishTo(b, snapshot.Publish{})
		one.published()
		all := b.take()
		steps := two.fill(versions, other)
		two.join()
		two.publishing(b, snapshot.Publish{})
		two.restart()
		for k := range uint64(12) {
			end := make(chan struct{})
			before := two.chunks.Stats().Chunks
			go func() { // as many chunks later, or when all is done
				defer close(end)
				for two.chunks.Stats().Chunks < before+3*k+1 {
					if r, err := two.m.PublishReport(); err != nil || r.Queue == 0 {
						return
					}
				}
			}()
			<-end
			if power {
				two.powerCut()
			} else {
				two.kill()
			}
			for _, i := range steps {
				describe(t, two.tree.At(i.Seq), i.ScopeIno)
			}
		}
		two.published()
		until(t, "the store is attached", func() bool { r, err := two.m.PublishReport(); return err == nil && r.Attached })
		if again := b.take(); again > all/10 {
			t.Errorf("power %v: %d bytes were sent that lay there, of %d", power, again, all)
		}
		for _, i := range steps {
			two.comesBack(b, i)
			two.onlyNewest(i)
		}
	}
}

// TestJoinNoRoom: what would take the room that writers have is not stored anew, and
// the step waits, with its reason. When there is room it goes.
func TestJoinNoRoom(t *testing.T) {
	b := &sent{Bucket: mem.New()}
	one, two := newWorld(t, nil), alone(t)
	one.publishTo(b, snapshot.Publish{}) // the bucket is its
	one.put("x", "x")
	one.step("first")
	one.published()
	steps := two.fill(drifting(40<<10, 1), noise(3, 1<<20))
	two.evictHot()
	two.join()
	two.publishing(b, snapshot.Publish{})
	two.limit(uint64(two.chunks.Stats().Size)+1<<20, 64<<10)
	until(t, "it says why it waits", func() bool {
		r, err := two.m.PublishReport()
		return err == nil && r.Queue == 1 && r.Err != nil && strings.Contains(r.Err.Error(), "no room to store it anew")
	})
	if n := two.chunks.Stats().Size; n > uint64(two.chunks.OlderBytes())+1<<20 {
		t.Errorf("packs take %d bytes", n)
	}
	two.limit(1<<30, 64<<10)
	two.published()
	until(t, "the store is attached", func() bool { r, err := two.m.PublishReport(); return err == nil && r.Attached && r.Queue == 0 })
	two.comesBack(b, steps[0])
}

// joining has a store that was alone publish where others do, from its next opening
// on.
func (w *world) joining() *sent {
	w.t.Helper()
	b := &sent{Bucket: mem.New()}
	one := newWorld(w.t, nil)
	one.publishTo(b, snapshot.Publish{}) // the bucket is its
	one.put("x", "x")
	one.step("first")
	one.published()
	w.join()
	w.publishing(b, snapshot.Publish{})
	return b
}

// evictHot gives up all hot copies.
func (w *world) evictHot() {
	w.t.Helper()
	for w.hot() > 0 {
		w.ok(w.tree.Hot(func(gen uint64, _ int64) bool { w.ok(w.tree.Evict(gen)); return true }))
	}
}

// TestJoinFull: a store that is full of what can be given up, hot copies or packs that
// are published, stores anew what it publishes.
func TestJoinFull(t *testing.T) {
	for _, hot := range []bool{true, false} {
		w := alone(t)
		const size, steps = 6 << 20, 3
		var all []snapshot.Info
		for k := range steps {
			w.put("model", noise(int64(k), size))
			all = append(all, w.step(fmt.Sprint(k)))
			w.drain()
		}
		room := int64(steps * size)
		if !hot {
			w.evictHot()
			room = size
		}
		b := w.joining()
		conf := w.conf
		w.conf = func(c *snapshot.Config) {
			conf(c)
			w.chunks.ReadFrom(func(context.Context) (remote.Bucket, error) { return b, nil })
		}
		w.limit(w.chunks.Stats().Size+uint64(room)+4<<20, 1<<20) // a mark of less than 2 MiB
		w.published()
		for _, i := range all {
			w.comesBack(b, i)
			w.onlyNewest(i)
		}
	}
}

// TestJoinUnchanged: what was stored anew once is neither read again for the next step
// that shows it, nor does it need room.
func TestJoinUnchanged(t *testing.T) {
	w := alone(t)
	const size = 6 << 20
	w.put("data/dataset", noise(1, size))
	w.put("checkpoint-1/frozen", noise(2, 1<<20)) // two of one name, but for the number
	w.put("checkpoint-2/frozen", noise(3, 1<<20))
	w.put("weights", "0")
	first := w.step("0")
	w.drain()
	b := w.joining()
	w.limit(64<<20, 1<<20)
	w.published()
	w.comesBack(b, first)
	packs := w.chunks.Stats().Size
	w.limit(packs+4<<20, 1<<20) // a mark of less than 2 MiB, and hot copies are gone
	for k := 1; k < 4; k++ {
		w.put("weights", fmt.Sprint(k))
		before := w.chunks.Stats().Ingested
		i := w.step(fmt.Sprint(k))
		w.drain()
		w.published()
		if n := w.chunks.Stats().Ingested - before; n > 1<<20 {
			t.Errorf("%d bytes were read and stored for step %d", n, k)
		}
		w.comesBack(b, i)
	}
	w.noFaults()
}

// TestJoinDamaged: what does not read back here is not published as right, and keeps
// no other step back.
func TestJoinDamaged(t *testing.T) {
	w := alone(t)
	w.put("model", noise(1, 1<<20))
	w.step("0")
	w.drain()
	w.evictHot()
	w.flipNew(nil, 300_000)
	w.hurt = true
	w.put("model", noise(2, 1<<20))
	second := w.step("1")
	w.drain()
	b := w.joining()
	w.restart()
	until(t, "the other one is published, and it says why this one is not", func() bool {
		r, err := w.m.PublishReport()
		return err == nil && r.Published == 1 && r.Queue == 1 && errors.Is(r.Err, chunkstore.ErrCorrupt)
	})
	w.comesBack(b, second)
}

// TestJoinTree: whatever a tree may have comes back from the bucket as it is here, and
// what is forgotten then gives up all that it held.
func TestJoinTree(t *testing.T) {
	w := alone(t)
	const punch = 1 | 2 // FALLOC_FL_KEEP_SIZE and _PUNCH_HOLE
	ino := w.put("run/a/model", noise(1, 1<<20))
	w.put("run/empty", "")
	w.dir("run/none")
	_, err := w.tree.Link(ino, w.dir("run"), "second name")
	w.ok(err)
	_, err = w.tree.Symlink(w.dir("run"), "latest", "a/model", stage.Cred{})
	w.ok(err)
	w.ok(w.tree.SetXattr(ino, "user.k", []byte("v"), 0))
	sparse, fh := w.openFile("run/sparse", 0)
	w.pwrite(sparse, fh, noise(2, 300_000), 100_000)
	w.pwrite(sparse, fh, noise(3, 10), 900_000)
	w.ok(w.tree.Fallocate(sparse, fh, 2_000_000, 1000, 0)) // ends in a hole
	w.closeFile(sparse, fh)
	first := w.step("0")
	w.drain()
	edited, fh := w.openFile("run/a/model", 0) // parts of chunks are left of it
	w.pwrite(edited, fh, noise(4, 5000), 123_456)
	w.ok(w.tree.Fallocate(edited, fh, 500_000, 77_777, punch))
	w.closeFile(edited, fh)
	second := w.step("1")
	w.drain()
	w.evictHot()
	b := w.joining()
	w.restart()
	w.published()
	for _, i := range []snapshot.Info{first, second} {
		w.comesBack(b, i)
		w.onlyNewest(i)
	}
	was := describe(t, w.tree.At(second.Seq), second.ScopeIno)
	w.forget("0")
	w.prune()
	prefix := schema.Numbered(schema.PrefixTreeRef, schema.TreeHolder(first.Seq))
	it, err := w.eng.NewIter(prefix, schema.After(prefix))
	w.ok(err)
	if it.First() {
		t.Error("what is forgotten holds what its tree named")
	}
	w.ok(it.Close())
	_, err = w.chunks.Collect(t.Context(), chunkstore.CollectOptions{DeadShare: 1e-9})
	w.ok(err)
	w.restart()
	same(t, "what is left", was, describe(t, w.tree.At(second.Seq), second.ScopeIno))
	w.comesBack(b, second)
	w.noFaults()
}
