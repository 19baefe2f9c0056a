package stage

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
)

// newMem is a metadata disk with the store's directory on it, durably.
func newMem(t testing.TB) *vfs.MemFS {
	t.Helper()
	mem := vfs.NewCrashableMem()
	err := mem.MkdirAll("s", 0o700)
	var root vfs.File
	if err == nil {
		root, err = mem.OpenDir("/")
	}
	if err == nil {
		err = errors.Join(root.Sync(), root.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return mem
}

// powerCut takes the power away, losing all of the metadata that no sync has
// covered, and gives the machine that comes up after it.
func (w *world) powerCut(boot string, rng *rand.Rand) {
	w.t.Helper()
	mem, disk := w.mem.CrashClone(vfs.CrashCloneCfg{}), w.disk.(*memDisk).crash(rng)
	_ = w.tree.Close() // the old machine's: nobody sees it
	_ = w.eng.Close(false)
	w.mem, w.disk = mem, disk
	w.open(boot)
}

// TestLostReservation: power failed before the record that reserved generation
// numbers was durable, but after a staging file with such a number was. Should
// power fail again, before the disk has noted that the file was removed, its
// bytes are not taken for those of a file written meanwhile.
func TestLostReservation(t *testing.T) {
	reused := 0
	for seed := range uint64(64) {
		rng := rand.New(rand.NewPCG(seed, 1))
		w := &world{t: t, mem: newMem(t), disk: newMemDisk()}
		w.open("boot1")
		if err := w.eng.Sync(w.eng.Pos()); err != nil {
			t.Fatal(err)
		}
		for k := range 4 {
			ino, fh := w.create(fmt.Sprint("lost", k))
			w.mustWrite(ino, fh, 'X', 100000, 0)
		}
		w.powerCut("boot2", rng)

		ino, fh := w.create("d")
		w.mustWrite(ino, fh, 'n', 100000, 0)
		if err := w.eng.Sync(w.eng.Pos()); err != nil { // as another file's barrier does
			t.Fatal(err)
		}
		w.powerCut("boot3", rng)
		b := make([]byte, 100000)
		n, err := w.tree.Read(ino, 0, b, 0)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(b[:n], 'X') {
			t.Fatal(fmt.Sprint("seed ", seed, ": a file shows bytes that another one lost"))
		}
		if n > 0 {
			reused++
		}
		w.close()
	}
	if reused == 0 {
		t.Error("no file was left: nothing proved")
	}
}

// TestTornPage: of a page that was written twice in parts, over older content
// that is durable, the disk has only the first part when power fails. What it
// lacks shows the older bytes.
func TestTornPage(t *testing.T) {
	for _, first := range []int{66000, 300} { // in a staging file at once, or moved to one
		torn := 0
		for seed := range uint64(100) {
			w := &world{t: t, mem: newMem(t), disk: newMemDisk()}
			w.open("boot1")
			ino, fh := w.create("f")
			w.mustWrite(ino, fh, 'o', 80000, 0)
			w.barrier(ino)
			w.mustWrite(ino, fh, 'n', first, 100)
			w.mustWrite(ino, fh, 'N', 66000, 10000)
			w.mustWrite(ino, fh, 'm', 10, 50)
			w.mustWrite(ino, fh, 'm', 10, 76050) // the page where 'N' ends
			if err := w.eng.Sync(w.eng.Pos()); err != nil {
				t.Fatal(err)
			}
			w.powerCut("boot2", rand.New(rand.NewPCG(seed, 2)))
			b := make([]byte, 80000)
			if n, err := w.tree.Read(ino, 0, b, 0); err != nil || n != len(b) {
				t.Fatalf("%d bytes, %v", n, err)
			}
			if k := slices.Index(b, 0); k >= 0 {
				t.Fatalf("seed %d: byte %d is zero", seed, k)
			}
			if b[0] != 'o' || b[49] != 'o' || b[60] != 'o' || b[79999] != 'o' {
				t.Fatalf("seed %d: bytes around the write changed: %q", seed, b[:70])
			}
			if b[100] == 'n' && b[50] == 'o' {
				torn++
			}
			w.close()
		}
		if torn == 0 {
			t.Error("no page was torn: nothing proved")
		}
	}
}

// TestNoTruncatedBytes: bytes that were appended to a durable content, cut off
// again, and are hidden by nothing that is kept any more, do not come back in
// the place of a later write that power took.
func TestNoTruncatedBytes(t *testing.T) {
	lost := 0
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 3))
		w := &world{t: t, mem: newMem(t), disk: newMemDisk()}
		w.open("boot1")
		ino, fh := w.create("f")
		w.mustWrite(ino, fh, 'd', 70000, 0)
		w.barrier(ino)
		w.mustWrite(ino, fh, 'x', 70000, 70000) // goes on in the same generation
		size := int64(1)
		if _, err := w.tree.SetAttr(ino, SetAttr{Size: &size, Handle: fh}); err != nil {
			t.Fatal(err)
		}
		w.mustWrite(ino, fh, 'n', 70000, 70000)
		w.reapAll()
		if err := w.eng.Sync(w.eng.Pos()); err != nil {
			t.Fatal(err)
		}
		w.powerCut("boot2", rng)
		b := make([]byte, 140000)
		n, err := w.tree.Read(ino, 0, b, 0)
		if err != nil {
			t.Fatal(err)
		}
		if k := slices.Index(b[:n], 'x'); k >= 0 {
			t.Fatalf("seed %d: byte %d of %d is one that was cut off", seed, k, n)
		}
		if !slices.Contains(b[:n], 'n') {
			lost++
		}
		w.close()
	}
	if lost == 0 {
		t.Error("no write was lost: nothing proved")
	}
}

// TestDurableLength: a file that was made longer without a write, and synced,
// stays as long when power takes the first bytes that were written to it.
func TestDurableLength(t *testing.T) {
	lost := 0
	for seed := range uint64(40) {
		w := &world{t: t, mem: newMem(t), disk: newMemDisk()}
		w.open("boot1")
		ino, fh := w.create("f")
		size := int64(5000)
		if _, err := w.tree.SetAttr(ino, SetAttr{Size: &size, Handle: fh}); err != nil {
			t.Fatal(err)
		}
		w.barrier(ino)
		w.mustWrite(ino, fh, 'n', 70000, 10)
		if err := w.eng.Sync(w.eng.Pos()); err != nil {
			t.Fatal(err)
		}
		w.powerCut("boot2", rand.New(rand.NewPCG(seed, 4)))
		a, err := w.tree.GetAttr(ino)
		if err != nil {
			t.Fatal(err)
		}
		if a.Size < size {
			t.Fatalf("seed %d: %d bytes, of which %d were durable", seed, a.Size, size)
		}
		if a.Size == size {
			lost++
		}
		w.close()
	}
	if lost == 0 {
		t.Error("no write was lost: nothing proved")
	}
}

// TestNothingLostWaits: of a file that was committed twice beyond its last
// sync, once by an append and once by an overwrite, power took what was not
// synced. What waits for ingest then is what is there.
func TestNothingLostWaits(t *testing.T) {
	torn := 0
	for seed := range uint64(32) {
		w := &world{t: t, mem: newMem(t), disk: newMemDisk()}
		w.open("boot1")
		ino, fh := w.create("f")
		w.mustWrite(ino, fh, 'a', 100000, 0)
		w.barrier(ino)
		w.mustWrite(ino, fh, 'b', 36000, 100000)
		w.tree.settler.barrierBegins() // it syncs nothing from here on
		w.shut(ino, fh)
		w.snap()
		fh, err := w.tree.Open(ino, unix.O_WRONLY, Cred{})
		if err != nil {
			t.Fatal(err)
		}
		w.mustWrite(ino, fh, 'c', 70000, 0)
		w.shut(ino, fh)
		if err := w.eng.Sync(w.eng.Pos()); err != nil {
			t.Fatal(err)
		}
		w.tree.settler.barrierEnds()
		w.powerCut("boot2", rand.New(rand.NewPCG(seed, 1)))
		err = w.tree.Pending(func(f *Frozen) bool {
			b := make([]byte, f.p.Content.Len)
			if n, err := f.ReadAt(b, 0); err != nil || n != len(b) {
				t.Errorf("seed %d: of %d bytes that wait, %d can be read: %v", seed, len(b), n, err)
			}
			if len(b) == 100000 {
				torn++
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		w.close()
	}
	if torn == 0 {
		t.Error("nothing was lost: nothing proved")
	}
}

// TestDurableWaitsOn: a content that is durable, and waits for ingest, goes on
// waiting when power takes what was appended to it, and what was written over
// that before the next cut: a snapshot shows it.
func TestDurableWaitsOn(t *testing.T) {
	for seed := range uint64(8) {
		w := &world{t: t, mem: newMem(t), disk: newMemDisk()}
		w.open("boot1")
		ino, fh := w.create("f")
		w.mustWrite(ino, fh, 'a', 100000, 0)
		seq, _ := w.barrier(ino)
		w.tree.settler.barrierBegins() // it syncs nothing from here on
		w.mustWrite(ino, fh, 'b', 36000, 100000)
		w.shut(ino, fh) // no version names this commit any more, once
		fh, err := w.tree.Open(ino, unix.O_WRONLY, Cred{})
		if err != nil {
			t.Fatal(err)
		}
		w.mustWrite(ino, fh, 'c', 70000, 0)
		w.shut(ino, fh) // this has taken its place
		if err := w.eng.Sync(w.eng.Pos()); err != nil {
			t.Fatal(err)
		}
		w.tree.settler.barrierEnds()
		w.powerCut("boot2", rand.New(rand.NewPCG(seed, 1)))
		waits := false
		err = w.tree.Pending(func(f *Frozen) bool {
			waits = waits || f.p.Content.Len == 100000 && f.Epoch() <= seq && f.Until() == 0
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		if !waits {
			t.Errorf("seed %d: what snapshot %d shows waits no more, and is not stored", seed, seq)
		}
		w.close()
	}
}
