package chunkstore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"pgregory.net/rapid"

	"stepfs/chunkstore/pack"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

func TestReadAnyRange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := openFixture(t, vfs.NewMem(), "store", smallConfig())
		c := drawContent(t)
		refs := f.ingest(c, nil).Refs()
		for range 20 {
			if len(refs) == 0 {
				return
			}
			r := rapid.SampledFrom(refs).Draw(t, "ref")
			off := rapid.IntRange(0, int(r.Len)).Draw(t, "off")
			dst := make([]byte, rapid.IntRange(0, int(r.Len)-off).Draw(t, "n"))
			if err := f.ReadAt(context.Background(), r.ID, r.Len, dst, off); err != nil {
				t.Fatal(err)
			}
			at := int(r.Off) + off
			if !bytes.Equal(dst, c.data[at:at+len(dst)]) {
				t.Fatalf("chunk at %d: wrong bytes from %d", r.Off, off)
			}
		}
		if b := f.cache.bytes; b > f.cfg.CacheBytes {
			t.Fatalf("the cache holds %d of %d bytes", b, f.cfg.CacheBytes)
		}
	})
}

func TestReadErrors(t *testing.T) {
	f := newFixture(t)
	r := f.ingest(solid(randomBytes(1, 100)), nil).Refs()[0]
	ctx := context.Background()
	dst := make([]byte, 50)
	for _, off := range []int{-1, 51, 101} {
		if err := f.ReadAt(ctx, r.ID, r.Len, dst, off); !errors.Is(err, ErrRange) {
			t.Errorf("offset %d: %v", off, err)
		}
	}
	if err := f.ReadAt(ctx, ID{1}, 100, dst, 0); !errors.Is(err, ErrMissing) {
		t.Errorf("unknown chunk: %v", err)
	}
	if err := f.ReadAt(ctx, r.ID, 99, dst, 0); !errors.Is(err, ErrCorrupt) {
		t.Errorf("wrong length: %v", err)
	}
	if err := f.ReadAt(ctx, r.ID, r.Len, dst, 0); err != nil {
		t.Error(err)
	}
	if err := f.ReadAt(ctx, r.ID, 99, dst, 0); !errors.Is(err, ErrCorrupt) {
		t.Errorf("wrong length, cached: %v", err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if err := f.ReadAt(cancelled, r.ID, r.Len, dst, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// readFile and writeFile change packs behind the store's back.
func readFile(t tester, fs vfs.FS, path string) []byte {
	f, err := fs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeFile(t tester, fs vfs.FS, path string, b []byte) {
	f, err := fs.Create(path, "test")
	if err == nil {
		_, err = f.Write(b)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func onlyPack(t tester, fs vfs.FS) string {
	names, err := fs.List("store/packs")
	if err != nil || len(names) != 1 {
		t.Fatal("want one pack, there are", names, err)
	}
	return "store/packs/" + names[0]
}

// TestFlippedPack: whatever byte of a pack changes, a read gives ErrCorrupt
// that names pack and chunk, or the right bytes; and saving the content again
// heals it.
func TestFlippedPack(t *testing.T) {
	cfg := smallConfig()
	cfg.PackSize = 1 << 20
	fs := vfs.NewMem()
	f := openFixture(t, fs, "store", cfg)
	c := solid(append(randomBytes(1, 1500), bytes.Repeat([]byte("compress me "), 150)...))
	refs := f.ingest(c, nil).Refs()
	path := onlyPack(t, fs)
	good := readFile(t, fs, path)
	corrupt := 0
	for i := 0; i < len(good); i += 3 {
		bad := bytes.Clone(good)
		bad[i] ^= 0x20
		writeFile(t, fs, path, bad)
		f.files.drop()
		f.cache.drop()
		back, err := f.fetchAll(len(c.data), refs)
		switch {
		case err == nil && !bytes.Equal(back, c.data):
			t.Fatalf("byte %d: wrong data", i)
		case err != nil:
			corrupt++
			name := strings.TrimPrefix(path, "store/packs/")
			if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "chunk ") {
				t.Fatalf("byte %d: %v", i, err)
			}
		}
	}
	if corrupt == 0 {
		t.Fatal("no flip was ever found")
	}
	st := f.Stats()
	if st.DamagedChunks == 0 {
		t.Fatalf("%+v", st)
	}
	if p := f.ingest(c, nil); p.NewBytes() == 0 {
		t.Fatal("damaged chunks count as there")
	}
	checkContent(t, f, c, refs)
	if st := f.Stats(); st.DamagedChunks != 0 {
		t.Fatalf("after healing %+v", st)
	}
}

func TestTruncatedPack(t *testing.T) {
	fs := vfs.NewMem()
	f := openFixture(t, fs, "store", smallConfig())
	c := solid(randomBytes(1, 3000))
	refs := f.ingest(c, nil).Refs()
	path := onlyPack(t, fs)
	writeFile(t, fs, path, readFile(t, fs, path)[:200])
	if _, err := f.fetchAll(3000, refs); !errors.Is(err, ErrCorrupt) {
		t.Fatal(err)
	}
}

// TestMissingPack: found by a read or at Open; either way the same content is
// stored again.
func TestMissingPack(t *testing.T) {
	for _, reopen := range []bool{false, true} {
		fs := vfs.NewMem()
		f := openFixture(t, fs, "store", smallConfig())
		var events int
		f.cfg.Events.Damage = func(error) { events++ }
		c := solid(randomBytes(1, 3000))
		refs := f.ingest(c, nil).Refs()
		if err := fs.Remove(onlyPack(t, fs)); err != nil {
			t.Fatal(err)
		}
		if reopen {
			f.close()
			f = openFixture(t, fs, "store", smallConfig())
		} else if _, err := f.fetchAll(3000, refs); !errors.Is(err, ErrMissing) || events != 1 {
			t.Fatalf("%v, %d events", err, events)
		}
		if st := f.Stats(); st.LostPacks != 1 {
			t.Fatalf("%+v", st)
		}
		if p := f.ingest(c, nil); p.NewBytes() != 3000 {
			t.Fatalf("%d new bytes", p.NewBytes())
		}
		checkContent(t, f, c, refs)
	}
}

// TestDiskErrorIsNotCorruption: EIO says nothing about the bytes.
func TestDiskErrorIsNotCorruption(t *testing.T) {
	var bad atomic.Bool
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if bad.Load() && op.Kind == errorfs.OpFileReadAt && strings.HasSuffix(op.Path, pack.Suffix) {
			return syscall.EIO
		}
		return nil
	}))
	f := openFixture(t, fs, "store", smallConfig())
	c := solid(randomBytes(1, 1000))
	refs := f.ingest(c, nil).Refs()
	bad.Store(true)
	if _, err := f.fetchAll(1000, refs); !errors.Is(err, syscall.EIO) || errors.Is(err, ErrCorrupt) {
		t.Fatal(err)
	}
	bad.Store(false)
	checkContent(t, f, c, refs)
}

// TestConcurrentReaders shares loads, evicts under readers, and must neither
// race nor mix up buffers.
func TestConcurrentReaders(t *testing.T) {
	cfg := smallConfig()
	cfg.CacheBytes = 8 << 10
	f := openFixture(t, vfs.NewMem(), "store", cfg)
	c := solid(append(randomBytes(1, 60_000), bytes.Repeat([]byte("0123456789"), 3000)...))
	refs := f.ingest(c, nil).Refs()
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			dst := make([]byte, 64)
			for i := range 3000 {
				r := refs[(i*(g%3+1))%len(refs)]
				n := min(len(dst), int(r.Len))
				off := (i * 31) % (int(r.Len) - n + 1)
				if err := f.ReadAt(context.Background(), r.ID, r.Len, dst[:n], off); err != nil {
					t.Error(err)
					return
				}
				if at := int(r.Off) + off; !bytes.Equal(dst[:n], c.data[at:at+n]) {
					t.Errorf("wrong bytes at %d", at)
					return
				}
			}
		})
	}
	wg.Wait()
	if st := f.Stats(); st.CacheHits == 0 || st.Loads == 0 {
		t.Fatalf("%+v", st)
	}
}

// TestSharedLoad: readers of one chunk wait for one load, and a reader that
// gives up does not disturb it.
func TestSharedLoad(t *testing.T) {
	pool := newBufferPool(1 << 20)
	c := newChunkCache(1<<20, pool)
	started, release := make(chan struct{}), make(chan struct{})
	loads := 0
	load := func() (*buffer, error) {
		loads++
		close(started)
		<-release
		return pool.get(10), nil
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		e, err := c.acquire(context.Background(), ID{1}, load)
		if err != nil {
			t.Error(err)
			return
		}
		c.release(e)
	})
	<-started
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.acquire(cancelled, ID{1}, load); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	c.drop() // while loading: the load must not enter the cache
	close(release)
	wg.Wait()
	if loads != 1 || c.peek(ID{1}) != nil || c.bytes != 0 || pool.held == 0 {
		t.Fatalf("%d loads, %d bytes cached, %d in the pool", loads, c.bytes, pool.held)
	}
}

// TestCacheKeepsWhatIsInUse: no buffer is recycled under a reader, neither by
// the limit nor by drop, and each is recycled once nobody reads it.
func TestCacheKeepsWhatIsInUse(t *testing.T) {
	pool := newBufferPool(1 << 20)
	c := newChunkCache(8<<10, pool)
	load := func() (*buffer, error) { return pool.get(4 << 10), nil }
	take := func(i byte) *cached {
		e, err := c.acquire(context.Background(), ID{i}, load)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	held := []*cached{take(0), take(1), take(2), take(3)}
	c.release(take(4))
	if c.bytes != 16<<10 || pool.held != 4<<10 {
		t.Fatalf("in use: %d bytes cached, %d in the pool", c.bytes, pool.held)
	}
	c.release(held[0])
	c.drop()
	for _, e := range held[1:] {
		if e.buf == nil {
			t.Fatal("recycled in use")
		}
		c.release(e)
	}
	if c.bytes != 0 || pool.held != 20<<10 || len(c.entries) != 0 {
		t.Fatalf("at last: %d bytes cached, %d in the pool, %d entries", c.bytes, pool.held, len(c.entries))
	}
}

func TestBufferClasses(t *testing.T) {
	for n := 1; n < 20<<20; n += 4093 {
		c := class(n)
		if c < n || n > 4<<10 && c > n+n/4+1 || class(c) != c {
			t.Fatalf("class(%d) = %d, class of that %d", n, c, class(c))
		}
	}
}

// TestFileHandles: no more pack files stay open than allowed.
func TestFileHandles(t *testing.T) {
	f := newFixture(t)
	refs := f.ingest(solid(randomBytes(1, 100_000)), nil).Refs()
	if _, err := f.fetchAll(100_000, refs); err != nil {
		t.Fatal(err)
	}
	if n := len(f.files.files); n > f.cfg.OpenFiles || n != f.files.idle.Len() {
		t.Fatalf("%d files open, %d idle", n, f.files.idle.Len())
	}
}

func TestRebuildIndex(t *testing.T) {
	fs := vfs.NewMem()
	f := openFixture(t, fs, "store", smallConfig())
	v1 := solid(randomBytes(1, 50_000))
	r1 := f.ingest(v1, nil).Refs()
	v2 := solid(append(bytes.Clone(v1.data), bytes.Repeat([]byte("tail "), 4000)...))
	r2 := f.ingest(v2, r1).Refs()
	want := f.Stats()
	writeFile(t, fs, "store/packs/README", []byte("not ours"))
	broken := "store/packs/" + pack.Name{1}.FileName()
	writeFile(t, fs, broken, []byte("not a pack"))
	if err := f.RebuildIndex(context.Background()); err != nil {
		t.Fatal(err)
	}
	got := f.Stats()
	if got.Packs != want.Packs || got.Chunks != want.Chunks || got.Raw != want.Raw || got.Size != want.Size || got.BadPacks != 1 {
		t.Fatalf("rebuilt %+v, was %+v", got, want)
	}
	checkContent(t, f, v1, r1)
	checkContent(t, f, v2, r2)
	if p := f.ingest(v2, nil); p.NewBytes() != 0 {
		t.Fatalf("%d new bytes after a rebuild", p.NewBytes())
	}
	for _, left := range []string{broken, "store/packs/README"} {
		if _, err := fs.Stat(left); err != nil {
			t.Fatal(err)
		}
	}
	f.close()
	checkContent(t, openFixture(t, fs, "store", smallConfig()), v2, r2)
}

// TestLostIndex: the packs alone bring every chunk back.
func TestLostIndex(t *testing.T) {
	fs := vfs.NewMem()
	f := openFixture(t, fs, "store", smallConfig())
	c := solid(randomBytes(1, 50_000))
	refs := f.ingest(c, nil).Refs()
	f.close()
	for _, dir := range []string{"store/index", "store/journal"} {
		if err := fs.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	checkContent(t, openFixture(t, fs, "store", smallConfig()), c, refs)
}

// TestLostCounter: without its counter the index never gives a number twice.
func TestLostCounter(t *testing.T) {
	f := newFixture(t)
	c := solid(randomBytes(1, 1000))
	refs := f.ingest(c, nil).Refs()
	if _, err := f.engine.Update(schema.KindPackState, func(tx *state.Tx) error {
		tx.Delete(schema.PackCounterKey())
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	f.close()
	f = openFixture(t, f.fs, "store", smallConfig())
	f.ingest(solid(randomBytes(2, 1000)), nil)
	checkContent(t, f, c, refs)
}

// TestAdoptedPackHealsALostOne: the same chunk in two packs, one of which is
// gone; the one that is there is not in the index yet.
func TestAdoptedPackHealsALostOne(t *testing.T) {
	fs := vfs.NewMem()
	cfg := smallConfig()
	cfg.PackSize = 1 << 20
	f := openFixture(t, fs, "store", cfg)
	c := solid(randomBytes(1, 1000))
	refs := f.ingest(c, nil).Refs()
	f.close()
	if err := fs.Remove(onlyPack(t, fs)); err != nil {
		t.Fatal(err)
	}
	other := openFixture(t, vfs.NewMem(), "store", cfg)
	other.ingest(solid(append(bytes.Clone(c.data), randomBytes(9, 50)...)), nil)
	other.ingest(c, nil)
	names, err := other.fs.List("store/packs")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		writeFile(t, fs, "store/packs/"+n, readFile(t, other.fs, "store/packs/"+n))
	}
	checkContent(t, openFixture(t, fs, "store", cfg), c, refs)
}
