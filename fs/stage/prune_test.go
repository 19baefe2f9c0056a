package stage

import (
	"fmt"
	"testing"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// publish records a cut's snapshot, as snapshot.Manager does.
func publish(tx *state.Tx, seq uint64) {
	tx.Put(schema.Numbered(schema.PrefixSnapshot, seq), (&schema.Snapshot{}).Encode())
	tx.Delete(schema.Numbered(schema.PrefixExpired, seq))
}

// expire gives snapshots up.
func expire(eng *state.Engine, seqs ...uint64) error {
	_, err := eng.Update(schema.KindExpire, func(tx *state.Tx) error {
		for _, seq := range seqs {
			tx.Delete(schema.Numbered(schema.PrefixSnapshot, seq))
			tx.Put(schema.Numbered(schema.PrefixExpired, seq), nil)
		}
		return nil
	})
	return err
}

// prune frees all that can be freed now.
func prune(t testing.TB, tree *Tree) error {
	for range 2 { // versions; what the reaper then finds dead has chunks
		if more, err := tree.Prune(t.Context(), true); more || err != nil {
			return fmt.Errorf("prune: more %v, %w", more, err)
		}
		if err := tree.reapAll(); err != nil {
			return err
		}
	}
	return nil
}

// leftovers lists what an index holds besides one version of the root directory
// and counters, when there is neither file nor snapshot any more.
func leftovers(eng *state.Engine) (out []string) {
	roots := 0
	for _, p := range [...]byte{
		schema.PrefixDentry, schema.PrefixXattr, schema.PrefixSymlink, schema.PrefixStripe, schema.PrefixGen,
		schema.PrefixInline, schema.PrefixChunkMap, schema.PrefixOrphan, schema.PrefixUnsettled, schema.PrefixPending,
		schema.PrefixHot, schema.PrefixDeath, schema.PrefixGenRef, schema.PrefixReap, schema.PrefixDoomed,
		schema.PrefixDeadHold, schema.PrefixChunkRef, schema.PrefixInode,
	} {
		it, err := eng.NewIter([]byte{p}, []byte{p + 1})
		if err != nil {
			return []string{err.Error()}
		}
		for ok := it.First(); ok; ok = it.Next() {
			if p != schema.PrefixInode || roots > 0 || string(it.Key()[:9]) != string(schema.InodePrefix(RootIno)) {
				out = append(out, fmt.Sprintf("%c %x", p, it.Key()[1:]))
			} else {
				roots++
			}
		}
		if err := it.Close(); err != nil {
			out = append(out, err.Error())
		}
	}
	return out
}

// unheld lists chunks that a generation consists of and does not hold.
func unheld(eng *state.Engine) (out []string) {
	it, err := eng.NewIter([]byte{schema.PrefixChunkMap}, []byte{schema.PrefixChunkMap + 1})
	if err != nil {
		return []string{err.Error()}
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		gen, err := schema.ParseNumbered(it.Key()[:9])
		es, err2 := schema.DecodeChunkMap(it.Value())
		if err != nil || err2 != nil {
			return []string{fmt.Sprint(err, err2)}
		}
		for _, e := range es {
			if _, err := eng.Get(holdKey(gen, e.ID)); err != nil {
				out = append(out, fmt.Sprintf("generation %d does not hold %x: %v", gen, e.ID, err))
			}
		}
	}
	return out
}

// TestPruneFreesOneOfThree: of three snapshots of one file the middle one goes:
// what it alone showed is gone, the others show what they did.
func TestPruneFreesOneOfThree(t *testing.T) {
	w, disk := memWorld(t)
	ino, fh := w.create("f")
	var seqs [3]uint64
	for k, c := range "abc" {
		w.mustWrite(ino, fh, byte(c), 100000, 0)
		seqs[k], _ = w.barrier(ino)
	}
	if n := w.count(schema.PrefixGen); n != 3 {
		t.Fatalf("%d generations, want 3", n)
	}
	before := disk.Bytes()
	if err := expire(w.eng, seqs[1]); err != nil {
		t.Fatal(err)
	}
	if err := prune(t, w.tree); err != nil {
		t.Fatal(err)
	}
	w.wantSnap(seqs[0], ino, fill('a', 100000), "")
	w.wantSnap(seqs[2], ino, fill('c', 100000), "")
	if n := w.count(schema.PrefixGen); n != 2 {
		t.Errorf("%d generations, want 2", n)
	}
	if after := disk.Bytes(); after >= before*3/4 {
		t.Errorf("staging holds %d bytes, %d before", after, before)
	}
}

// TestPruneSparesCuts: a cut under way keeps what it shows, though no snapshot
// has its number yet; one that comes to nothing keeps nothing.
func TestPruneSparesCuts(t *testing.T) {
	w, _ := memWorld(t)
	ino, fh := w.create("f")
	w.mustWrite(ino, fh, 'a', 100000, 0)
	cut, err := w.tree.Cut([]uint64{ino}, false, true)
	if err != nil {
		t.Fatal(err)
	}
	w.mustWrite(ino, fh, 'b', 100000, 0)
	w.barrier(ino)
	if err := prune(t, w.tree); err != nil {
		t.Fatal(err)
	}
	w.wantSnap(cut.Seq, ino, fill('a', 100000), "")
	w.tree.CutDone(cut)
	if err := prune(t, w.tree); err != nil {
		t.Fatal(err)
	}
	if n := w.count(schema.PrefixGen); n != 1 {
		t.Errorf("%d generations, want 1", n)
	}
}

// TestNothingIsLeaked: when all names and all snapshots are gone, so is all
// that was ever kept for them.
func TestNothingIsLeaked(t *testing.T) {
	w, disk := memWorld(t)
	chunks := newMemChunks()
	w.tree.cfg.Chunks = chunks
	var seqs []uint64
	for k := range 6 {
		name := fmt.Sprint("f", k%2)
		a, err := w.tree.Lookup(RootIno, name)
		ino, fh := a.Ino, uint64(0)
		if err != nil {
			ino, fh = w.create(name)
		} else if fh, err = w.tree.Open(ino, 2, Cred{}); err != nil {
			t.Fatal(err)
		}
		w.mustWrite(ino, fh, byte('a'+k), 70000*(1+k%3), int64(k)*10000)
		if err := w.tree.SetXattr(ino, "user.k", []byte{byte(k)}, 0); err != nil {
			t.Fatal(err)
		}
		seq, _ := w.barrier(ino)
		seqs = append(seqs, seq)
		w.shut(ino, fh)
		if k == 3 {
			w.store(chunks)
			w.evictAll()
		}
		if k%2 == 1 {
			if err := w.tree.Unlink(RootIno, name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.tree.Unlink(RootIno, "f0"); err != nil {
		t.Fatal(err)
	}
	if l := unheld(w.eng); len(l) > 0 {
		t.Fatal(l)
	}
	last, _ := w.barrier()
	newest, _ := w.barrier() // the newest number waits for the next one
	for _, seq := range append(seqs, last, newest) {
		if err := expire(w.eng, seq); err != nil {
			t.Fatal(err)
		}
	}
	if err := prune(t, w.tree); err != nil {
		t.Fatal(err)
	}
	if l := leftovers(w.eng); len(l) > 0 {
		t.Errorf("%d keys are left: %q", len(l), l[:min(len(l), 10)])
	}
	if n := disk.Bytes(); n > 0 {
		t.Errorf("staging files of %d bytes are left", n)
	}
}

// TestPruneTakesTombstonesOfTombstones: where the last version that a name had
// goes, all tombstones above it go, though several are in a row.
func TestPruneTakesTombstonesOfTombstones(t *testing.T) {
	w, _ := memWorld(t)
	make := func() {
		ino, fh := w.create("b")
		w.mustWrite(ino, fh, 'x', 10, 0)
		w.shut(ino, fh)
	}
	unlink := func() {
		if err := w.tree.Unlink(RootIno, "b"); err != nil {
			t.Fatal(err)
		}
	}
	make()
	first, _ := w.barrier()
	unlink()
	w.barrier()
	make()
	unlink() // in one go: a second tombstone, over the first
	w.barrier()
	w.barrier()
	if n := w.count(schema.PrefixDentry); n != 3 {
		t.Fatalf("%d versions of the name, want one and two tombstones", n)
	}
	if err := expire(w.eng, first); err != nil {
		t.Fatal(err)
	}
	if err := prune(t, w.tree); err != nil {
		t.Fatal(err)
	}
	if n := w.count(schema.PrefixDentry); n != 0 {
		t.Errorf("%d versions of the name are left", n)
	}
}
