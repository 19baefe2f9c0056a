package stage

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// within fails the test if fn takes so long that it must be stuck.
func within(t *testing.T, d time.Duration, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); fn() }()
	select {
	case <-done:
	case <-time.After(d):
		panic("stuck: see the goroutines")
	}
}

// TestBarrierOfDirectories: fsync of several directories beside renames and
// removals, which lock a parent before its child whatever their numbers are.
func TestBarrierOfDirectories(t *testing.T) {
	w, _ := memWorld(t)
	defer w.close()
	child, err := w.tree.Mknod(RootIno, "child", ModeDir|0o755, 0, Cred{})
	if err != nil {
		t.Fatal(err)
	}
	parent, err := w.tree.Mknod(RootIno, "parent", ModeDir|0o755, 0, Cred{})
	if err != nil {
		t.Fatal(err)
	}
	within(t, 60*time.Second, func() {
		var wg sync.WaitGroup
		wg.Add(2)
		go func() {
			defer wg.Done()
			for range 3000 {
				_ = w.tree.Rename(RootIno, "child", parent.Ino, "child", 0)
				_ = w.tree.Rename(parent.Ino, "child", RootIno, "child", 0)
			}
		}()
		go func() {
			defer wg.Done()
			for range 3000 {
				c, err := w.tree.Cut([]uint64{parent.Ino, child.Ino}, false, true)
				if err != nil {
					t.Error(err)
					return
				}
				w.tree.CutDone(c)
			}
		}()
		wg.Wait()
	})
}

// TestRmdirBesideCreate: a directory that is removed had nothing in it.
func TestRmdirBesideCreate(t *testing.T) {
	w, _ := memWorld(t)
	defer w.close()
	for i := range 500 {
		d, err := w.tree.Mknod(RootIno, "d", ModeDir|0o755, 0, Cred{})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		var made, gone error
		wg.Add(2)
		go func() { defer wg.Done(); _, made = w.tree.Mknod(d.Ino, "x", ModeReg, 0, Cred{}) }()
		go func() { defer wg.Done(); gone = w.tree.Rmdir(RootIno, "d") }()
		wg.Wait()
		if made == nil && gone == nil {
			t.Fatalf("round %d: the directory was removed with a file in it", i)
		}
		if made == nil {
			if err := errors.Join(w.tree.Unlink(d.Ino, "x"), w.tree.Rmdir(RootIno, "d")); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestDeadInodeStaysDead: changes that lose the race with an unlink don't
// bring the inode's record back.
func TestDeadInodeStaysDead(t *testing.T) {
	w, _ := memWorld(t)
	defer w.close()
	for range 300 {
		a, err := w.tree.Mknod(RootIno, "f", ModeReg|0o644, 0, Cred{})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Add(3)
		mode := uint32(0o600)
		go func() { defer wg.Done(); _, _ = w.tree.SetAttr(a.Ino, SetAttr{Mode: &mode}) }()
		go func() { defer wg.Done(); _ = w.tree.SetXattr(a.Ino, "user.x", nil, 0) }()
		go func() { defer wg.Done(); _ = w.tree.Unlink(RootIno, "f") }()
		wg.Wait()
		if rec, _, err := w.tree.readInode(a.Ino, newest); err == nil && !rec.Deleted {
			t.Fatalf("inode %d came back: %+v", a.Ino, rec)
		}
	}
}

// TestManyAtOnce has writers, readers, renames, barriers, ingest, eviction and
// rollbacks on one tree at the same time. Each writer owns a file and compares
// what it reads; each barrier compares the snapshot of its own file.
func TestManyAtOnce(t *testing.T) {
	w, _ := memWorld(t)
	defer w.close()
	chunks := newMemChunks()
	w.tree.cfg.Chunks = chunks
	home, err := w.tree.Mknod(RootIno, "rolled", ModeDir|0o755, 0, Cred{})
	if err != nil {
		t.Fatal(err)
	}
	var did [6]atomic.Int64
	stop := time.Now().Add(2 * time.Second)
	var wg sync.WaitGroup
	run := func(fn func(rng *rand.Rand) error) {
		wg.Add(1)
		seed := rand.Uint64()
		go func() {
			defer wg.Done()
			for rng := rand.New(rand.NewPCG(seed, 1)); time.Now().Before(stop) && !t.Failed(); {
				if err := fn(rng); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	for k := range 4 {
		run((&owner{w: w, name: fmt.Sprint("own", k), barriers: &did[0], writes: &did[1]}).step)
	}
	run(func(*rand.Rand) error { did[2].Add(1); return chunks.storeAll(w.tree) })
	run(func(*rand.Rand) error {
		did[3].Add(1)
		var gens []uint64
		err := w.tree.Hot(func(gen uint64, _ int64) bool { gens = append(gens, gen); return true })
		for _, gen := range gens {
			err = errors.Join(err, w.tree.Evict(gen))
		}
		return errors.Join(err, w.tree.UnlinkEvicted())
	})
	run(func(*rand.Rand) error {
		did[4].Add(1)
		_, err := w.tree.Rollback(home.Ino, w.snap(), RootIno, "")
		return err
	})
	run(func(rng *rand.Rand) error {
		did[5].Add(1)
		es, err := w.tree.ReadDir(home.Ino, "", 10)
		for _, e := range es {
			_ = w.tree.Rename(home.Ino, e.Name, home.Ino, e.Name+"x", 0)
			_, _ = w.tree.Read(e.Ino, 0, make([]byte, 5000), rng.Int64N(100000))
		}
		return err
	})
	within(t, 120*time.Second, wg.Wait)
	for k := range did {
		if did[k].Load() == 0 {
			t.Errorf("worker %d did nothing", k)
		}
	}
	t.Logf("%d barriers, %d writes, %d ingests, %d evictions, %d rollbacks, %d renames", did[0].Load(), did[1].Load(), did[2].Load(), did[3].Load(), did[4].Load(), did[5].Load())
	w.reapAll()
	w.tree.cfg.Chunks = nil
}

// owner writes one file and knows what is in it.
type owner struct {
	w                *world
	name             string
	ino, fh          uint64
	live             []byte
	barriers, writes *atomic.Int64
}

func (o *owner) step(rng *rand.Rand) error {
	t := o.w.tree
	if o.ino == 0 {
		a, fh, err := t.Create(RootIno, o.name, 0o644, unix.O_RDWR, Cred{})
		if err != nil {
			return err
		}
		o.ino, o.fh, o.live = a.Ino, fh, nil
	}
	switch rng.IntN(8) {
	case 0:
		if err := t.Flush(o.ino, o.fh, false); err != nil {
			return err
		}
		t.Release(o.ino, o.fh)
		var err error
		o.fh, err = t.Open(o.ino, unix.O_RDWR, Cred{})
		return err
	case 1:
		size := rng.Int64N(200000)
		o.live = clone(grow(o.live, size)[:size])
		_, err := t.SetAttr(o.ino, SetAttr{Size: &size})
		return err
	case 2, 3:
		o.barriers.Add(1)
		return o.barrier()
	case 4:
		if rng.IntN(10) != 0 {
			return nil
		}
		err := t.Unlink(RootIno, o.name)
		t.Release(o.ino, o.fh)
		o.ino = 0
		return err
	}
	o.writes.Add(1)
	off := rng.Int64N(int64(len(o.live)) + 1)
	b := fill(rune(1+rng.IntN(255)), 1+rng.IntN(70000))
	o.live = grow(o.live, off+int64(len(b)))
	copy(o.live[off:], b)
	if _, err := t.Write(o.ino, o.fh, b, off); err != nil {
		return err
	}
	return o.same("live", func(dst []byte) (int, error) { return t.Read(o.ino, 0, dst, 0) })
}

func (o *owner) barrier() error {
	seq := o.w.snap(o.ino)
	v := o.w.tree.At(seq)
	return o.same(fmt.Sprint("snapshot ", seq), func(dst []byte) (int, error) { return v.Read(o.ino, dst, 0) })
}

func (o *owner) same(what string, read func(dst []byte) (int, error)) error {
	got := make([]byte, len(o.live)+1)
	n, err := read(got)
	if err != nil {
		return fmt.Errorf("%s of %s: %w", what, o.name, err)
	}
	if string(got[:n]) != string(o.live) {
		return fmt.Errorf("%s of %s: %d bytes differ from the %d written", what, o.name, n, len(o.live))
	}
	return nil
}
