package snapshot_test

import (
	"context"
	"errors"
	"maps"
	randv2 "math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore"
	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/pack"
	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/fault"
	"stepfs/chunkstore/remote/mem"
	"stepfs/internal/schema"
	"stepfs/internal/state"
	"stepfs/snapshot"
)

// publishTo has a world publish to a bucket, from now on.
func (w *world) publishTo(b remote.Bucket, what snapshot.Publish) {
	w.t.Helper()
	w.publishing(b, what)
	w.restart()
}

// publishing has it do so when it is opened next.
func (w *world) publishing(b remote.Bucket, what snapshot.Publish) {
	before := w.conf
	w.conf = func(c *snapshot.Config) {
		if before != nil {
			before(c)
		}
		open := func(context.Context) (remote.Bucket, error) { return b, nil }
		c.Uploads, c.Publish = w.chunks.Uploads(open, "store"), what
	}
}

// published waits until nothing waits to be published.
func (w *world) published() {
	w.t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		r, err := w.m.PublishReport()
		w.ok(err)
		if r.Queue == 0 && r.Err == nil {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("not published: %+v", r)
		}
	}
}

// refs reads every ref of a bucket, by the number of its snapshot, and holds each
// to what a ref promises.
func refs(t testing.TB, b remote.Bucket) map[uint64]*bucket.Ref {
	t.Helper()
	out := map[uint64]*bucket.Ref{}
	for o, err := range b.List(t.Context(), bucket.RefsPrefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		if o.Size == bucket.GoneSize {
			continue // one that was not put, and never will be
		}
		w, seq, ok := bucket.ParseNumbered(bucket.RefsPrefix, o.Key)
		if !ok {
			t.Fatalf("%s is no ref", o.Key)
		}
		f, err := bucket.DecodeRef(object(t, b, o.Key), w, seq)
		if err != nil {
			t.Fatal(err)
		}
		if out[f.Snapshot] != nil {
			t.Errorf("snapshot %d has two refs", f.Snapshot)
		}
		out[f.Snapshot] = f
	}
	indexed := indexedPacks(t, b) // looked at after the refs, since they are put before them
	for _, f := range out {
		for _, p := range f.Packs {
			data := object(t, b, p.Key())
			if _, foot, name, err := pack.Verify(strings.NewReader(string(data)), int64(len(data))); err != nil || name != p.Name || len(foot.Entries) == 0 || int64(len(data)) != p.Size {
				t.Errorf("%s of snapshot %d: %v", p.Key(), f.Snapshot, err)
			}
			if !indexed[p] {
				t.Errorf("%s of snapshot %d is in no index object", p.Key(), f.Snapshot)
			}
		}
	}
	return out
}

func object(t testing.TB, b remote.Bucket, key string) []byte {
	t.Helper()
	data, _, err := remote.ReadAll(context.Background(), b, key, 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// indexedPacks gives what the index objects list, each of which has to be there,
// if nobody has pruned.
func indexedPacks(t testing.TB, b remote.Bucket) map[bucket.Pack]bool {
	t.Helper()
	pruned := false
	for _, err := range b.List(t.Context(), bucket.RetiredPrefix, "") {
		if pruned = true; err != nil {
			t.Fatal(err)
		}
	}
	out := map[bucket.Pack]bool{}
	for o, err := range b.List(t.Context(), bucket.IndexPrefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		w, seq, _ := bucket.ParseNumbered(bucket.IndexPrefix, o.Key)
		x, err := bucket.DecodeIndex(object(t, b, o.Key), w, seq)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range x.Packs {
			if out[x.Pack(p)] {
				t.Errorf("%s is in two index objects", x.Pack(p).Key())
			}
			out[x.Pack(p)] = true
			if !pruned {
				object(t, b, x.Pack(p).Key())
			}
		}
	}
	return out
}

// fromBucket describes a published step from what its ref names alone.
func fromBucket(t testing.TB, b remote.Bucket, f *bucket.Ref) map[string]string {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	fs := vfs.NewMem()
	must(fs.MkdirAll("n/packs", 0o700))
	for _, p := range f.Packs {
		file, err := fs.Create("n/packs/"+p.Name.FileName(), "")
		must(err)
		_, err = file.Write(object(t, b, p.Key()))
		must(err)
		must(file.Close())
	}
	eng, err := state.Open(state.Config{Dir: "n", FS: fs, BootID: "boot", SegmentSize: 512 << 10})
	must(err)
	chunks, err := chunkstore.Open(eng, fs, "n/packs", chunkConf)
	must(err)
	defer func() { must(chunks.Close()); must(eng.Close(true)) }()
	m := &merkle{t: t, chunks: chunks, eng: eng, out: map[string]string{}, first: map[uint64]string{}, objects: map[string][32]byte{}}
	seq, _ := m.root(f.Root)
	rec, err := schema.DecodeSnapshot(f.Record)
	must(err)
	if seq != f.Snapshot || rec.Tree != f.Root || !rec.Drained {
		t.Errorf("the root is of snapshot %d, the ref of %d, its record %+v", seq, f.Snapshot, rec)
	}
	return m.out
}

// wantPublished compares what is published with what is there.
func (w *world) wantPublished(b remote.Bucket, want ...snapshot.Info) {
	w.t.Helper()
	got := refs(w.t, b)
	if len(got) != len(want) {
		w.t.Errorf("%v are published, not %v", slices.Sorted(maps.Keys(got)), want)
	}
	for _, i := range want {
		f := got[i.Seq]
		if f == nil {
			w.t.Errorf("%s is not published", i.ID())
			continue
		}
		if at, ok, err := w.m.Published(i.Seq); !ok || err != nil || time.Since(at) > time.Hour {
			w.t.Errorf("%s is not known to be published: %v %v", i.ID(), at, err)
		}
		same(w.t, "published "+i.ID(), describe(w.t, w.tree.At(i.Seq), i.ScopeIno), fromBucket(w.t, b, f))
	}
}

func TestPublish(t *testing.T) {
	w := newWorld(t, nil)
	b := newCounted(mem.New(), nil)
	w.publishTo(b, snapshot.Publish{})
	w.everything("run")
	one := w.step("1")
	w.published()
	w.wantPublished(b, one)
	first := b.count("packs/")
	w.put("run/small", "changed")
	two := w.step("2")
	w.barrier(w.put("other", noise(9, 1<<20)))
	w.published()
	w.wantPublished(b, one, two)
	if b.count("packs/")-first > 3 {
		t.Errorf("%d packs for a small change, after %d", b.count("packs/")-first, first)
	}
	w.restart()
	w.published()
	b.once(t)
	w.noFaults()
}

// counted is a bucket that notes which packs and index objects are sent, and which
// of them lay there already.
type counted struct {
	*fault.Bucket
	mu     sync.Mutex
	sent   map[string]int
	refs   map[string]int // that are no tombstones
	resent []string
}

func newCounted(b remote.Bucket, rule fault.Rule) *counted {
	b = &onlyOnce{b}
	c := &counted{sent: map[string]int{}, refs: map[string]int{}}
	c.Bucket = fault.New(b, func(verb, key string) fault.Fault {
		var f fault.Fault
		if rule != nil {
			f = rule(verb, key)
		}
		data := strings.HasPrefix(key, bucket.PacksPrefix) || strings.HasPrefix(key, bucket.IndexPrefix)
		if data && verb == "put-if-absent" && f.Before == nil {
			_, err := b.Stat(context.Background(), key)
			c.mu.Lock()
			if c.sent[key]++; err == nil {
				c.resent = append(c.resent, key)
			}
			c.mu.Unlock()
		}
		if verb == "put-if-absent" && strings.HasPrefix(key, bucket.RefsPrefix) {
			c.mu.Lock()
			c.refs[key]++
			c.mu.Unlock()
		}
		return f
	})
	return c
}

func (c *counted) count(prefix string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, times := range c.sent {
		if strings.HasPrefix(key, prefix) {
			n += times
		}
	}
	return n
}

// once says what was sent although it had arrived.
func (c *counted) once(t testing.TB) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.resent) > 0 {
		t.Errorf("sent again: %v", c.resent)
	}
}

// onlyOnce is a bucket in which nothing is put over, but a lease, and anything by
// its tombstone.
type onlyOnce struct{ remote.Bucket }

func (o *onlyOnce) Put(_ context.Context, key string, _ remote.Content) error {
	return remote.Fail("put", key, remote.ErrInvalid, errors.New("it may be there"))
}

func (o *onlyOnce) ReplaceIfMatch(ctx context.Context, key, version string, c remote.Content) (string, error) {
	if !strings.HasPrefix(key, bucket.LeasesPrefix) && c.Size != bucket.GoneSize {
		return "", remote.Fail("replace", key, remote.ErrInvalid, errors.New("it is no lease"))
	}
	return o.Bucket.ReplaceIfMatch(ctx, key, version, c)
}

// dying ends a daemon at its k-th request: before or after that is made, and then
// nothing is.
type dying struct {
	mu    sync.Mutex
	left  int
	after bool
	dead  chan struct{} // closed at that request
}

func (d *dying) rule(verb, key string) fault.Fault {
	err := remote.Fail(verb, key, remote.ErrRetryable, fault.ErrInjected)
	d.mu.Lock()
	defer d.mu.Unlock()
	switch d.left--; {
	case d.left > 0:
		return fault.Fault{}
	case d.left < 0:
		return fault.Fault{Before: err}
	}
	defer close(d.dead)
	if d.after {
		return fault.Fault{After: err}
	}
	return fault.Fault{Before: err}
}

// TestPublishCrash ends the daemon at each request of an upload, by kill -9 or a
// power cut, before or after the request is made. What is published at that
// moment is whole, and the next daemon publishes the rest, and sends nothing
// that has arrived. STEPFS_CRASHES=all takes every way at each request; else they
// take turns.
func TestPublishCrash(t *testing.T) {
	ways := []int{-1}
	if os.Getenv("STEPFS_CRASHES") == "all" {
		ways = []int{0, 1, 2, 3}
	}
	c := &publishCrash{world: newWorld(t, nil)}
	w := c.world
	w.put("a", noise(1, 300<<10))
	w.put("dir/b", "b")
	c.steps = append(c.steps, w.step("1"))
	w.drain()
	w.put("a", noise(1, 290<<10)+noise(2, 10<<10))
	c.steps = append(c.steps, w.step("2"))
	w.drain()
	w.ok(w.eng.Sync(w.eng.Pos()))
	c.stored = w.mem.CrashClone(vfs.CrashCloneCfg{})
	for k, done := 1, false; !done; k++ {
		for _, way := range ways {
			if way < 0 {
				way = k % 4
			}
			done = c.at(t, k, way&1 != 0, way&2 != 0)
			if t.Failed() {
				t.Fatalf("request %d, way %d", k, way)
			}
		}
	}
}

// publishCrash is a store with two steps, of which nothing is uploaded.
type publishCrash struct {
	*world
	stored *vfs.MemFS
	steps  []snapshot.Info
}

// again opens the store as a disk has it.
func (c *publishCrash) again(disk *vfs.MemFS, b remote.Bucket) {
	_ = c.stop(false)
	c.mem = disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: randv2.New(randv2.NewPCG(1, 2))})
	c.conf = nil
	c.publishing(b, snapshot.Publish{})
	c.open()
}

func (c *publishCrash) at(t *testing.T, k int, after, power bool) (done bool) {
	base := mem.New()
	d := &dying{left: k, after: after, dead: make(chan struct{})}
	b, healthy := newCounted(base, d.rule), newCounted(base, nil)
	c.again(c.stored, b)
	for !done {
		r, err := c.m.PublishReport()
		c.ok(err)
		done = r.Queue == 0 // there were less requests
		select {
		case <-d.dead:
		case <-time.After(time.Millisecond):
			continue
		}
		break
	}
	cfg := vfs.CrashCloneCfg{RNG: randv2.New(randv2.NewPCG(1, 2))}
	if !power {
		cfg.UnsyncedDataPercent = 100
	}
	disk := c.mem.CrashClone(cfg)
	refs(t, base)
	c.again(disk, healthy)
	c.published()
	c.wantPublished(base, c.steps...)
	b.once(t)
	healthy.once(t)
	if len(refs(t, base)) != len(c.steps) {
		t.Error("not all is published")
	}
	return done
}
