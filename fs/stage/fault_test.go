package stage

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"

	"stepfs/internal/schema"
	"stepfs/internal/simdisk"
	"stepfs/internal/state"
)

// memWorld is a world on a memDisk.
func memWorld(t testing.TB) (*world, *memDisk) {
	t.Helper()
	disk := newMemDisk()
	w := &world{t: t, mem: vfs.NewCrashableMem(), disk: disk}
	w.eng, w.tree = openQuiet(t, w.mem, disk)
	return w, disk
}

func openQuiet(t testing.TB, mem vfs.FS, disk Disk) (*state.Engine, *Tree) {
	t.Helper()
	eng, err := state.Open(state.Config{Dir: "s", FS: mem, BootID: "boot1", MemTable: 256 << 10, SegmentSize: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	tree, err := Open(Config{Engine: eng, Disk: disk, Reserve: 1}) // faults are what this is about
	if err != nil {
		t.Fatal(err)
	}
	return eng, tree
}

// reopen is a kill -9 and a restart.
func (w *world) reopen() {
	w.t.Helper()
	if err := w.tree.Close(); err != nil {
		w.t.Fatal(err)
	}
	if err := w.eng.Close(false); err != nil {
		w.t.Fatal(err)
	}
	w.eng, w.tree = openQuiet(w.t, w.mem, w.disk)
}

func (w *world) create(name string) (ino, fh uint64) {
	w.t.Helper()
	a, fh, err := w.tree.Create(RootIno, name, 0o644, unix.O_RDWR, Cred{})
	if err != nil {
		w.t.Fatal(err)
	}
	return a.Ino, fh
}

func (w *world) mustWrite(ino, fh uint64, c byte, n int, off int64) {
	w.t.Helper()
	if k, err := w.tree.Write(ino, fh, bytes.Repeat([]byte{c}, n), off); err != nil || k != n {
		w.t.Fatalf("write %d: %d, %v", ino, k, err)
	}
}

func (w *world) wantLive(ino uint64, want []byte) {
	w.t.Helper()
	got := make([]byte, len(want)+1)
	n, err := w.tree.Read(ino, 0, got, 0)
	if err != nil || !bytes.Equal(got[:n], want) {
		w.t.Fatalf("inode %d: %d bytes, want %d, %v", ino, n, len(want), err)
	}
}

func (w *world) wantSnap(seq, ino uint64, want []byte, mark string) {
	w.t.Helper()
	got := make([]byte, len(want)+1)
	v := w.tree.At(seq)
	n, err := v.Read(ino, got, 0)
	if err != nil || !bytes.Equal(got[:n], want) {
		w.t.Fatalf("snapshot %d, inode %d: %d bytes, want %d, %v", seq, ino, n, len(want), err)
	}
	if got, err := v.Marks(ino); err != nil || got != mark {
		w.t.Fatalf("snapshot %d, inode %d: mark %q, want %q, %v", seq, ino, got, mark, err)
	}
}

// barrier is an fsync of inos; it gives what their callers are told.
func (w *world) barrier(inos ...uint64) (uint64, map[uint64]error) {
	w.t.Helper()
	c, err := w.tree.Cut(inos, false, true)
	if err != nil {
		w.t.Fatal(err)
	}
	var failed map[uint64]error
	if w.tree.NeedsSync(c) {
		failed = w.tree.SyncCut(w.t.Context(), c)
	}
	if _, err = w.eng.Update(schema.KindCommit, func(tx *state.Tx) error {
		publish(tx, c.Seq)
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	w.tree.CutDone(c)
	return c.Seq, failed
}

func fill(parts ...any) (b []byte) {
	for i := 0; i < len(parts); i += 2 {
		b = append(b, bytes.Repeat([]byte{byte(parts[i].(rune))}, parts[i+1].(int))...)
	}
	return b
}

// TestFailedSync: the caller hears of it, again and again until the file is
// emptied, also after a restart; what earlier barriers acknowledged stays; no
// snapshot shows what was lost; other files go on.
func TestFailedSync(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprint("restart=", restart), func(t *testing.T) {
			w, disk := memWorld(t)
			defer w.close()
			ino, fh := w.create("bad")
			other, ofh := w.create("other")
			w.mustWrite(ino, fh, 'a', 100000, 0)
			before, failed := w.barrier(ino)
			if failed != nil {
				t.Fatal(failed)
			}
			w.mustWrite(ino, fh, 'b', 100000, 100000)
			w.mustWrite(other, ofh, 'o', 100000, 0)
			gens := map[uint64]bool{}
			disk.before(func(op string, gen uint64) error {
				if op == "sync" && (len(gens) == 0 || gens[gen]) {
					gens[gen] = true // the first one asked for is ino's
					return syscall.EIO
				}
				return nil
			})
			during, failed := w.barrier(ino)
			if !errors.Is(failed[ino], ErrIO) || !errors.Is(failed[ino], syscall.EIO) {
				t.Fatalf("told %v", failed)
			}
			disk.well()
			if restart {
				w.reopen()
				fh, _ = w.tree.Open(ino, unix.O_RDWR, Cred{})
				_, _ = w.tree.Open(other, unix.O_RDWR, Cred{})
				w.tree.settler.wait()
			}
			after, failed := w.barrier(ino, other)
			if !errors.Is(failed[ino], ErrIO) || failed[other] != nil {
				t.Fatalf("the next fsync was told %v", failed)
			}
			w.wantSnap(before, ino, fill('a', 100000), "")
			w.wantSnap(during, ino, fill('a', 100000), "reverted")
			w.wantSnap(after, ino, fill('a', 100000), "reverted")
			w.wantSnap(after, other, fill('o', 100000), "")
			size := int64(0)
			if _, err := w.tree.SetAttr(ino, SetAttr{Size: &size}); err != nil {
				t.Fatal(err)
			}
			w.mustWrite(ino, fh, 'c', 100000, 0)
			healed, failed := w.barrier(ino)
			if failed != nil {
				t.Fatalf("after it was emptied: %v", failed)
			}
			w.wantSnap(healed, ino, fill('c', 100000), "")
			w.wantSnap(before, ino, fill('a', 100000), "")
		})
	}
}

// TestWriteOutFailure: the kernel tells a descriptor of an error once, and the
// settler's writing ahead must not swallow it.
func TestWriteOutFailure(t *testing.T) {
	w, _ := memWorld(t)
	defer w.close()
	ino, fh := w.create("f")
	w.mustWrite(ino, fh, 'a', 100000, 0)
	w.tree.cfg.Events.Fault = func(string, error) {}
	if err := w.tree.settle(ino, func(File) error { return syscall.EIO }); !errors.Is(err, ErrIO) {
		t.Fatalf("settle: %v", err)
	}
	if _, failed := w.barrier(ino); !errors.Is(failed[ino], ErrIO) {
		t.Fatalf("the next fsync was told %v", failed)
	}
}

// TestNoSpaceLeavesNothing: a write that the disk refuses leaves the file as
// it was, also after a restart, and no staging file behind.
func TestNoSpaceLeavesNothing(t *testing.T) {
	w, disk := memWorld(t)
	defer w.close()
	ino, fh := w.create("f")
	w.mustWrite(ino, fh, 'a', 50000, 0) // inline: the next one moves to a file
	disk.before(func(op string, _ uint64) error {
		if op == "write" {
			return syscall.ENOSPC
		}
		return nil
	})
	for range 3 {
		if _, err := w.tree.Write(ino, fh, make([]byte, 50000), 50000); !errors.Is(err, ErrNoSpace) {
			t.Fatalf("write on a full disk: %v", err)
		}
		big, bfh := w.create(fmt.Sprint("big", disk.Bytes()))
		if _, err := w.tree.Write(big, bfh, make([]byte, 1<<20), 0); !errors.Is(err, ErrNoSpace) {
			t.Fatalf("write on a full disk: %v", err)
		}
		if err := w.tree.Unlink(RootIno, fmt.Sprint("big", disk.Bytes())); err != nil {
			t.Fatal(err)
		}
	}
	if n := disk.Bytes(); n != 0 {
		t.Fatalf("staging files of %d bytes left on a full disk", n)
	}
	w.wantLive(ino, fill('a', 50000))
	disk.well()
	w.mustWrite(ino, fh, 'b', 50000, 50000)
	w.reopen()
	w.wantLive(ino, fill('a', 50000, 'b', 50000))
}

// TestShortWrite: what the disk took is what the caller is told.
func TestShortWrite(t *testing.T) {
	w, disk := memWorld(t)
	defer w.close()
	ino, fh := w.create("f")
	w.mustWrite(ino, fh, 'a', 100000, 0)
	disk.before(func(op string, _ uint64) error {
		if op == "write" {
			return simdisk.Short{N: 5000, Err: syscall.ENOSPC}
		}
		return nil
	})
	n, err := w.tree.Write(ino, fh, bytes.Repeat([]byte{'b'}, 50000), 90000)
	if n != 5000 || err != nil {
		t.Fatalf("wrote %d, %v", n, err)
	}
	disk.well()
	w.wantLive(ino, fill('a', 90000, 'b', 5000, 'a', 5000))
	w.reopen()
	w.wantLive(ino, fill('a', 90000, 'b', 5000, 'a', 5000))
}

// TestEveryDiskFault fails the k-th operation of the staging disk, for every
// k, in a fixed run of operations: no lock stays held, what was acknowledged
// stays, and after a restart the tree is the same.
func TestEveryDiskFault(t *testing.T) {
	hit := 0
	for _, fault := range []error{syscall.EIO, syscall.ENOSPC, simdisk.Short{N: 3000, Err: syscall.ENOSPC}} {
		for k := int64(1); ; k++ {
			if !faultRun(t, k, fault) {
				break
			}
			hit++
		}
	}
	if hit < 30 {
		t.Fatalf("only %d faults were met", hit)
	}
	t.Logf("%d faults", hit)
}

func faultRun(t *testing.T, k int64, fault error) (hit bool) {
	w, disk := memWorld(t)
	var ops atomic.Int64
	disk.before(func(op string, _ uint64) error {
		if _, short := fault.(simdisk.Short); ops.Add(1) == k {
			if !short || op == "write" {
				return fault
			}
		}
		return nil
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		live := map[uint64][]byte{}
		for i, size := range []int{3000, 70000, 200000} {
			ino, fh := w.create(fmt.Sprint("f", i))
			for part := range 4 {
				b, off := bytes.Repeat([]byte{byte('a' + part)}, size), int64(part*size/2)
				n, err := w.tree.Write(ino, fh, b, off)
				if err == nil {
					live[ino] = grow(live[ino], off+int64(n))
					copy(live[ino][off:], b[:n])
				}
				if part == 1 {
					w.barrier(ino)
				}
			}
			_ = w.tree.Flush(ino, fh, false)
			w.tree.Release(ino, fh)
		}
		w.tree.settler.wait()
		w.reapAll()
		disk.well()
		for ino, want := range live {
			w.wantLive(ino, want)
		}
		w.reopen()
		for ino, want := range live {
			w.wantLive(ino, want)
		}
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("operation %d failing with %v: stuck", k, fault)
	}
	if !t.Failed() {
		w.close()
	}
	return ops.Load() >= k
}

// TestInodeNumbersEnd: the last number is given out, and then no file can be
// made; nothing else is in the way.
func TestInodeNumbersEnd(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	old, fh := w.create("old")
	w.shut(old, fh)
	if _, err := w.eng.Update(schema.KindNamespace, func(tx *state.Tx) error {
		tx.Put(schema.MetaKey(schema.MetaNextIno), schema.Counter(MaxIno))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	w.reopen()
	if ino, _ := w.create("last"); ino != MaxIno {
		t.Fatalf("inode %d", ino)
	}
	if _, _, err := w.tree.Create(RootIno, "more", 0o644, unix.O_RDWR, Cred{}); !errors.Is(err, ErrNoSpace) {
		t.Errorf("create: %v", err)
	}
	if _, _, err := w.tree.Tmpfile(RootIno, 0o644, unix.O_RDWR, Cred{}); !errors.Is(err, ErrNoSpace) {
		t.Errorf("O_TMPFILE: %v", err)
	}
	if _, err := w.tree.Link(old, RootIno, "link"); err != nil {
		t.Errorf("link: %v", err)
	}
	w.snap()
	if fs := treeFindings(w.tree); len(fs) > 0 {
		t.Errorf("the check finds %+v", fs)
	}
}
