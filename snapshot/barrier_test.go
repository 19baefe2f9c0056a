package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stepfs/fs/stage"
	"stepfs/internal/schema"
	"stepfs/snapshot"
)

const big = 200 << 10 // bytes of a file that needs a staging file

// A barrier answers with a snapshot that is in the registry, and that shows
// the caller's file as it was, though it is still open.
func TestBarrierIsASnapshot(t *testing.T) {
	w := newWorld(t, nil)
	for _, size := range []int{0, 100, big} {
		path := fmt.Sprint("f", size)
		ino, fh := w.openFile(path, 0)
		data := text(path, size)
		if size > 0 {
			w.pwrite(ino, fh, data, 0)
		}
		seq := w.barrier(ino)
		w.pwrite(ino, fh, "later", 0)
		i, err := w.m.Get(seq)
		if err != nil || i.Seq != seq || i.Reason != "fsync" || i.Name != "" || i.State != snapshot.StateStaged {
			t.Errorf("registry has %+v, %v", i, err)
		}
		w.want(seq, path, data)
		w.closeFile(ino, fh)
	}
	w.noFaults()
}

// Many barriers at once share cuts, and none answers before its own data is in.
func TestBarriersShareCommits(t *testing.T) {
	w := newWorld(t, nil)
	w.slowSync.Store(int64(time.Millisecond)) // as a disk is
	const callers, rounds = 32, 20
	seqs := map[uint64]bool{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for c := range callers {
		dir := w.dir(fmt.Sprint("d", c))
		wg.Add(1)
		go func() {
			defer wg.Done()
			for r := range rounds {
				path := fmt.Sprintf("d%d/f%d", c, r)
				ino, fh := w.openFile(path, 0)
				w.pwrite(ino, fh, path, 0)
				seq, err := w.m.Barrier(w.ctx(), "fsync", ino, dir)
				if err != nil {
					t.Error(err)
					return
				}
				w.want(seq, path, path)
				w.closeFile(ino, fh)
				mu.Lock()
				seqs[seq] = true
				mu.Unlock()
			}
		}()
	}
	wg.Wait()
	if len(seqs) > callers*rounds/3 {
		t.Errorf("%d barriers made %d snapshots", callers*rounds, len(seqs))
	}
	w.noFaults()
}

// The same of names alone: what was made before a barrier of its directory is
// in the snapshot, whoever else changes the tree.
func TestBarrierOfNames(t *testing.T) {
	w := newWorld(t, nil)
	var wg sync.WaitGroup
	for c := range 16 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for r := range 200 {
				name := fmt.Sprintf("%d.%d", c, r)
				if _, err := w.tree.Mknod(stage.RootIno, name, stage.ModeDir|0o755, 0, stage.Cred{}); err != nil {
					t.Error(err)
					return
				}
				seq, err := w.m.Barrier(w.ctx(), "fsync", stage.RootIno)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := w.tree.At(seq).Lookup(stage.RootIno, name); err != nil {
					t.Errorf("snapshot %d lacks %s: %v", seq, name, err)
					return
				}
			}
		}()
	}
	wg.Wait()
}

func TestUnchangedTreeIsTheSameSnapshot(t *testing.T) {
	w := newWorld(t, nil)
	ino := w.put("f", "x")
	first := w.barrier(ino)
	for range 3 {
		if seq := w.barrier(ino); seq != first {
			t.Errorf("nothing changed, but %d became %d", first, seq)
		}
	}
	w.put("f", "y")
	if seq := w.barrier(ino); seq == first {
		t.Error("the tree changed, but the snapshot is the same")
	}
}

// A file that was closed, not synced, and is in a snapshot already: fsync of
// it makes no new snapshot, but waits until it is durable.
func TestSameSnapshotStillSyncs(t *testing.T) {
	w := newWorld(t, nil)
	w.disk.shut()
	ino := w.put("f", text("f", big))
	first := w.barrier()
	until(t, "the background sync waits", func() bool { return w.disk.held() == 1 })
	done := make(chan uint64)
	go func() { done <- w.barrier(ino) }()
	until(t, "the barrier waits for the file", func() bool { return w.disk.held() == 2 })
	select {
	case <-done:
		t.Fatal("answered before its file was durable")
	default:
	}
	w.disk.openGate()
	if seq := <-done; seq != first {
		t.Errorf("a new snapshot %d, want %d", seq, first)
	}
}

// A small fsync does not wait for somebody else's long one: neither with
// something new, nor with nothing new, nor while a step is being sealed.
func TestBarrierDoesNotWaitForOthers(t *testing.T) {
	w := newWorld(t, nil)
	small := w.put("small", "1")
	w.barrier(small)
	w.disk.shut()
	large, fh := w.openFile("large", 0)
	w.pwrite(large, fh, text("large", big), 0)
	done := make(chan uint64)
	go func() { done <- w.barrier(large) }()
	until(t, "the long sync has begun", func() bool { return w.disk.held() == 1 })

	seq := w.barrier(small) // nothing has changed since the cut that is under way
	w.want(seq, "small", "1")
	w.put("small", "2")
	seq = w.barrier(small)
	w.want(seq, "small", "2")
	select {
	case <-done:
		t.Fatal("the long sync ended")
	default:
	}
	sealed := make(chan error)
	go func() {
		_, err := w.m.Snapshot(w.ctx(), "", "now", "mkdir", nil)
		sealed <- err
	}()
	until(t, "sealing waits for the long sync", func() bool { return w.disk.held() >= 2 })
	if _, err := w.m.Resolve("", "now"); !errors.Is(err, snapshot.ErrNotExist) {
		t.Error("a snapshot shows before it is durable: ", err)
	}
	w.want(w.barrier(small), "small", "2")
	w.disk.openGate()
	w.want(<-done, "large", text("large", big))
	w.ok(<-sealed)
	w.closeFile(large, fh)
}

// A sync that fails is its owner's alone; the snapshot shows what was before
// and says so.
func TestFailedSync(t *testing.T) {
	w := newWorld(t, nil)
	bad := w.put("bad", text("old", big))
	good := w.put("good", text("good", big))
	w.barrier(bad, good)
	w.disk.shut()
	w.put("bad", text("new", big))
	w.put("good", text("better", big))
	until(t, "both syncs wait", func() bool { return w.disk.held() == 2 })
	failing := errors.New("the disk is broken")
	gen := newestGen(w, bad)
	w.disk.failing(func(g uint64) error {
		if g == gen {
			return fmt.Errorf("sync: %w", failing)
		}
		return nil
	})
	type answer struct {
		seq uint64
		err error
	}
	answers := make(chan answer, 2)
	for _, ino := range []uint64{bad, good} {
		go func() {
			seq, err := w.m.Barrier(w.ctx(), "fsync", ino)
			if (err != nil) != (ino == bad) {
				t.Errorf("fsync of inode %d: %v", ino, err)
			}
			answers <- answer{seq, err}
		}()
	}
	until(t, "barriers wait too", func() bool { return w.disk.held() > 2 })
	w.disk.openGate()
	for range 2 {
		a := <-answers
		if a.err != nil && !errors.Is(a.err, stage.ErrIO) {
			t.Error(a.err)
		}
	}
	seq := w.barrier(good)
	w.want(seq, "bad", text("old", big))
	w.want(seq, "good", text("better", big))
	if _, err := w.m.Barrier(w.ctx(), "fsync", bad); err == nil {
		t.Error("fsync succeeds though an earlier one failed")
	}
	w.disk.failing(nil)
	w.put("bad", text("newest", big))
	w.want(w.barrier(bad), "bad", text("newest", big))
}

// newestGen is the generation that was written last to a file.
func newestGen(w *world, ino uint64) (gen uint64) {
	w.t.Helper()
	it, err := w.eng.NewIter([]byte{schema.PrefixPending}, []byte{schema.PrefixPending + 1})
	w.ok(err)
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		p, err := schema.DecodePending(it.Value())
		w.ok(err)
		if p.Ino == ino {
			gen, err = schema.ParseNumbered(it.Key())
			w.ok(err)
		}
	}
	return gen
}

// A sealed snapshot that could not be made durable leads to no snapshot, and
// a later barrier over the same tree does not pretend that there is one.
func TestFailedSealIsNoSnapshot(t *testing.T) {
	w := newWorld(t, nil)
	w.put("f", "1")
	w.barrier()
	w.disk.shut()
	w.put("g", text("g", big))
	until(t, "the background sync waits", func() bool { return w.disk.held() == 1 })
	sealed := make(chan error)
	go func() {
		_, err := w.m.Snapshot(w.ctx(), "", "name", "mkdir", nil)
		sealed <- err
	}()
	until(t, "sealing waits for the file", func() bool { return w.disk.held() == 2 })
	w.disk.failing(func(uint64) error { return syscall.EIO })
	w.disk.openGate()
	if err := <-sealed; !errors.Is(err, stage.ErrIO) {
		t.Errorf("sealing on a broken disk: %v", err)
	}
	w.disk.failing(nil)
	w.barrier()
	if _, err := w.m.Resolve("", "name"); !errors.Is(err, snapshot.ErrNotExist) {
		t.Error("the failed snapshot has its name: ", err)
	}
}

// A seal that is given up leaves a cut behind that is no snapshot. Nothing has
// changed since, but a barrier does not answer with it.
func TestSealGivenUp(t *testing.T) {
	w := newWorld(t, nil)
	w.disk.shut()
	w.put("f", text("f", big))
	ctx, cancel := context.WithCancel(w.ctx())
	cancel()
	if _, err := w.m.Snapshot(ctx, "", "name", "mkdir", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("sealing was given up: %v", err)
	}
	w.want(w.barrier(), "f", text("f", big))
	if all, err := w.m.Barriers(0, 10); err != nil || len(all) != 1 {
		t.Errorf("snapshots: %+v, %v", all, err)
	}
}

// What a sealed snapshot shows is durable, also of a file that was rewritten or
// deleted while the snapshot was being made durable.
func TestSealIsStrict(t *testing.T) {
	for name, change := range map[string]func(w *world){
		"rewritten": func(w *world) { w.put("b", "short") },
		"deleted":   func(w *world) { w.remove("b") },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.disk.shut()
			a, b := w.put("a", text("a", big)), w.put("b", text("b", big))
			until(t, "both sync in the background", func() bool { return w.disk.held() == 2 })
			c := w.put("c", text("c", big)) // what the background does next
			genA, genB, genC := newestGen(w, a), newestGen(w, b), newestGen(w, c)
			sealed := make(chan error, 1)
			go func() {
				_, err := w.m.Snapshot(w.ctx(), "", "s", "mkdir", nil)
				sealed <- err
			}()
			until(t, "sealing waits for a", func() bool { return w.disk.heldOf(genA) == 2 })
			change(w)
			w.disk.openFor(genA)
			until(t, "sealing goes on", func() bool {
				return len(sealed) > 0 || w.disk.heldOf(genB) == 2 || w.disk.heldOf(genC) == 2
			})
			if w.disk.heldOf(genB) != 2 {
				t.Error("b may not be durable when the snapshot is sealed")
			}
			w.disk.openGate()
			w.ok(<-sealed)
			i, err := w.m.Resolve("", "s")
			w.ok(err)
			w.want(i.Seq, "b", text("b", big))
		})
	}
}

// A barrier of a file that is gone, of a directory, of nothing: all snapshots.
func TestBarrierOfAnything(t *testing.T) {
	w := newWorld(t, nil)
	ino, fh := w.openFile("gone", unix.O_APPEND)
	w.pwrite(ino, fh, "x", 0)
	w.remove("gone")
	for _, inos := range [][]uint64{nil, {ino}, {w.dir("d")}, {1 << 40}} {
		if _, err := w.m.Get(w.barrier(inos...)); err != nil {
			t.Errorf("barrier of %v: %v", inos, err)
		}
	}
	w.closeFile(ino, fh)
}

// TestSameIsDurable: a barrier over a tree that did not change since a snapshot
// answers once that shows the caller's file after a power cut, too: if the file
// settled in the background meanwhile, the record of that has to be durable.
func TestSameIsDurable(t *testing.T) {
	w := newWorld(t, quietly)
	ino := w.put("a", "before")
	w.barrier(ino)
	w.put("a", noise(1, 200<<10))
	seq := w.barrier() // of somebody else: it does not sync a
	w.ok(w.tree.Settle(ino))
	if again := w.barrier(ino); again != seq {
		t.Fatalf("barrier %d made a new snapshot, %d", seq, again)
	}
	w.powerCut()
	w.want(seq, "a", noise(1, 200<<10))
}
