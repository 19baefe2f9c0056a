package snapshot_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore"
	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/bucket/prune"
	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/fault"
	"stepfs/chunkstore/remote/mem"
	"stepfs/snapshot"
)

// refOf gives the ref of a store's snapshot, in a bucket of several stores.
func (w *world) refOf(b remote.Bucket, i snapshot.Info) *bucket.Ref {
	w.t.Helper()
	r, err := w.m.PublishReport()
	w.ok(err)
	for o, err := range b.List(w.ctx(), bucket.RefsPrefix+r.Writer.String()+"/", "") {
		w.ok(err)
		if o.Size == bucket.GoneSize {
			continue
		}
		_, seq, _ := bucket.ParseNumbered(bucket.RefsPrefix, o.Key)
		f, err := bucket.ReadRef(w.ctx(), b, r.Writer, seq)
		w.ok(err)
		if f.Snapshot == i.Seq {
			return f
		}
	}
	w.t.Fatalf("%s is not published", i.ID())
	return nil
}

// comesBack reads a published snapshot as a new machine does, and compares it.
func (w *world) comesBack(b remote.Bucket, i snapshot.Info) *bucket.Ref {
	w.t.Helper()
	f := w.refOf(b, i)
	p, err := chunkstore.OpenPublished(w.ctx(), b, chunkConf.Key, f, chunkstore.PublishedOptions{})
	w.ok(err)
	defer p.Close()
	m := &merkle{t: w.t, chunks: p, rootLen: f.RootLen, out: map[string]string{}, first: map[uint64]string{}, objects: map[string][32]byte{}}
	if seq, _ := m.root(f.Root); seq != i.Seq {
		w.t.Errorf("the root is of snapshot %d", seq)
	}
	same(w.t, "published "+i.ID(), describe(w.t, w.tree.At(i.Seq), i.ScopeIno), m.out)
	for _, e := range p.Lost() {
		w.t.Error(e)
	}
	return f
}

// sent counts the bytes of packs that are put.
type sent struct {
	remote.Bucket
	mu    sync.Mutex
	bytes int64
}

func (s *sent) PutIfAbsent(ctx context.Context, key string, c remote.Content) (string, error) {
	v, err := s.Bucket.PutIfAbsent(ctx, key, c)
	if err == nil && strings.HasPrefix(key, bucket.PacksPrefix) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.bytes += c.Size
	}
	return v, err
}

func (s *sent) take() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.bytes
	s.bytes = 0
	return n
}

func writersOf(f *bucket.Ref) map[bucket.Writer]int {
	n := map[bucket.Writer]int{}
	for _, p := range f.Packs {
		n[p.Writer]++
	}
	return n
}

// putWeights writes weights as files that are a chunk each, so that two stores cut
// them alike whatever they had before.
func (w *world) putWeights(data string) {
	const n = 3600
	for k := 0; k*n < len(data); k++ {
		w.put(fmt.Sprintf("w%d", k), data[k*n:min(len(data), (k+1)*n)])
	}
}

// Two stores of the same data have it in the bucket once. What one has as deltas
// comes with all that these are made from, also when the other has it in other
// pieces: it stored the versions in another order. What the first forgets stays
// for as long as the second needs it.
func TestPublishTheirs(t *testing.T) {
	versions := drifting(40<<10, 4)
	other := noise(3, 1<<20)
	b := &sent{Bucket: mem.New()}
	one, two := newWorld(t, nil), newWorld(t, nil)
	store := func(w *world, order ...int) (steps []snapshot.Info) {
		w.put("other", other)
		for _, k := range order {
			w.putWeights(versions[k])
			steps = append(steps, w.step(fmt.Sprint(k)))
			w.drain()
		}
		return steps
	}
	first := store(one, 0, 1, 2, 3)
	one.publishTo(b, snapshot.Publish{})
	one.published()
	all := b.take()
	second := store(two, 3, 1, 0)
	if one.chunks.Stats().SavedDeltas == 0 || two.chunks.Stats().SavedDeltas == 0 {
		t.Fatal("there are no deltas")
	}
	two.publishTo(b, snapshot.Publish{})
	two.published()
	again := b.take()
	t.Logf("%d bytes of packs, then %d", all, again)
	if again > all/50 {
		t.Errorf("%d bytes were sent that lay there, of %d", again, all)
	}
	for _, i := range first {
		one.comesBack(b, i)
	}
	for _, i := range second {
		if f := two.comesBack(b, i); len(writersOf(f)) != 2 || f.Packs[0].Writer != f.Writer {
			t.Errorf("the packs of %s are those of %v", i.ID(), writersOf(f))
		}
	}
	for _, i := range first {
		f := one.refOf(b, i)
		one.ok(prune.Forget(t.Context(), b, f.Writer, f.Seq))
	}
	for range 3 {
		_, err := prune.Run(t.Context(), b, prune.Options{})
		one.ok(err)
	}
	for _, i := range second {
		two.comesBack(b, i)
	}
	// And the other way round, with what came meanwhile.
	one.put("other", noise(4, 1<<20))
	two.put("other", noise(4, 1<<20))
	last := two.step("new")
	two.published()
	b.take()
	one.restart() // who runs on looks a minute later
	again1 := one.step("new")
	one.published()
	one.comesBack(b, again1)
	two.comesBack(b, last)
	if n := b.take(); n > all/2 {
		t.Errorf("%d bytes were sent once the others' were forgotten", n)
	}
	one.noFaults()
	two.noFaults()
}

// What another writer has sent is forgotten and pruned in the middle of an upload
// that relies on it, at each of its requests: nothing is lost, and what can't be
// relied on is sent.
func TestPublishTheirsPruned(t *testing.T) {
	versions := drifting(10<<10, 2)
	full := mem.New()
	one := newWorld(t, nil)
	one.publishTo(full, snapshot.Publish{})
	var refs []*bucket.Ref
	for v := range versions {
		one.putWeights(versions[v])
		i := one.step(fmt.Sprint(v))
		one.published()
		refs = append(refs, one.refOf(full, i))
	}
	one.close()
	two := &publishCrash{world: newWorld(t, nil)}
	two.putWeights(versions[1])
	i := two.step("1")
	two.drain()
	two.ok(two.eng.Sync(two.eng.Pos()))
	two.stored = two.mem.CrashClone(vfs.CrashCloneCfg{})
	relied, resent := 0, 0
	for k, done := 1, false; !done; k++ {
		base := copyOf(t, full)
		var left atomic.Int64
		left.Store(int64(k))
		two.again(two.stored, fault.New(base, func(verb, key string) fault.Fault {
			if left.Add(-1) == 0 {
				for _, f := range refs {
					two.ok(prune.Forget(t.Context(), base, f.Writer, f.Seq))
				}
				for range 3 {
					_, err := prune.Run(t.Context(), base, prune.Options{})
					two.ok(err)
				}
			}
			return fault.Fault{}
		}))
		two.published()
		done = left.Swap(-1) > 0
		if f := two.comesBack(base, i); len(writersOf(f)) > 1 {
			relied++
		} else {
			resent++
		}
		two.noFaults()
		if t.Failed() {
			t.Fatalf("request %d", k)
		}
	}
	t.Logf("of %d runs %d rely on the other writer, %d have sent all", relied+resent, relied, resent)
	if relied == 0 || resent == 0 {
		t.Error("nothing is proved")
	}
}

// copyOf gives a bucket with the same objects.
func copyOf(t testing.TB, b remote.Bucket) remote.Bucket {
	t.Helper()
	to := mem.New()
	for o, err := range b.List(t.Context(), "", "") {
		if err == nil {
			err = to.Put(t.Context(), o.Key, remote.Bytes(object(t, b, o.Key)))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return to
}
