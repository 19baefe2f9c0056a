package snapshot_test

import (
	"context"
	"maps"
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
	before := w.conf
	w.conf = func(c *snapshot.Config) {
		if before != nil {
			before(c)
		}
		open := func(context.Context) (remote.Bucket, error) { return b, nil }
		c.Uploads, c.Publish = w.chunks.Uploads(open, "store"), what
	}
	w.restart()
}

// published waits until nothing waits to be published.
func (w *world) published() {
	w.t.Helper()
	w.drain()
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
	indexed := indexedPacks(t, b)
	for o, err := range b.List(t.Context(), bucket.RefsPrefix, "") {
		if err != nil {
			t.Fatal(err)
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

// indexedPacks gives what the index objects list, each of which has to be there.
func indexedPacks(t testing.TB, b remote.Bucket) map[bucket.Pack]bool {
	t.Helper()
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
			object(t, b, x.Pack(p).Key())
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
	eng, err := state.Open(state.Config{Dir: "n", FS: fs, BootID: "boot"})
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

// counted counts what is put, by key.
type counted struct {
	*fault.Bucket
	mu   sync.Mutex
	sent map[string]int
}

func newCounted(b remote.Bucket, rule fault.Rule) *counted {
	c := &counted{sent: map[string]int{}}
	c.Bucket = fault.New(b, func(verb, key string) fault.Fault {
		c.mu.Lock()
		if verb == "put" || verb == "put-if-absent" {
			c.sent[key]++
		}
		c.mu.Unlock()
		if rule == nil {
			return fault.Fault{}
		}
		return rule(verb, key)
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

// once says what was sent more than once.
func (c *counted) once(t testing.TB) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, times := range c.sent {
		if times > 1 && !strings.HasPrefix(key, bucket.WritersPrefix) {
			t.Errorf("%s was sent %d times", key, times)
		}
	}
}
