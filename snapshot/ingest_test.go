package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"stepfs/fs/stage"
	"stepfs/internal/schema"
	"stepfs/snapshot"
)

func (w *world) stored(name string) snapshot.Info {
	w.t.Helper()
	var i snapshot.Info
	until(w.t, name+" is stored", func() bool {
		var err error
		i, err = w.m.Resolve("", name)
		w.ok(err)
		return i.State == snapshot.StateStored
	})
	return i
}

// A sealed step is stored by itself, with its accounts; the same bytes under
// the next step's name take nothing.
func TestStepsAreStored(t *testing.T) {
	w := newWorld(t, nil)
	data := noise(1, 300<<10)
	w.put("checkpoint-1/model.pt", data)
	w.put("checkpoint-1/small", "small")
	ino := w.put("checkpoint-1/linked", "twice")
	_, err := w.tree.Link(ino, w.dir("checkpoint-1"), "second")
	w.ok(err)
	w.step("1")
	i := w.stored("1")
	want := int64(300<<10 + len("small") + len("twice"))
	if i.Logical != want || i.Brought != want || i.Stored < want || i.Stored > want+4096 || i.Tree == [32]byte{} {
		t.Errorf("accounts of the first: %+v, want %d bytes", i, want)
	}
	w.put("checkpoint-2/model.pt", data)
	w.put("checkpoint-2/small", "SMALL")
	w.step("2")
	i = w.stored("2")
	if i.Logical != 2*want-int64(len("twice")) || i.Brought != int64(len("SMALL")) {
		t.Errorf("accounts of the second: %+v", i)
	}
	w.drain()
	if left, steps := w.m.Progress(); left != 0 || steps != 0 {
		t.Errorf("%d bytes and %d steps are left", left, steps)
	}
	w.noFaults()
}

// Content of a plain barrier waits, unless somebody drains.
func TestBarriersAreNotStoredAtOnce(t *testing.T) {
	w := newWorld(t, nil)
	ino := w.put("f", noise(1, big))
	w.barrier(ino)
	w.step("other") // names f too, hence:
	w.stored("other")
	ino = w.put("f", noise(2, big))
	w.barrier(ino)
	before := w.chunks.Stats().Ingested
	w.restart() // ends the pass that may be under way
	if got := w.chunks.Stats().Ingested; got != 0 || before == 0 {
		t.Errorf("%d bytes were ingested at once (%d before)", got, before)
	}
	w.drain()
	if got := w.chunks.Stats().Ingested; got < big {
		t.Errorf("drain ingested %d bytes", got)
	}
}

// Drain stores everything: small and inline, sparse, empty, several versions
// of a file, what was renamed or deleted since.
func TestDrainStoresEverything(t *testing.T) {
	w := newWorld(t, nil)
	content := map[string]string{"empty": "", "tiny": "x", "inline": noise(1, 60<<10), "large": noise(2, 3<<20+7)}
	for path, data := range content {
		w.put("d/"+path, data)
	}
	ino, fh := w.openFile("d/sparse", 0)
	w.pwrite(ino, fh, "head", 0)
	w.pwrite(ino, fh, noise(3, big), 5<<20)
	size := int64(9 << 20)
	_, err := w.tree.SetAttr(ino, stage.SetAttr{Size: &size})
	w.ok(err)
	w.closeFile(ino, fh)
	first := w.step("1")
	ino, fh = w.openFile("d/large", 0) // partly over older content
	w.pwrite(ino, fh, "changed", 1<<20-3)
	w.closeFile(ino, fh)
	second := w.barrier()
	w.ok(w.tree.Rename(w.dir("d"), "tiny", w.dir("d"), "renamed", 0))
	w.remove("d/inline")
	w.put("d/large", "short")
	want := map[uint64]map[string]string{}
	seqs := []uint64{first.Seq, second, w.barrier()}
	for _, seq := range seqs {
		want[seq] = describe(t, w.tree.At(seq), 1)
	}
	w.drain()
	for _, seq := range seqs {
		same(t, "stored", want[seq], describe(t, w.tree.At(seq), 1))
	}
	// The large one as of the second barrier, partly overwritten before and gone
	// since, is not worth a chunk.
	if got := pendings(w); got != 1 {
		t.Errorf("%d contents wait after drain, want 1", got)
	}
	w.restart()
	w.evictAll()
	for _, seq := range seqs {
		same(t, "evicted", want[seq], describe(t, w.tree.At(seq), 1))
	}
	w.noFaults()
}

// A file that is overwritten in part between barriers again and again, as a
// database is, is stored as the steps and the live tree have it, not once a
// barrier; nor is room set aside for that.
func TestDatabaseIsStoredOnce(t *testing.T) {
	const size, commits = 8 << 20, 40
	w := newWorld(t, nil)
	ino, fh := w.openFile("db", 0)
	for off := int64(0); off < size; off += 1 << 20 {
		w.pwrite(ino, fh, noise(off, 1<<20), off)
	}
	seqs := []uint64{w.barrier(ino)}
	want := map[uint64]map[string]string{}
	var step snapshot.Info
	for k := range commits {
		w.pwrite(ino, fh, noise(int64(k), 4096), int64(k*7%(size>>12))<<12)
		seqs = append(seqs, w.barrier(ino))
		if k == commits/2 {
			step = w.step("mid")
			seqs = append(seqs, step.Seq)
		}
	}
	w.closeFile(ino, fh)
	seqs = append(seqs, w.barrier())
	for _, seq := range seqs {
		want[seq] = describe(t, w.tree.At(seq), 1)
	}
	w.stored("mid")
	w.drain()
	// The first version, the step's, and the last.
	if got := w.chunks.Stats().Ingested; got < 2*size || got > 7*size/2 {
		t.Errorf("%d bytes were ingested of a file of %d with %d versions, one of them a step", got, size, len(seqs))
	}
	u, err := w.tree.Usage()
	w.ok(err)
	if u.Unstored != 0 {
		t.Errorf("room for %d bytes of packs is set aside after a drain", u.Unstored)
	}
	for range 2 {
		for _, seq := range seqs {
			same(t, "a version", want[seq], describe(t, w.tree.At(seq), 1))
		}
		w.evictAll()
	}
	w.noFaults()
}

func pendings(w *world) (n int) {
	w.ok(w.tree.Pending(func(*stage.Frozen) bool { n++; return true }))
	return n
}

// evictAll reopens with no room for hot copies and waits until there are none.
func (w *world) evictAll() {
	w.t.Helper()
	w.conf = func(c *snapshot.Config) { c.HotLimit = 1 }
	w.restart()
	w.drain()
	until(w.t, "hot copies are gone", func() bool {
		n := 0
		w.ok(w.tree.Hot(func(uint64, int64) bool { n++; return true }))
		return n <= 1
	})
}

// A log that goes on growing does not keep a step from being stored.
func TestGrowingLogIsStored(t *testing.T) {
	w := newWorld(t, nil)
	ino, fh := w.openFile("train.log", unix.O_APPEND)
	w.pwrite(ino, fh, "line\n", 0)
	broken := error(syscall.ENOSPC)
	w.failPack.Store(&broken)
	w.step("1")
	w.pwrite(ino, fh, "line\n", 0)
	w.barrier(ino) // the content that waits is a later one now
	w.failPack.Store(nil)
	w.m.Hurry()
	i := w.stored("1")
	w.want(i.Seq, "train.log", "line\n")
	if i.Logical != 5 {
		t.Errorf("logical %d", i.Logical)
	}
	w.closeFile(ino, fh)
}

// A disk that is full for packs fails the drain, not what waits: it goes on
// when there is room.
func TestFullDisk(t *testing.T) {
	w := newWorld(t, nil)
	full := fmt.Errorf("pack: %w", syscall.ENOSPC)
	w.failPack.Store(&full)
	for k := range 3 {
		w.put(fmt.Sprint("f", k), noise(int64(k), big))
	}
	i := w.step("1")
	if err := w.m.Drain(w.ctx(), nil); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("drain on a full disk: %v", err)
	}
	w.want(i.Seq, "f1", noise(1, big))
	w.failPack.Store(nil)
	w.drain()
	w.stored("1")
}

// One content that can't be stored keeps back the steps that name it, and
// nothing else.
func TestOneBadContent(t *testing.T) {
	w := newWorld(t, nil)
	ino := w.put("bad/f", noise(1, big))
	w.put("good/f", noise(2, big))
	w.settled("bad/f")
	gen := newestGen(w, ino)
	w.disk.unreadable(func(g uint64) error {
		if g == gen {
			return syscall.EIO
		}
		return nil
	})
	for _, scope := range []string{"bad", "good"} {
		_, err := w.m.Snapshot(w.ctx(), scope, "1", "xattr", nil)
		w.ok(err)
	}
	until(t, "the good one is stored", func() bool {
		i, err := w.m.Resolve("good", "1")
		w.ok(err)
		return i.State == snapshot.StateStored
	})
	if err := w.m.Drain(w.ctx(), nil); err == nil || !strings.Contains(err.Error(), "bad/f") {
		t.Errorf("drain with a file that can't be read: %v", err)
	}
	if i, err := w.m.Resolve("bad", "1"); err != nil || i.State != snapshot.StateStaged {
		t.Errorf("the bad one: %+v, %v", i, err)
	}
	w.disk.unreadable(nil)
	w.drain()
	if i, err := w.m.Resolve("bad", "1"); err != nil || i.State != snapshot.StateStored {
		t.Errorf("the bad one once it can be read: %+v, %v", i, err)
	}
}

func (w *world) find(path string) uint64 {
	w.t.Helper()
	a, err := w.tree.Find(path)
	w.ok(err)
	return a.Ino
}

// settled waits for the background sync of a file.
func (w *world) settled(path string) {
	w.t.Helper()
	ino := w.find(path)
	until(w.t, path+" is settled", func() bool {
		_, _, err := w.eng.First(schema.Numbered(schema.PrefixUnsettled, ino))
		return err != nil
	})
}

// Drain ends though others go on writing.
func TestDrainWhileWriting(t *testing.T) {
	w := newWorld(t, nil)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for k := range 2 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				ino := w.put(fmt.Sprintf("w%d/f%d", k, n%50), noise(int64(n), 70<<10))
				if n%5 == 0 {
					w.barrier(ino)
				}
			}
		}()
	}
	log, logfh := w.openFile("train.log", unix.O_APPEND)
	wg.Add(1)
	go func() { // the same content goes on and on
		defer wg.Done()
		for {
			select {
			case <-stop:
				w.closeFile(log, logfh)
				return
			default:
			}
			w.pwrite(log, logfh, "line\n", 0)
			w.barrier(log)
		}
	}()
	w.put("mine", noise(99, big))
	i := w.step("1")
	heard := false
	w.ok(w.m.Drain(w.ctx(), func(int64) { heard = true }))
	close(stop)
	wg.Wait()
	if got, err := w.m.Get(i.Seq); err != nil || got.State != snapshot.StateStored || !heard {
		t.Errorf("after drain: %+v, %v, heard %v", got, err, heard)
	}
}

// A restart in the middle goes on where it was.
func TestIngestAfterRestart(t *testing.T) {
	w := newWorld(t, nil)
	full := error(syscall.ENOSPC)
	w.failPack.Store(&full)
	w.put("f", noise(1, big))
	w.step("1")
	w.put("f", noise(2, big))
	w.step("2")
	w.kill()
	w.failPack.Store(nil)
	w.stored("1")
	w.want(w.stored("2").Seq, "f", noise(2, big))
}

// Close does not wait for what is left to store, and everything is as it was.
func TestCloseDuringIngest(t *testing.T) {
	w := newWorld(t, nil)
	for k := range 40 {
		w.put(fmt.Sprint("f", k), noise(int64(k), 1<<20))
	}
	i := w.step("1")
	want := describe(t, w.tree.At(i.Seq), 1)
	ctx, cancel := context.WithCancel(w.ctx())
	done := make(chan error)
	go func() { done <- w.m.Drain(ctx, nil) }()
	until(t, "ingest has begun", func() bool { return w.chunks.Stats().Ingested > 0 })
	w.ok(w.m.Close())
	if err := <-done; !errors.Is(err, snapshot.ErrClosed) {
		t.Errorf("drain after close: %v", err)
	}
	cancel()
	if _, err := w.m.Barrier(w.ctx(), "fsync"); !errors.Is(err, snapshot.ErrClosed) {
		t.Errorf("barrier after close: %v", err)
	}
	if err := w.m.Drain(w.ctx(), nil); !errors.Is(err, snapshot.ErrClosed) {
		t.Errorf("drain after close: %v", err)
	}
	w.ok(errors.Join(w.tree.Close(), w.chunks.Close(), w.eng.Close(true)))
	w.open()
	same(t, "reopened", want, describe(t, w.tree.At(i.Seq), 1))
	w.drain()
	same(t, "stored", want, describe(t, w.tree.At(i.Seq), 1))
}

// A caller that gives up waiting leaves no mess.
func TestDrainGivenUp(t *testing.T) {
	w := newWorld(t, nil)
	w.put("f", noise(1, big))
	ctx, cancel := context.WithCancel(w.ctx())
	cancel()
	if err := w.m.Drain(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("drain given up: %v", err)
	}
	w.drain()
}
