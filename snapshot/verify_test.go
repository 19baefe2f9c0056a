package snapshot_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/snapshot"
)

// verify verifies a snapshot and gives what is said of it.
func (w *world) verify(seq uint64) *snapshot.Verified {
	w.t.Helper()
	i, err := w.m.Verify(w.ctx(), seq, nil)
	w.ok(err)
	return i.Verified
}

// flip changes the byte at an offset, and says whether there is one.
func flip(f interface {
	io.ReaderAt
	io.WriterAt
}, off int64) bool {
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, off); err != nil {
		return false
	}
	b[0] ^= 0x10
	_, err := f.WriteAt(b, off)
	if err != nil {
		panic(err)
	}
	return true
}

// sound fails the test unless the verification found nothing and read so much.
func (w *world) sound(v *snapshot.Verified, bytes int) {
	w.t.Helper()
	if !v.OK() || v.Bytes != int64(bytes) || v.Time.IsZero() || v.Took <= 0 {
		w.t.Errorf("%+v, want %d bytes without a problem", v, bytes)
	}
}

// A step is read back from staging and from packs, its own files alone, files of
// two names once and holes not at all; the result outlives a restart.
func TestVerifySound(t *testing.T) {
	w := newWorld(t, nil)
	w.put("checkpoint-7/model", noise(1, 700_000))
	w.put("checkpoint-7/deep/small", "hello")
	w.put("checkpoint-6/model", noise(2, 100_000))
	a, err := w.tree.Find("checkpoint-7/model")
	w.ok(err)
	_, err = w.tree.Link(a.Ino, w.dir("checkpoint-7"), "again")
	w.ok(err)
	ino, fh := w.openFile("checkpoint-7/sparse", 0)
	w.pwrite(ino, fh, noise(3, 1<<20), 8<<20)
	w.closeFile(ino, fh)
	const own = 700_000 + 5 + 1<<20
	i := w.step("7")
	if i.Verified != nil {
		t.Error("verified before anybody did")
	}
	w.sound(w.verify(i.Seq), own)
	w.drain()
	w.sound(w.verify(i.Seq), own)
	for w.hot() > 0 { // from packs alone
		w.ok(w.tree.Hot(func(gen uint64, _ int64) bool { w.ok(w.tree.Evict(gen)); return true }))
	}
	w.sound(w.verify(i.Seq), own)
	w.restart()
	again, err := w.m.Get(i.Seq)
	w.ok(err)
	if again.Verified == nil {
		t.Fatal("forgotten by a restart")
	}
	w.sound(again.Verified, own)

	named, err := w.m.Snapshot(w.ctx(), "", "mine", "mkdir", nil)
	w.ok(err)
	w.sound(w.verify(named.Seq), own+100_000)
	w.sound(w.verify(w.barrier()), own+100_000)
	w.noFaults()
}

// One byte that changed in a pack is found, and where, also while readers get
// the hot copy, or what a cache has, and notice nothing.
func TestVerifyFindsDamageInPacks(t *testing.T) {
	t.Run("hot", func(t *testing.T) { findsDamageInPacks(t, false) })
	t.Run("cached", func(t *testing.T) { findsDamageInPacks(t, true) })
}

func findsDamageInPacks(t *testing.T, cold bool) {
	var mu sync.Mutex
	var told []snapshot.Info
	w := newWorld(t, func(c *snapshot.Config) {
		c.Events.Verified = func(i snapshot.Info) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, i)
		}
	})
	data := noise(1, 300_000)
	w.put("runA/checkpoint-7/good", noise(2, 300_000))
	w.drain() // a pack of its own
	before, err := w.mem.List("s/packs")
	w.ok(err)
	w.put("runA/checkpoint-7/bad", data)
	i, err := w.m.Snapshot(w.ctx(), "runA", "7", "xattr", nil)
	w.ok(err)
	w.drain()
	w.sound(w.verify(i.Seq), 600_000)
	all, err := w.mem.List("s/packs")
	w.ok(err)
	if len(all) == len(before) {
		t.Fatal("both are in one pack")
	}
	for cold && w.hot() > 0 {
		w.ok(w.tree.Hot(func(gen uint64, _ int64) bool { w.ok(w.tree.Evict(gen)); return true }))
	}
	w.nibble(i.Seq, "runA/checkpoint-7/bad", data)
	w.flipNew(before, 50_000)
	w.nibble(i.Seq, "runA/checkpoint-7/bad", data)
	v := w.verify(i.Seq)
	if v.OK() || len(v.Problems) != 1 || !strings.HasPrefix(v.Problems[0], "runA/checkpoint-7/bad: at ") {
		t.Errorf("%+v", v)
	}
	if len(told) != 2 || !told[0].Verified.OK() || told[1].Verified.OK() || told[1].Name != "7" {
		t.Errorf("told %+v", told)
	}
}

// nibble is want by small reads: they leave their chunks in the cache.
func (w *world) nibble(seq uint64, path, data string) {
	w.t.Helper()
	v := w.tree.At(seq)
	a, err := lookup(v, path)
	w.ok(err)
	b := make([]byte, 1000)
	for off := 0; off < len(data); off += len(b) {
		n, err := v.Read(a.Ino, b, int64(off))
		w.ok(err)
		if n != min(len(b), len(data)-off) || string(b[:n]) != data[off:off+n] {
			w.t.Fatalf("wrong data at %d", off)
		}
	}
}

// flipNew flips a byte in the packs that are not among the old ones.
func (w *world) flipNew(old []string, off int64) {
	w.t.Helper()
	names, err := w.mem.List("s/packs")
	w.ok(err)
	hit := false
	for _, name := range names {
		if strings.Contains(strings.Join(old, " "), name) {
			continue
		}
		f, err := w.mem.OpenReadWrite("s/packs/"+name, vfs.WriteCategoryUnspecified)
		w.ok(err)
		hit = flip(f, off) || hit
		w.ok(f.Close())
	}
	if !hit {
		w.t.Fatal("no new pack is that long")
	}
}

// A hot copy that is not what was stored is found: readers get it.
func TestVerifyFindsDamageInHotCopy(t *testing.T) {
	w := newWorld(t, nil)
	w.put("checkpoint-7/model", noise(1, 300_000))
	i := w.step("7")
	w.drain()
	w.ok(w.disk.List(func(gen uint64) error {
		f, err := w.disk.Open(gen)
		w.ok(err)
		flip(f, 123_456)
		return f.Close()
	}))
	if v := w.verify(i.Seq); len(v.Problems) != 1 || !strings.Contains(v.Problems[0], "checkpoint-7/model: at") ||
		!strings.Contains(v.Problems[0], "hot copy is not what was stored") {
		t.Errorf("%+v", v)
	}
}

// What is staged and can't be read is found.
func TestVerifyFindsLossInStaging(t *testing.T) {
	w := newWorld(t, nil)
	w.put("checkpoint-7/model", noise(1, 300_000))
	i := w.step("7")
	w.disk.unreadable(func(uint64) error { return errors.New("medium error") })
	v := w.verify(i.Seq)
	w.disk.unreadable(nil)
	if len(v.Problems) != 1 || !strings.Contains(v.Problems[0], "checkpoint-7/model: ") || !strings.Contains(v.Problems[0], "medium error") {
		t.Errorf("%+v", v)
	}
	w.sound(w.verify(i.Seq), 300_000)
}

// The objects of a step's tree are a part of it.
func TestVerifyFindsDamageInTree(t *testing.T) {
	w := newWorld(t, nil)
	w.hurt = true
	w.put("checkpoint-7/model", noise(1, 100_000))
	w.drain()
	before, err := w.mem.List("s/packs")
	w.ok(err)
	i := w.step("7")
	w.stored("7")
	w.sound(w.verify(i.Seq), 100_000)
	w.flipNew(before, 300)
	if v := w.verify(i.Seq); v.OK() || !strings.HasPrefix(v.Problems[0], "tree: ") {
		t.Errorf("%+v", v)
	}
}

// A file of a step that is torn is found by its structure, with its path; in a
// snapshot that a person took, and in another step's files, it is not asked for.
func TestVerifyStructure(t *testing.T) {
	w := newWorld(t, nil)
	w.put("run/checkpoint-7/deep/model.safetensors", "torn")
	w.put("run/checkpoint-8/model", "fine")
	w.put("run/step-9.pt", "torn")
	for name, want := range map[string]string{"7": "run/checkpoint-7/deep/model.safetensors: ", "8": "", "9": "run/step-9.pt: "} {
		i, err := w.m.Snapshot(w.ctx(), "run", name, "xattr", nil)
		w.ok(err)
		v := w.verify(i.Seq)
		if want == "" && !v.OK() || want != "" && (len(v.Problems) != 1 || !strings.HasPrefix(v.Problems[0], want)) {
			t.Errorf("%s: %+v, want %q", name, v, want)
		}
	}
	named, err := w.m.Snapshot(w.ctx(), "run", "mine", "mkdir", nil)
	w.ok(err)
	w.sound(w.verify(named.Seq), 12)
}

// However much is damaged, the record stays small.
func TestVerifyProblemsAreBounded(t *testing.T) {
	w := newWorld(t, nil)
	for k := range 50 {
		w.put("checkpoint-7/"+strings.Repeat("x", 200)+string(rune('a'+k%26))+string(rune('a'+k/26)), noise(int64(k), 70_000))
	}
	i := w.step("7")
	w.disk.unreadable(func(uint64) error { return errors.New(strings.Repeat("long ", 1000)) })
	v := w.verify(i.Seq)
	w.disk.unreadable(nil)
	size := 0
	for _, p := range v.Problems {
		size += len(p)
	}
	if len(v.Problems) != 21 || v.Problems[20] != "and 30 more problems" || size > 20*500+100 {
		t.Errorf("%d problems, %d bytes, the last is %q", len(v.Problems), size, v.Problems[len(v.Problems)-1])
	}
}

// A verification that is broken off says nothing about the step.
func TestVerifyBrokenOff(t *testing.T) {
	w := newWorld(t, nil)
	w.put("checkpoint-7/model", noise(1, 64<<20))
	i := w.step("7")
	ctx, cancel := context.WithCancel(w.ctx())
	_, err := w.m.Verify(ctx, i.Seq, func(done, total int64) {
		if total != 64<<20 || done == 0 {
			t.Errorf("%d of %d", done, total)
		}
		cancel()
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if i, err = w.m.Get(i.Seq); err != nil || i.Verified != nil {
		t.Errorf("%+v, %v", i.Verified, err)
	}
	if _, err := w.m.Verify(w.ctx(), 4711, nil); !errors.Is(err, snapshot.ErrNotExist) {
		t.Error(err)
	}
}

// A manager that closes does not wait for the end of a verification.
func TestVerifyEndsWithTheManager(t *testing.T) {
	w := newWorld(t, nil)
	w.put("checkpoint-7/model", noise(1, 64<<20))
	i := w.step("7")
	closed := make(chan error, 1)
	_, err := w.m.Verify(w.ctx(), i.Seq, func(done, _ int64) {
		if done < 32<<20 {
			go func() { closed <- w.m.Close() }()
			until(t, "it closes", func() bool { _, err := w.m.Verify(w.ctx(), i.Seq, nil); return errors.Is(err, snapshot.ErrClosed) })
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	w.ok(<-closed)
}

// With VerifyOnSeal each step is verified once it is stored, and no snapshot
// that a person took.
func TestVerifyOnSeal(t *testing.T) {
	w := newWorld(t, func(c *snapshot.Config) { c.VerifyOnSeal = true })
	for _, step := range []string{"7", "8"} {
		w.put("checkpoint-"+step+"/model", noise(1, 300_000))
		w.step(step)
	}
	named, err := w.m.Snapshot(w.ctx(), "", "mine", "mkdir", nil)
	w.ok(err)
	for _, step := range []string{"7", "8"} {
		until(t, step+" is verified", func() bool {
			i, err := w.m.Resolve("", step)
			w.ok(err)
			if i.Verified != nil && (i.State != snapshot.StateStored || !i.Verified.OK() || i.Verified.Bytes != 300_000) {
				t.Errorf("%+v", i)
			}
			return i.Verified != nil
		})
	}
	w.stored("mine")
	if i, err := w.m.Get(named.Seq); err != nil || i.Verified != nil {
		t.Errorf("%+v, %v", i.Verified, err)
	}
	w.noFaults()
}
