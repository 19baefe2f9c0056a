package snapshot_test

import (
	"errors"
	"fmt"
	"math/rand"
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"stepfs/fs/stage"
	"stepfs/internal/schema"
	"stepfs/internal/state"
	"stepfs/snapshot"
)

// unpacked has packs stay as they are, so that what dies in them can be read off.
func unpacked(c *snapshot.Config) {
	byHand(c)
	c.Collector, c.Policy = nil, new(snapshot.KeepAll())
}

// taken is what the store takes, as Freeable counts it, hot copies apart.
func (w *world) taken() (sum int64) {
	w.t.Helper()
	st := w.chunks.Stats()
	sum = int64(st.Stored - st.Dead)
	for _, gen := range w.numbers(schema.PrefixGen) {
		v, err := w.eng.Get(schema.Numbered(schema.PrefixGen, gen))
		w.ok(err)
		g, err := schema.DecodeGeneration(v)
		w.ok(err)
		if g.Stored > 0 {
			continue
		}
		if g.File {
			n, err := w.disk.Allocated(gen)
			w.ok(err)
			sum += n
		}
		it, err := w.eng.NewIter(schema.Numbered(schema.PrefixInline, gen), schema.Numbered(schema.PrefixInline, gen+1))
		w.ok(err)
		for ok := it.First(); ok; ok = it.Next() {
			sum += int64(len(it.Value()))
		}
		w.ok(it.Close())
	}
	return sum
}

// still waits until nothing is on its way out.
func (w *world) still() {
	w.t.Helper()
	until(w.t, "everything dead is gone", func() bool {
		w.prune()
		return !w.any(schema.PrefixReap) && !w.any(schema.PrefixDoomed) && !w.any(schema.PrefixDeadHold)
	})
}

// swept has the reaper look at every inode, since it goes where something was
// dropped and else leaves what is dead until it comes by: a content that was
// kept in case that power fails. It gives up all hot copies, too.
func (w *world) swept() {
	w.t.Helper()
	_, err := w.eng.Update(schema.KindReap, func(tx *state.Tx) error {
		it, err := tx.NewIter([]byte{schema.PrefixInode}, []byte{schema.PrefixInode + 1})
		if err != nil {
			return err
		}
		for ok := it.First(); ok; ok = it.Next() {
			tx.Put(append([]byte{schema.PrefixReap}, it.Key()[1:9]...), nil)
		}
		return it.Close()
	})
	w.ok(err)
	w.restart()
	w.still()
	for _, gen := range w.numbers(schema.PrefixGen) {
		w.ok(w.tree.Evict(gen))
	}
	w.ok(w.tree.UnlinkEvicted())
}

// any says whether the index has a key of that kind.
func (w *world) any(prefix byte) bool {
	_, _, err := w.eng.First([]byte{prefix})
	if err != nil && !errors.Is(err, state.ErrNotFound) {
		w.t.Error(err)
	}
	return err == nil
}

// frees forgets and prunes some steps, and says what that freed.
func (w *world) frees(steps ...snapshot.Info) int64 {
	w.t.Helper()
	w.still()
	before := w.taken()
	for _, i := range steps {
		w.forget(i.ID())
	}
	w.still()
	return before - w.taken()
}

// freeable is what is said to be freed, the same whether it was known or not.
func (w *world) freeable(i snapshot.Info) (n int64) {
	w.t.Helper()
	anew := int64(-1)
	for range 3 { // something may be stored between the two
		var err error
		n, err = w.m.Freeable(w.ctx(), i.Seq, 0)
		w.ok(err)
		if n == anew {
			return n
		}
		anew, err = w.m.FreeableTogether(w.ctx(), []uint64{i.Seq})
		w.ok(err)
		if n == anew {
			return n
		}
	}
	w.t.Errorf("%s: %d bytes are known, %d are found", i.ID(), n, anew)
	return n
}

// wantFrees checks that forgetting a step frees what was said, and that this
// is about want.
func (w *world) wantFrees(i snapshot.Info, want int64) {
	w.t.Helper()
	said := w.freeable(i)
	if got := w.frees(i); got != said || said < want || said > want+8<<10 {
		w.t.Errorf("%s: said to free %d bytes, freed %d, want about %d", i.ID(), said, got, want)
	}
}

// What only one step needs comes back with it: its own content, not what others
// share by name, by the same bytes elsewhere, or by a hard link.
func TestFreeable(t *testing.T) {
	w := newWorld(t, keeping(&hands{}, unpacked))
	const kib = 1 << 10
	w.put("shared", noise(1, 200*kib))
	w.put("a", noise(2, 300*kib))
	w.put("a-again", noise(2, 300*kib)) // the same chunks, twice in one step
	ino := w.put("linked", noise(3, 100*kib))
	_, err := w.tree.Link(ino, stage.RootIno, "link")
	w.ok(err)
	one := w.step("1")
	w.remove("a")
	w.remove("a-again")
	w.remove("linked") // the other name is still there
	w.put("b", noise(4, 250*kib))
	two := w.step("2")
	w.remove("b")
	w.remove("link")
	three := w.step("3")
	w.put("c", noise(2, 300*kib)) // as a was
	four := w.step("4")
	w.remove("shared")
	w.remove("c")
	w.step("5")
	w.drain()
	w.still()
	if n := w.freeable(one); n > 8*kib {
		t.Errorf("step 1: %d bytes, but step 4 has the same", n)
	}
	if n := w.freeable(four); n > 8*kib {
		t.Errorf("step 4: %d bytes, but step 1 has the same", n)
	}
	w.wantFrees(two, 250*kib)
	w.wantFrees(four, 0)
	w.wantFrees(one, 400*kib) // that of its own, now that 4 is gone, and the link's, now that 2 is
	w.wantFrees(three, 200*kib)
	w.noFaults()
}

// A forgotten step needs what it shows until it is pruned; what only it and
// another need is freed by both together.
func TestFreeableTogether(t *testing.T) {
	w := newWorld(t, keeping(&hands{}, unpacked))
	w.put("a", noise(1, 100<<10))
	one := w.step("1")
	w.put("b", noise(2, 200<<10))
	two := w.step("2")
	w.remove("a")
	w.remove("b")
	three := w.step("3")
	w.put("d", "d")
	w.step("4")
	w.drain()
	w.still()
	w.forget("2")
	if n := w.freeable(one); n > 8<<10 {
		t.Errorf("step 1 would free %d bytes, though 2 can be brought back", n)
	}
	said, err := w.m.FreeableTogether(w.ctx(), []uint64{three.Seq, one.Seq, two.Seq})
	w.ok(err)
	before := w.taken()
	w.frees(one, three) // and two
	if got := before - w.taken(); got != said || said < 300<<10 || said > 312<<10 {
		t.Errorf("said to free %d bytes together, freed %d", said, got)
	}
	w.noFaults()
}

// Files that were appended to, overwritten in part or cut off, and what is only
// staged yet.
func TestFreeableParts(t *testing.T) {
	w := newWorld(t, keeping(&hands{}, unpacked))
	const mib = 1 << 20
	ino, fh := w.openFile("f", 0)
	w.pwrite(ino, fh, noise(1, 3*mib), 0)
	w.closeFile(ino, fh)
	one := w.step("1")
	ino, fh = w.openFile("f", 0)
	w.pwrite(ino, fh, noise(2, mib), mib) // the middle
	w.pwrite(ino, fh, noise(3, mib), 3*mib)
	w.closeFile(ino, fh)
	two := w.step("2")
	ino, fh = w.openFile("f", 0)
	w.pwrite(ino, fh, noise(4, mib), 4*mib)
	w.closeFile(ino, fh)
	three := w.step("3")
	_, err := w.tree.SetAttr(ino, stage.SetAttr{Size: new(int64(mib))})
	w.ok(err)
	w.step("4")
	w.drain()
	w.still()
	for _, i := range []snapshot.Info{two, one, three} {
		said := w.freeable(i)
		if got := w.frees(i); got != said {
			t.Errorf("%s: said to free %d bytes, freed %d", i.ID(), said, got)
		}
	}
	w.noFaults()
}

// Any history: what is said is what is freed, to the byte; and what is known is
// what is found.
func TestFreeableModel(t *testing.T) {
	rounds := 6
	if n, err := strconv.Atoi(os.Getenv("STEPFS_FREEABLE_ROUNDS")); err == nil {
		rounds = n
	}
	for seed := range rounds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { freeableModel(t, rand.New(rand.NewSource(int64(seed)))) })
	}
}

func freeableModel(t *testing.T, r *rand.Rand) {
	w := newWorld(t, keeping(&hands{}, unpacked))
	files := map[string]bool{}
	pick := func() string { return fmt.Sprint("f", r.Intn(6)) }
	var steps []snapshot.Info
	share := func() { // what a live file has, or a step, all of it or a part
		from, to := pick(), pick()
		c := stage.Copy{Len: 1 << 30}
		var view interface {
			Find(string) (stage.Attr, error)
		} = w.tree
		if len(steps) > 0 && r.Intn(3) > 0 {
			c.From = w.tree.At(steps[r.Intn(len(steps))].Seq)
			view = c.From
			if r.Intn(2) == 0 {
				to = from // often the same inode
			}
		} else if from == to {
			return
		}
		a, err := view.Find(from)
		if errors.Is(err, stage.ErrNotExist) {
			return
		}
		w.ok(err)
		flags := uint32(r.Intn(2)) * unix.O_TRUNC
		if r.Intn(4) == 0 {
			c.SrcOff, c.Len = r.Int63n(a.Size+1), 1+r.Int63n(100<<10)
			c.DstOff = c.SrcOff
		}
		c.Src = a.Ino
		c.Dst, c.Fh = w.openFile(to, flags)
		_, err = w.tree.CopyRange(c)
		w.ok(err)
		w.closeFile(c.Dst, c.Fh)
		files[to] = true
	}
	change := func() {
		if r.Intn(4) == 0 {
			share()
			return
		}
		name := pick()
		n := 1 + r.Intn(200<<10)
		if r.Intn(4) == 0 {
			n = 1 + r.Intn(5000) // inline
		}
		data := noise(int64(r.Intn(8)), n) // the same bytes again and again
		switch k := r.Intn(10); {
		case !files[name] || k < 2:
			w.put(name, data)
			files[name] = true
		case k < 4:
			w.remove(name)
			delete(files, name)
		case k < 5:
			if to := name + "-link"; !files[to] {
				a, err := w.tree.Find(name)
				w.ok(err)
				_, err = w.tree.Link(a.Ino, stage.RootIno, to)
				w.ok(err)
				files[to] = true
			} else {
				w.remove(to)
				delete(files, to)
			}
		case k < 6:
			w.ok(w.tree.Rename(stage.RootIno, name, stage.RootIno, name+"x", 0))
			w.ok(w.tree.Rename(stage.RootIno, name+"x", stage.RootIno, name, 0))
		default:
			ino, fh := w.openFile(name, 0)
			a, err := w.tree.GetAttr(ino)
			w.ok(err)
			off := a.Size // appended
			if k > 7 {
				off = r.Int63n(a.Size + 1)
			}
			w.pwrite(ino, fh, data, off)
			w.closeFile(ino, fh)
		}
	}
	check := func() {
		t.Helper()
		for _, i := range steps {
			w.freeable(i)
		}
	}
	for k := range 60 {
		for range 1 + r.Intn(4) {
			change()
		}
		if r.Intn(3) > 0 {
			steps = append(steps, w.step(fmt.Sprint(k)))
		} else {
			w.barrier()
		}
		if len(steps) > 3 && r.Intn(8) == 0 {
			_, err := w.m.Rollback(w.ctx(), "", steps[r.Intn(len(steps))].ID())
			w.ok(err)
			files = map[string]bool{}
			es, err := w.tree.ReadDir(stage.RootIno, "", 1000)
			w.ok(err)
			for _, e := range es {
				files[e.Name] = true
			}
		}
		if r.Intn(5) == 0 {
			check()
		}
		if r.Intn(4) > 0 || len(steps) < 2 {
			continue
		}
		w.drain()
		w.swept()
		check()
		at := r.Intn(len(steps))
		gone := steps[at : at+1+r.Intn(min(3, len(steps)-at))]
		var seqs []uint64
		for _, i := range gone {
			seqs = append(seqs, i.Seq)
		}
		said, err := w.m.FreeableTogether(w.ctx(), seqs)
		w.ok(err)
		if len(seqs) == 1 {
			if one, err := w.m.Freeable(w.ctx(), seqs[0], 0); err != nil || one != said {
				t.Errorf("%d and %d, %v", one, said, err)
			}
		}
		if got := w.frees(gone...); got != said {
			t.Fatalf("round %d: %d said to be freed by %v, %d were", k, said, seqs, got)
		}
		steps = append(steps[:at:at], steps[at+len(gone):]...)
	}
	w.noFaults()
}

// A rollback has the live tree need what a step alone needed, and its end gives
// that back: what is known of the step does not outlive either.
func TestFreeableRolledBack(t *testing.T) {
	w := newWorld(t, keeping(&hands{}, unpacked))
	const size = 300 << 10
	w.put("f", noise(1, size))
	one := w.step("1")
	w.remove("f")
	w.step("2")
	w.drain()
	w.still()
	if n := w.freeable(one); n < size {
		t.Errorf("%d bytes, want %d", n, size)
	}
	_, err := w.m.Rollback(w.ctx(), "", "1")
	w.ok(err)
	until(t, "the tree is as it was", func() bool { return !w.any(schema.PrefixOrphan) })
	w.still()
	if n := w.freeable(one); n > 8<<10 || !w.any(schema.PrefixGenRef) {
		t.Errorf("%d bytes, though the live tree has them", n)
	}
	w.remove("f")
	w.step("3")
	is, err := w.m.Barriers(one.Seq, 100)
	w.ok(err)
	for _, i := range is {
		if i.Name == "" { // that of the rollback itself
			_, err := w.m.Expire("test", i.Seq)
			w.ok(err)
		}
	}
	w.drain()
	w.still()
	w.wantFrees(one, size)
	w.noFaults()
}

// What is not stored counts as it lies on the disk, or in the index.
func TestFreeableStaged(t *testing.T) {
	w := newWorld(t, keeping(&hands{}, unpacked))
	w.put("f", noise(1, 300<<10))
	w.put("small", noise(2, 3000))
	first := w.barrier(w.find("f"))
	w.put("f", noise(3, 500<<10))
	w.put("small", noise(4, 5000))
	second := w.barrier(w.find("f"))
	w.put("f", "")
	w.put("small", "")
	w.barrier(w.find("f"))
	w.still()
	for seq, want := range map[uint64]int64{first: 300<<10 + 3000, second: 500<<10 + 5000} {
		i, err := w.m.Get(seq)
		w.ok(err)
		said, before := w.freeable(i), w.taken()
		_, err = w.m.Expire("test", seq)
		w.ok(err)
		w.still()
		if got := before - w.taken(); got != said || said < want || said > want+8<<10 {
			t.Errorf("said to free %d bytes, freed %d, want about %d", said, got, want)
		}
	}
	if pendings(w) > 2 {
		t.Error("something was stored: this proves nothing")
	}
	w.noFaults()
}

// copyOut copies a file out of a snapshot over the live one of that name.
func (w *world) copyOut(seq uint64, name string) {
	w.t.Helper()
	view := w.tree.At(seq)
	a, err := view.Find(name)
	w.ok(err)
	c := stage.Copy{From: view, Src: a.Ino, Len: 1 << 30}
	c.Dst, c.Fh = w.openFile(name, unix.O_TRUNC)
	n, err := w.tree.CopyRange(c)
	if err != nil || n != a.Size {
		w.t.Errorf("copied %d bytes of %d: %v", n, a.Size, err)
	}
	w.closeFile(c.Dst, c.Fh)
}

// What comes back to a file out of a snapshot that is not the one before: those
// between do not read it, and it stays all the same; until that is over. (They
// are no steps, whose trees might share chunks: then nothing known holds.)
func TestFreeableComesBack(t *testing.T) {
	w := newWorld(t, keeping(&hands{}, unpacked))
	const size = 300 << 10
	var seqs []uint64
	save := func(data string) {
		ino := w.find("f")
		if data != "" {
			w.put("f", data)
		} else {
			w.copyOut(seqs[0], "f")
		}
		if w.find("f") != ino {
			t.Fatal("another inode: this proves nothing")
		}
		seqs = append(seqs, w.barrier(ino))
		w.drain()
		w.still()
	}
	want := func(what string, most, least int64) {
		t.Helper()
		i, err := w.m.Get(seqs[0])
		w.ok(err)
		if n := w.freeable(i); n > most || n < least {
			t.Errorf("%s: %d bytes", what, n)
		}
	}
	w.put("f", "")
	save(noise(1, size))
	save(noise(2, size))
	want("replaced", 2*size, size)
	save("")
	save(noise(3, size))
	save(noise(4, size))
	want("another snapshot has it", 8<<10, 0)
	both, err := w.m.FreeableTogether(w.ctx(), []uint64{seqs[0], seqs[2]})
	if err != nil || both < size {
		t.Errorf("both together: %d bytes, %v", both, err)
	}
	_, err = w.m.Expire("test", seqs[2])
	w.ok(err)
	w.still()
	want("that is gone", 2*size, size)
	before := w.taken()
	_, err = w.m.Expire("test", seqs[0])
	w.ok(err)
	w.still()
	if got := before - w.taken(); got < size {
		t.Errorf("%d bytes were freed", got)
	}
	w.noFaults()
}
