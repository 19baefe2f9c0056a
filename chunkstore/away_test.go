package chunkstore

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/bucket/prune"
	"stepfs/chunkstore/pack"
	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/fault"
	"stepfs/chunkstore/remote/mem"
)

// What relies on packs that are only in a bucket.

// TestAwayHits: new content may rely on what is only in the bucket as long as it is
// known to stay there. Else it is stored again: its last other copy goes then.
func TestAwayHits(t *testing.T) {
	b := mem.New()
	c := solid(randomBytes(1, 20_000))
	away := func(t *testing.T) (*fixture, *Uploads, *bucket.Ref) {
		f := openFixture(t, vfs.NewMem(), "store", smallConfig())
		refs := f.store(c)
		f.hold(1, refs)
		u, ref := f.uploadTo(b, refs)
		f.evictAll()
		return f, u, ref
	}
	again := func(f *fixture, hit bool) {
		t.Helper()
		f.hold(2, f.store(c))
		if (len(f.local()) == 0) != hit {
			t.Fatalf("%v are here; a hit: %v", f.local(), hit)
		}
	}
	t.Run("attached", func(t *testing.T) {
		f, _, _ := away(t)
		again(f, true)
	})
	t.Run("the bucket was not asked since the start", func(t *testing.T) {
		f, _, _ := away(t)
		f.close()
		f = openFixture(t, f.fs, "store", smallConfig())
		again(f, false)
	})
	t.Run("nor for long", func(t *testing.T) {
		f, u, _ := away(t)
		u.trust = 0
		again(f, false)
	})
	t.Run("about to be pruned", func(t *testing.T) {
		b = mem.New()
		f, u, ref := away(t)
		try(t, u.Renew(t.Context())) // nothing is on its way any more
		try(t, prune.Forget(t.Context(), b, ref.Writer, ref.Seq))
		_, err := prune.Run(t.Context(), b, prune.Options{})
		try(t, err)
		try(t, u.attached.Load().lease.Renew(t.Context())) // and nothing is fetched yet
		again(f, false)
	})
}

// TestAwayBase: nothing is fetched to make new content smaller, but what has a base
// that is away is stored.
func TestAwayBase(t *testing.T) {
	var gets atomic.Int64
	b := fault.New(mem.New(), func(verb, key string) fault.Fault {
		if verb == "get" && strings.HasPrefix(key, bucket.PacksPrefix) {
			gets.Add(1)
		}
		return fault.Fault{}
	})
	f := openFixture(t, vfs.NewMem(), "store", deltaConfig())
	versions := series(1, 10_000, 3)
	refs := f.storeSeries(versions[:2])
	f.uploadTo(b, refs...)
	f.evictAll()
	f.forget()
	next := f.ingest(versions[2], refs[1]).Refs()
	f.hold(3, next)
	if n := gets.Load(); n != 0 {
		t.Errorf("ingest made %d requests for packs", n)
	}
	checkContent(t, f, versions[2], next)
}

// hanging is a bucket of which ranges of packs are not answered, nor refused, until
// release.
func hanging(t *testing.T) (b remote.Bucket, hang *atomic.Bool, release func()) {
	hang = new(atomic.Bool)
	done := make(chan struct{})
	b = fault.New(mem.New(), func(verb, key string) fault.Fault {
		if hang.Load() && verb == "get" && strings.HasPrefix(key, bucket.PacksPrefix) {
			<-done
		}
		return fault.Fault{}
	})
	release = func() {
		hang.Store(false)
		close(done)
	}
	return b, hang, release
}

// TestHangingBucket: who reads what is only in a bucket that says nothing gets an
// error in the end, and the data once there is an answer.
func TestHangingBucket(t *testing.T) {
	b, hang, release := hanging(t)
	f := openFixture(t, vfs.NewMem(), "store", smallConfig())
	c := solid(randomBytes(1, 5000))
	refs := f.store(c)
	f.hold(1, refs)
	f.uploadTo(b, refs)
	f.evictAll()
	f.forget()
	f.far.wait, f.far.pause = 20*time.Millisecond, 0
	hang.Store(true)
	err := f.ReadAt(context.Background(), refs[0].ID, refs[0].Len, make([]byte, refs[0].Len), 0)
	if release(); !errors.Is(err, ErrUnreachable) {
		t.Fatal(err)
	}
	f.far.wait = time.Hour
	checkContent(t, f, c, refs)
}

// TestHangingPrefetch: chunks that are asked for in time and wait for the bucket
// keep nobody from what is here.
func TestHangingPrefetch(t *testing.T) {
	b, hang, release := hanging(t)
	f := openFixture(t, vfs.NewMem(), "store", smallConfig())
	old, fresh := solid(randomBytes(1, 60_000)), solid(randomBytes(2, 3000))
	was := f.store(old)
	f.hold(1, was)
	f.uploadTo(b, was)
	f.evictAll()
	f.forget()
	is := f.store(fresh)
	f.hold(2, is)
	f.cache.drop()
	hang.Store(true)
	for _, r := range was {
		f.Prefetch(r.ID, r.Len)
	}
	for len(f.prefetches) < cap(f.prefetches) {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond)
	if n := len(f.loads); n > 0 {
		t.Errorf("%d places in the queue of those who decode wait for the bucket", n)
	}
	checkContent(t, f, fresh, is)
	release()
	checkContent(t, f, old, was)
}

// TestStubLost: a pack that is away and whose stub is gone, or damaged, is fetched
// again; until then no index is made that does not know of it.
func TestStubLost(t *testing.T) {
	for name, harm := range map[string]func(f *fixture, path string){
		"gone":    func(f *fixture, path string) { try(f.t, f.fs.Remove(path)) },
		"damaged": func(f *fixture, path string) { flipIn(f, path, 30) },
	} {
		t.Run(name, func(t *testing.T) {
			f := openFixture(t, vfs.NewMem(), "store", smallConfig())
			c, b := solid(randomBytes(1, 5000)), mem.New()
			refs := f.store(c)
			f.hold(1, refs)
			f.uploadTo(b, refs)
			file := f.local()[0]
			f.evictAll()
			n, err := f.NextPack(0)
			try(t, err)
			harm(f, f.fs.PathJoin(f.dir, strings.TrimSuffix(file, pack.Suffix)+StubSuffix))
			f.close()
			f = openFixture(t, f.fs, "store", smallConfig())
			f.uploadTo(b)
			if err := f.RebuildIndex(t.Context()); err == nil || !strings.Contains(err.Error(), "only in the bucket") {
				t.Errorf("the index was thrown away: %v", err)
			}
			checkContent(t, f, c, refs)
			try(t, f.Scrub(t.Context(), n, func(error) {}, func(int64) error { return nil }))
			if n, err := f.HealPacks(t.Context()); n != 1 || err != nil {
				t.Fatalf("%d packs were fetched, %v", n, err)
			}
			if got := f.local(); len(got) != 1 || got[0] != file {
				t.Fatalf("%v are here", got)
			}
			try(t, f.RebuildIndex(t.Context()))
			checkContent(t, f, c, refs)
		})
	}
}

// TestReaderAway: a repair reads what is only in the bucket there, and what can't be
// read there is not lost.
func TestReaderAway(t *testing.T) {
	b := mem.New()
	f, versions, refs := awayStore(t, vfs.NewMem(), b)
	r, err := NewReader(f.db, f.fs, f.dir, deltaConfig())
	try(t, err)
	defer r.Close()
	if r.Away() == 0 {
		t.Fatal("nothing is away")
	}
	at := refs[1][0]
	if _, err := r.ReadBack(t.Context(), at.ID, nil); !errors.Is(err, ErrUnreachable) || errors.Is(err, ErrMissing) {
		t.Fatalf("without the bucket: %v", err)
	}
	r.ReadFrom(func(context.Context) (remote.Bucket, error) { return nil, io.ErrUnexpectedEOF })
	if _, err := r.ReadBack(t.Context(), at.ID, nil); !errors.Is(err, ErrUnreachable) || errors.Is(err, ErrMissing) {
		t.Fatalf("with one that can't be opened: %v", err)
	}
	r.s.far.pause = 0
	r.ReadFrom(func(context.Context) (remote.Bucket, error) { return b, nil })
	got, err := r.ReadBack(t.Context(), at.ID, nil)
	if err != nil || string(got) != string(versions[1].data[at.Off:at.End()]) {
		t.Fatal(err)
	}
}

// TestAwayElsewhere: a store that was made again from stubs knows of its bucket that
// chunks are named there as here. In one of other stores nothing is missing.
func TestAwayElsewhere(t *testing.T) {
	fs, b, others := vfs.NewMem(), mem.New(), mem.New()
	f, _, refs := awayStore(t, fs, b)
	f.close()
	try(t, fs.RemoveAll("store/index"))
	try(t, fs.RemoveAll("store/journal"))
	cfg := deltaConfig()
	cfg.Key[0] ^= 1
	openFixture(t, vfs.NewMem(), "store", cfg).uploadTo(others)
	f = openFixture(t, fs, "store", deltaConfig())
	f.far.pause = 0
	r := refs[0][0]
	for name, where := range map[string]remote.Bucket{"another": others, "none": mem.New()} {
		f.ReadFrom(func(context.Context) (remote.Bucket, error) { return where, nil })
		if err := f.ReadAt(t.Context(), r.ID, r.Len, make([]byte, r.Len), 0); !errors.Is(err, ErrUnreachable) || errors.Is(err, ErrMissing) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestEvictOnce: no two evict a pack at a time, nor one that is being fetched.
func TestEvictOnce(t *testing.T) {
	f := openFixture(t, vfs.NewMem(), "store", smallConfig())
	f.hold(1, f.store(solid(randomBytes(1, 5000))))
	for _, info := range f.mu.table {
		if !f.mayEvict(info) || f.mayEvict(info) {
			t.Fatal("two may")
		}
		if done, err := f.takeBack(info.number, bucket.Pack{}, nil); done || err != nil {
			t.Fatal(done, err)
		}
		f.unchoose([]*evicted{{info: info}})
		if !f.mayEvict(info) {
			t.Fatal("nobody may any more")
		}
	}
}
