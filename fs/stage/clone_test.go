package stage

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stepfs/internal/schema"
)

// copyTo copies all of a file to a new one.
func (w *world) copyTo(from *View, src uint64, name string, n int64) (ino, fh uint64) {
	w.t.Helper()
	ino, fh = w.create(name)
	if got, err := w.tree.CopyRange(Copy{From: from, Src: src, Dst: ino, Fh: fh, Len: 1 << 40}); err != nil || got != n {
		w.t.Fatalf("copy of %d: %d bytes, want %d, %v", src, got, n, err)
	}
	return ino, fh
}

// sources are the states in which a source may be: each brings a file into it
// and gives the snapshot to copy from, if any.
var sources = map[string]func(w *world, c *memChunks, ino, fh uint64) *View{
	"open, never synced": func(*world, *memChunks, uint64, uint64) *View { return nil },
	"closed":             func(w *world, _ *memChunks, ino, fh uint64) *View { w.shut(ino, fh); return nil },
	"stored":             func(w *world, c *memChunks, ino, fh uint64) *View { w.shut(ino, fh); w.store(c); return nil },
	"snapshot, staged":   func(w *world, _ *memChunks, ino, fh uint64) *View { s, _ := w.barrier(ino); return w.tree.At(s) },
	"snapshot, hot": func(w *world, c *memChunks, ino, fh uint64) *View {
		s, _ := w.barrier(ino)
		w.store(c)
		return w.tree.At(s)
	},
	"snapshot, evicted": func(w *world, c *memChunks, ino, fh uint64) *View {
		s, _ := w.barrier(ino)
		w.store(c)
		w.evictAll()
		return w.tree.At(s)
	},
	"snapshot, and going on": func(w *world, _ *memChunks, ino, fh uint64) *View {
		s, _ := w.barrier(ino)
		w.mustWrite(ino, fh, 'n', 5000, 500)
		return w.tree.At(s)
	},
}

// Whatever the source is and becomes, and whatever is done to the copy, none
// sees anything of the other; sharing stages nothing; nothing is left at the end.
func TestCopyIsIndependent(t *testing.T) {
	after := map[string]func(w *world, c *memChunks, src, sfh, dst, dfh uint64){
		"overwrite": func(w *world, _ *memChunks, src, sfh, _, _ uint64) { w.mustWrite(src, sfh, 'o', 100, 50) },
		"append and overwrite": func(w *world, _ *memChunks, src, sfh, _, _ uint64) {
			w.mustWrite(src, sfh, 'o', 70000, 1<<21)
			w.mustWrite(src, sfh, 'p', 70000, 0)
		},
		"truncate": func(w *world, _ *memChunks, src, _, _, _ uint64) {
			_, err := w.tree.SetAttr(src, SetAttr{Size: new(int64)})
			must(w.t, err)
			w.mustWrite(src, 0, 'o', 100000, 0)
		},
		"unlink":          func(w *world, _ *memChunks, src, sfh, _, _ uint64) { w.unlink("src"); w.tree.Release(src, sfh) },
		"store and evict": func(w *world, c *memChunks, _, _, _, _ uint64) { w.store(c); w.evictAll() },
		"store the copy": func(w *world, c *memChunks, src, sfh, dst, dfh uint64) {
			w.shut(dst, dfh)
			w.unlink("src")
			w.tree.Release(src, sfh)
			w.reapAll()
			w.store(c)
			w.reapAll()
			w.evictAll()
		},
		"kill": func(w *world, c *memChunks, _, _, _, _ uint64) { w.reopen(); w.tree.cfg.Chunks = c },
	}
	for _, n := range []int{9000, 300000, 2<<20 + 77} { // inline, in a file, over stripes
		for state, bring := range sources {
			for what, do := range after {
				t.Run(fmt.Sprint(n, " ", state, ", ", what), func(t *testing.T) {
					w, disk := memWorld(t)
					defer w.close()
					c := newMemChunks()
					w.tree.cfg.Chunks = c
					src, sfh := w.create("src")
					w.mustWrite(src, sfh, 's', n, 0)
					from := bring(w, c, src, sfh)
					before := disk.Bytes()
					dst, dfh := w.copyTo(from, src, "dst", int64(n))
					if a, err := w.tree.GetAttr(dst); err != nil || a.Size != int64(n) || a.Blocks != int64(n+511)/512 {
						t.Errorf("the copy is %+v, %v", a, err)
					}
					if now := disk.Bytes(); now > before {
						t.Errorf("%d bytes were staged", now-before)
					}
					do(w, c, src, sfh, dst, dfh)
					if what != "kill" {
						w.tree.settler.wait()
						w.reapAll()
					}
					w.wantLive(dst, bytes.Repeat([]byte{'s'}, n))
					was := w.live(src)
					w.mustWrite(dst, 0, 'd', 1000, 10)
					if !bytes.Equal(w.live(src), was) {
						t.Error("the source changed with its copy")
					}
					seq, _ := w.barrier(dst)
					w.wantSnap(seq, dst, fill('s', 10, 'd', 1000, 's', n-1010), "")
					if from != nil {
						w.wantSnap(from.seq, src, bytes.Repeat([]byte{'s'}, n), "")
					}
					if fs := treeFindings(w.tree); len(fs) > 0 {
						t.Errorf("the check finds %+v", fs)
					}
				})
			}
		}
	}
}

// live gives a file's bytes; nil if it is gone.
func (w *world) live(ino uint64) []byte {
	a, err := w.tree.GetAttr(ino)
	if err != nil {
		return nil
	}
	b := make([]byte, a.Size)
	if _, err := w.tree.Read(ino, 0, b, 0); err != nil {
		w.t.Fatal(err)
	}
	return b
}

// The copy's barrier makes durable what it shares, though the source never saw
// one.
func TestCopyIsDurable(t *testing.T) {
	for seed := range uint64(20) {
		w := &world{t: t, mem: newMem(t), disk: newMemDisk()}
		w.open("boot1")
		src, sfh := w.create("src")
		w.mustWrite(src, sfh, 's', 300000, 0)
		dst, _ := w.copyTo(nil, src, "dst", 300000)
		w.mustWrite(src, sfh, 'o', 100000, 5000)
		seq, failed := w.barrier(dst)
		if len(failed) > 0 {
			t.Fatal(failed)
		}
		must(t, w.eng.Sync(w.eng.Pos()))
		w.powerCut("boot2", rand.New(rand.NewPCG(seed, 5)))
		want := bytes.Repeat([]byte{'s'}, 300000)
		w.wantLive(dst, want)
		w.wantSnap(seq, dst, want, "")
		w.close()
	}
}

// What was written over a copy and is lost with the power leaves what was
// copied, and neither a hole nor what lay there before; unless the reaper has
// been by.
func TestCopyLiesBelow(t *testing.T) {
	torn := 0
	for seed := range uint64(20) {
		w := &world{t: t, mem: newMem(t), disk: newMemDisk()}
		w.open("boot1")
		src, sfh := w.create("src")
		w.mustWrite(src, sfh, 's', 300000, 0)
		dst, dfh := w.create("dst")
		w.tree.reaper.mu.Lock()
		w.tree.reaper.rest[dst] = time.Now().Add(time.Hour)
		w.tree.reaper.mu.Unlock()
		w.mustWrite(dst, dfh, 'x', 200000, 0)
		w.barrier(dst)
		_, err := w.tree.CopyRange(Copy{Src: src, Dst: dst, Fh: dfh, Len: 300000})
		must(t, err)
		w.mustWrite(dst, dfh, 'd', 290000, 5000)
		must(t, w.eng.Sync(w.eng.Pos()))
		w.powerCut("boot2", rand.New(rand.NewPCG(seed, 5)))
		got := w.live(dst)
		if bytes.Count(got, []byte("s"))+bytes.Count(got, []byte("d")) != 300000 {
			t.Errorf("of %d bytes %d were there before, %d are zero", len(got), bytes.Count(got, []byte("x")), bytes.Count(got, []byte{0}))
		}
		if bytes.Count(got, []byte("s")) > 10000 {
			torn++
		}
		w.close()
	}
	if torn == 0 {
		t.Error("nothing was lost: this proves nothing")
	}
}

// What the source can't make durable is not shared. Where the live file is
// taken back, and goes on where it was, the copy is no part of that.
func TestCopyOfWhatFails(t *testing.T) {
	w, disk := memWorld(t)
	defer w.close()
	src, sfh := w.create("src")
	w.mustWrite(src, sfh, 'a', 100000, 0)
	first, _ := w.barrier(src)
	bad := w.tree.mustGen(t, src)
	w.mustWrite(src, sfh, 'b', 100000, 100000) // goes on in the same
	w.mustWrite(src, sfh, 'c', 90000, 0)       // and in a new one
	must(t, w.tree.Flush(src, sfh, false))
	disk.before(func(op string, gen uint64) error {
		if op == "sync" && gen == bad {
			return unix.EIO
		}
		return nil
	})
	old, _ := w.copyTo(w.tree.At(first), src, "old", 100000)
	part, pfh := w.create("part") // of the sound one alone
	_, err := w.tree.CopyRange(Copy{Src: src, Dst: part, Fh: pfh, Len: 90000})
	must(t, err)
	now, _ := w.copyTo(nil, src, "now", 200000)
	want := fill('c', 90000, 'a', 10000, 'b', 100000)
	w.wantLive(now, want)
	if err := w.tree.Settle(src); err == nil {
		t.Fatal("the sync did not fail: this proves nothing")
	}
	w.mustWrite(src, sfh, 'd', 5000, 3000)
	w.wantLive(now, want)
	w.wantLive(part, bytes.Repeat([]byte{'c'}, 90000))
	w.wantLive(old, bytes.Repeat([]byte{'a'}, 100000))
	if _, failed := w.barrier(now, old); len(failed) > 0 {
		t.Errorf("the copies fail: %v", failed)
	}
	disk.well()
}

// mustGen is the generation in which a live file goes on.
func (t *Tree) mustGen(tb testing.TB, ino uint64) uint64 {
	rec, _, err := t.readInode(ino, newest)
	must(tb, err)
	return rec.Live.Gen
}

// What the reaper found dead of a file, and somebody else still has, may be
// shared with the file again before it is freed.
func TestCopyBesideTheReaper(t *testing.T) {
	w, _ := memWorld(t)
	defer w.close()
	src, sfh := w.create("src")
	w.mustWrite(src, sfh, 's', 300000, 0)
	dst, dfh := w.copyTo(nil, src, "dst", 300000)
	w.tree.reaper.work.Lock()
	_, err := w.tree.SetAttr(dst, SetAttr{Size: new(int64)})
	must(t, err)
	f, err := w.tree.findDead(dst)
	must(t, err)
	if len(f.gens) == 0 {
		t.Fatal("nothing is dead: this proves nothing")
	}
	n, err := w.tree.CopyRange(Copy{Src: src, Dst: dst, Fh: dfh, Len: 300000})
	if err != nil || n != 300000 {
		t.Fatal(n, err)
	}
	_, err = w.tree.update(schema.KindReap, func(tx *txn) error { return w.tree.free(tx, f) })
	must(t, err)
	w.tree.reaper.work.Unlock()
	w.unlink("src")
	w.tree.Release(src, sfh)
	w.reapAll()
	w.wantLive(dst, bytes.Repeat([]byte{'s'}, 300000))
	if fs := treeFindings(w.tree); len(fs) > 0 {
		t.Errorf("the check finds %+v", fs)
	}
}

// A snapshot that is removed meanwhile gives an error, and never other bytes.
func TestCopyOfWhatIsPruned(t *testing.T) {
	w, _ := memWorld(t)
	defer w.close()
	src, sfh := w.create("src")
	w.mustWrite(src, sfh, 'a', 300000, 0)
	old, _ := w.barrier(src)
	w.mustWrite(src, sfh, 'b', 300000, 0)
	seq, _ := w.barrier(src)
	w.mustWrite(src, sfh, 'c', 300000, 0)
	w.barrier(src)
	dst, dfh := w.create("dst")
	x := &copying{t: w.tree, Copy: Copy{From: w.tree.At(seq), Src: src, Dst: dst, Fh: dfh, Len: 300000}}
	must(t, x.begin())
	defer x.end()
	must(t, expire(w.eng, seq))
	must(t, prune(t, w.tree))
	if n, err := x.share(); n > 0 || !errors.Is(err, ErrStale) {
		t.Errorf("%d bytes, %v", n, err)
	}
	w.wantLive(dst, nil)
	w.wantSnap(old, src, bytes.Repeat([]byte{'a'}, 300000), "")
}

// What is shared with chunks needs no room, neither while it is written nor
// once it is closed, and is not stored again. An overwrite does need some.
func TestCopyTakesNoRoom(t *testing.T) {
	w, _ := limitedWorld(t, func(*Config) {})
	c := newMemChunks()
	src, sfh := w.create("src")
	w.mustWrite(src, sfh, 's', 12<<20, 0)
	w.shut(src, sfh)
	seq := w.snap()
	w.store(c)
	w.evictAll()
	room := func(what string) {
		t.Helper()
		free, _, err := w.tree.Room()
		if err != nil || free != 31<<20 {
			t.Errorf("%s: %d bytes free, %v", what, free, err)
		}
	}
	room("before")
	dst, dfh := w.create("dst")
	for _, r := range [][2]int64{{0, 5<<20 + 7}, {5<<20 + 7, 1 << 30}} { // as cp does it: in pieces
		_, err := w.tree.CopyRange(Copy{From: w.tree.At(seq), Src: src, Dst: dst, Fh: dfh, SrcOff: r[0], DstOff: r[0], Len: r[1]})
		must(t, err)
		room("open")
	}
	w.shut(dst, dfh)
	room("closed")
	if n := w.pending(); n > 0 {
		t.Errorf("%d contents wait to be stored", n)
	}
	fh, err := w.tree.Open(dst, unix.O_RDWR, Cred{})
	must(t, err)
	w.mustWrite(dst, fh, 'o', 4<<20, 0)
	if free, _, _ := w.tree.Room(); free > 27<<20 {
		t.Errorf("%d bytes free after an overwrite", free)
	}
	w.fillUp(w.create("full"))
	if n, err := w.tree.CopyRange(Copy{From: w.tree.At(seq), Src: src, Dst: dst, Fh: fh, Len: 1 << 30}); err != nil || n != 12<<20 {
		t.Errorf("in a full store: %d, %v", n, err)
	}
	w.reapAll() // the overwrite was undone
	w.fillUp(w.create("fuller"))
	if _, err := w.tree.Write(dst, fh, make([]byte, 2<<20), 0); !errors.Is(err, ErrNoSpace) {
		t.Errorf("an overwrite in a full store: %v", err)
	}
	w.tree.cfg.Chunks = nil
}

// What a copy takes the place of gives back its room, though the file goes on
// under the same number.
func TestCopyGivesBack(t *testing.T) {
	w, disk := memWorld(t)
	defer w.close()
	src, sfh := w.create("src")
	w.mustWrite(src, sfh, 's', 1<<20, 0)
	was := disk.Bytes()
	dst, dfh := w.create("dst")
	w.mustWrite(dst, dfh, 'x', 2<<20, 0)
	_, err := w.tree.SetAttr(dst, SetAttr{Size: new(int64(1 << 20))})
	must(t, err)
	w.reapAll()
	before := w.tree.mustGen(t, dst)
	_, err = w.tree.CopyRange(Copy{Src: src, Dst: dst, Fh: dfh, Len: 1 << 20})
	must(t, err)
	if w.tree.mustGen(t, dst) != before {
		t.Fatal("another number: this proves nothing")
	}
	w.reapAll()
	if now := disk.Bytes(); now != was {
		t.Errorf("%d bytes are staged, want %d", now, was)
	}
}

// A copy is a write: the handle has to be closed again, and who listens is told.
func TestCopyIsAWrite(t *testing.T) {
	w, _ := memWorld(t)
	defer w.close()
	src, sfh := w.create("src")
	w.mustWrite(src, sfh, 's', 1000, 0)
	dst, dfh := w.create("dst")
	must(t, w.tree.Flush(dst, dfh, false))
	shows := func(want []byte) {
		t.Helper()
		seq, _ := w.barrier()
		w.wantSnap(seq, dst, want, "")
	}
	var told []Op
	w.tree.cfg.Events.Happened = func(e Event) { told = append(told, e.Op) }
	_, err := w.tree.CopyRange(Copy{Src: src, Dst: dst, Fh: dfh, Len: 1000})
	must(t, err)
	shows(nil)
	_, err = w.tree.SetAttr(dst, SetAttr{Size: new(int64(500))}) // commits what is closed
	must(t, err)
	shows(nil)
	must(t, w.tree.Flush(dst, dfh, false))
	shows(bytes.Repeat([]byte{'s'}, 500))
	if fmt.Sprint(told) != fmt.Sprint([]Op{OpWrite, OpClose}) {
		t.Errorf("told of %v", told)
	}
}

// A range that nobody wrote is told of in a copy, too: half a checkpoint does
// not become a whole one by being copied.
func TestCopyOfTheUnwritten(t *testing.T) {
	w, _ := memWorld(t)
	defer w.close()
	src, _ := w.create("src")
	w.mustWrite(src, 0, 's', 1000, 0)
	_, err := w.tree.SetAttr(src, SetAttr{Size: new(int64(2000))})
	must(t, err)
	dst, _ := w.copyTo(nil, src, "dst", 2000)
	seq, _ := w.barrier(src, dst)
	for _, ino := range []uint64{src, dst} {
		if yes, err := w.tree.At(seq).Unwritten(ino); err != nil || !yes {
			t.Errorf("inode %d: unwritten %v, %v", ino, yes, err)
		}
	}
}

// A copy of what was stored only later is not stored again either.
func TestCopyIsStoredWithItsSource(t *testing.T) {
	w, _ := memWorld(t)
	defer w.close()
	src, sfh := w.create("src")
	w.mustWrite(src, sfh, 's', 300000, 0)
	w.shut(src, sfh)
	dst, dfh := w.copyTo(nil, src, "dst", 300000)
	w.shut(dst, dfh)
	other, ofh := w.copyTo(nil, src, "other", 300000)
	w.mustWrite(other, ofh, 'o', 10, 0)
	w.shut(other, ofh)
	if w.pending() != 3 {
		t.Fatalf("%d contents wait", w.pending())
	}
	c := newMemChunks()
	w.tree.cfg.Chunks = c
	var all []*Frozen
	must(t, w.tree.Pending(func(f *Frozen) bool { all = append(all, f); return true }))
	for _, f := range all {
		done, err := f.Done()
		must(t, err)
		if done != (f.Ino() == dst) {
			t.Errorf("inode %d: done %v", f.Ino(), done)
		}
		if !done {
			must(t, c.store(f))
		}
	}
	w.reapAll()
	w.evictAll()
	w.unlink("src")
	w.reapAll()
	w.wantLive(dst, bytes.Repeat([]byte{'s'}, 300000))
	w.wantLive(other, fill('o', 10, 's', 299990))
	if fs := treeFindings(w.tree); len(fs) > 0 {
		t.Errorf("the check finds %+v", fs)
	}
}

func (w *world) pending() (n int) { return w.count(schema.PrefixPending) }

// Beside writers, storing, evicting and reaping a copy is of one moment for
// each stripe, and stays.
func TestCopyBesideWriters(t *testing.T) {
	w, _ := memWorld(t)
	defer w.close()
	c := newMemChunks()
	w.tree.cfg.Chunks = c
	const n = 1<<20 + 300000
	src, sfh := w.create("src")
	w.mustWrite(src, sfh, 0, n, 0)
	var busy sync.WaitGroup
	stop := make(chan struct{})
	loop := func(fn func(k int) error) {
		busy.Add(1)
		go func() {
			defer busy.Done()
			for k := 0; ; k++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := fn(k); err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	loop(func(k int) error {
		_, err := w.tree.Write(src, sfh, bytes.Repeat([]byte{byte(k)}, 300000), n-300000)
		if k%3 == 0 {
			err = errors.Join(err, w.tree.Flush(src, sfh, false))
		}
		return err
	})
	loop(func(int) error { return w.tree.reapAll() })
	loop(func(int) error {
		err := c.storeAll(w.tree)
		_ = w.tree.Hot(func(gen uint64, _ int64) bool { err = errors.Join(err, w.tree.Evict(gen)); return true })
		return errors.Join(err, w.tree.UnlinkEvicted())
	})
	shared := 0
	for k := range 60 {
		dst, dfh := w.create(fmt.Sprint(k))
		x := &copying{t: w.tree, Copy: Copy{Src: src, Dst: dst, Fh: dfh, Len: n}}
		must(t, x.begin())
		done, err := x.share()
		x.end()
		if err != nil && !errors.Is(err, errUnshared) {
			t.Fatal(err)
		}
		if done == n {
			shared++
		}
		first := w.live(dst)
		if tail := first[min(len(first), n-300000):]; len(tail) > 0 && bytes.Count(tail, tail[:1]) != len(tail) {
			t.Fatal("bytes of two moments in one write")
		}
		if k%2 == 0 {
			w.shut(dst, dfh)
		}
		if !bytes.Equal(w.live(dst), first) {
			t.Fatal("a copy changed")
		}
	}
	close(stop)
	busy.Wait()
	if shared == 0 {
		t.Error("nothing was shared: this proves nothing")
	}
	if fs := treeFindings(w.tree); len(fs) > 0 {
		t.Errorf("the check finds %+v", fs)
	}
}
