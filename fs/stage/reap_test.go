package stage

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// reapAll reaps all that is queued, rest or no rest, but for what fails.
func (t *Tree) reapAll() error {
	for range 100 {
		t.reaper.idle()
		inos, err := t.numbered(schema.PrefixReap)
		if err != nil || len(inos) == 0 {
			return errors.Join(err, t.unlinkDoomed())
		}
		for _, ino := range inos {
			if err := t.reaper.one(t, ino); err != nil {
				return err
			}
		}
	}
	return nil
}

// idle returns once nothing is queued but what rests.
func (r *reaper) idle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for (len(r.queue) > 0 || r.busy) && !r.quit {
		r.cond.Wait()
	}
}

// reapNow has an inode looked at whether or not it is queued.
func (w *world) reapNow(ino uint64) {
	w.t.Helper()
	if _, err := w.tree.update(schema.KindReap, func(tx *txn) error { w.tree.reaper.add(tx, ino); return nil }); err != nil {
		w.t.Fatal(err)
	}
	w.reapAll()
}

func (w *world) reapAll() {
	w.t.Helper()
	if err := w.tree.reapAll(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) shut(ino, fh uint64) {
	w.t.Helper()
	if err := w.tree.Flush(ino, fh, false); err != nil {
		w.t.Fatal(err)
	}
	w.tree.Release(ino, fh)
}

func (w *world) store(c *memChunks) {
	w.t.Helper()
	w.tree.cfg.Chunks = c
	if err := c.storeAll(w.tree); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) evictAll() {
	w.t.Helper()
	var gens []uint64
	err := w.tree.Hot(func(gen uint64, _ int64) bool { gens = append(gens, gen); return true })
	for _, gen := range gens {
		err = errors.Join(err, w.tree.Evict(gen))
	}
	if err = errors.Join(err, w.tree.UnlinkEvicted()); err != nil {
		w.t.Fatal(err)
	}
}

// count gives the number of keys of a kind.
func (w *world) count(prefix byte) (n int) {
	w.t.Helper()
	it, err := w.eng.NewIter([]byte{prefix}, []byte{prefix + 1})
	if err != nil {
		w.t.Fatal(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		n++
	}
	return n
}

// TestStoreFreesOverwritten: once a content that lies in several generations
// is stored as one, their staging files go.
func TestStoreFreesOverwritten(t *testing.T) {
	w, disk := memWorld(t)
	defer w.close()
	ino, fh := w.create("f")
	w.mustWrite(ino, fh, 'a', 1<<20, 0)
	w.snap(ino)
	w.mustWrite(ino, fh, 'b', 200000, 0)
	seq := w.snap(ino)
	w.shut(ino, fh)
	w.store(newMemChunks())
	w.evictAll()
	w.reapAll()
	want := fill('b', 200000, 'a', 1<<20-200000)
	w.wantLive(ino, want)
	w.wantSnap(seq, ino, want, "")
	w.reopen()
	if n := disk.Bytes(); n > 0 {
		t.Fatalf("%d bytes are still staged", n)
	}
	w.tree.cfg.Chunks = nil
}

// TestStalePending: a content that nobody names any more is not ingested from
// stripes that are gone.
func TestStalePending(t *testing.T) {
	w, _ := memWorld(t)
	defer w.close()
	ino, fh := w.create("f")
	write := func(c byte, n int, off int64) {
		w.mustWrite(ino, fh, c, n, off)
		w.shut(ino, fh)
		if err := w.tree.Settle(ino); err != nil {
			t.Fatal(err)
		}
		var err error
		if fh, err = w.tree.Open(ino, unix.O_RDWR, Cred{}); err != nil {
			t.Fatal(err)
		}
	}
	write('a', 3<<20, 0)
	write('b', 3<<20, 0)
	write('c', 200000, 0)
	write('d', 200000, 0)
	write('e', 200000, 0)
	w.reapAll()
	want := fill('e', 200000, 'b', 3<<20-200000)
	w.wantLive(ino, want)
	chunks := newMemChunks()
	w.tree.cfg.Chunks = chunks
	var oldest *Frozen
	if err := w.tree.Pending(func(f *Frozen) bool { oldest = f; return false }); err != nil {
		t.Fatal(err)
	}
	if err := chunks.store(oldest); err != nil {
		t.Fatal(err)
	}
	w.evictAll()
	w.reapAll()
	w.wantLive(ino, want)
	w.tree.cfg.Chunks = nil
}

// TestEvictShared: a generation that a rollback shares is evicted only when
// the bytes that the other inode names are stored too.
func TestEvictShared(t *testing.T) {
	w, _ := memWorld(t)
	defer w.close()
	chunks := newMemChunks()
	w.tree.cfg.Chunks = chunks
	ino, fh := w.create("f")
	w.mustWrite(ino, fh, 'a', 100000, 0)
	w.snap(ino)
	w.store(chunks) // 100000 bytes of the generation are stored
	w.mustWrite(ino, fh, 'b', 100000, 100000)
	seq := w.snap(ino)
	w.shut(ino, fh)
	if _, err := w.tree.Rollback(RootIno, seq, RootIno, ""); err != nil {
		t.Fatal(err)
	}
	a, err := w.tree.Lookup(RootIno, "f")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.eng.Update(schema.KindRegistry, func(tx *state.Tx) error { // forget all snapshots
		tx.DeleteRange([]byte{schema.PrefixSnapshot}, []byte{schema.PrefixSnapshot + 1})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	w.reapNow(ino)
	w.evictAll()
	w.wantLive(a.Ino, fill('a', 100000, 'b', 100000))
	w.store(chunks)
	w.evictAll()
	w.reapAll()
	w.wantLive(a.Ino, fill('a', 100000, 'b', 100000))
	if n := w.count(schema.PrefixGenRef); n != 0 {
		t.Fatalf("%d references to shared generations are left", n)
	}
	w.tree.cfg.Chunks = nil
}

// TestStoreIsNotUndone: a smaller content that is stored after a larger one of
// the same generation does not hide what the larger one has in chunks.
func TestStoreIsNotUndone(t *testing.T) {
	w, _ := memWorld(t)
	defer w.close()
	chunks := newMemChunks()
	w.tree.cfg.Chunks = chunks
	ino, fh := w.create("f")
	w.mustWrite(ino, fh, 'a', 100000, 0)
	w.snap(ino)
	var small *Frozen
	if err := w.tree.Pending(func(f *Frozen) bool { small = f; return false }); err != nil {
		t.Fatal(err)
	}
	w.mustWrite(ino, fh, 'b', 100000, 100000)
	w.snap(ino)
	w.store(chunks)
	w.mustWrite(ino, fh, 'c', 1, 200000)
	w.snap(ino)
	if err := chunks.store(small); err != nil {
		t.Fatal(err)
	}
	w.mustWrite(ino, fh, 'd', 1, 0)
	w.shut(ino, fh)
	w.evictAll()
	got, err := w.tree.chunkMap(small.gen)
	if err != nil || len(got) == 0 || got[len(got)-1].Off+int64(got[len(got)-1].Len) < 200000 {
		t.Fatalf("chunk map %v, %v", got, err)
	}
}

// TestCommitWhileReaping: a content that is committed between the reaper's look
// at an inode and what it frees waits for ingest, also when a cut has frozen it
// and the job has gone on.
func TestCommitWhileReaping(t *testing.T) {
	for _, goesOn := range []bool{false, true} {
		w, _ := memWorld(t)
		ino, fh := w.create("f")
		w.mustWrite(ino, fh, 'a', 100000, 0)
		f, err := w.tree.findDead(ino)
		if err != nil {
			t.Fatal(err)
		}
		w.barrier(ino)
		if goesOn {
			w.mustWrite(ino, fh, 'b', 100000, 0)
			w.barrier(ino)
		}
		before := w.count(schema.PrefixPending)
		// What a look finds that meets the commit half-way.
		if err := w.tree.findPending(f, w.gensOfFile(ino), map[uint64]bool{}); err != nil || len(f.pending) == 0 {
			t.Fatalf("%d contents wait, %v", len(f.pending), err)
		}
		if _, err := w.tree.update(schema.KindReap, func(tx *txn) error { return w.tree.free(tx, f) }); err != nil {
			t.Fatal(err)
		}
		if n := w.count(schema.PrefixPending); n != before {
			t.Errorf("goes on %v: %d contents wait, want %d", goesOn, n, before)
		}
	}
}

// gensOfFile gives the generations that the versions of a file are numbered by.
func (w *world) gensOfFile(ino uint64) map[uint64]bool {
	w.t.Helper()
	vs, err := w.tree.versions(ino)
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[uint64]bool{}
	for _, v := range vs {
		for _, gen := range gensOf(v.rec) {
			out[gen] = true
		}
	}
	return out
}

// TestReapedContentIsNotStored: a content that a durable one has taken the place
// of waits for ingest no more once its stripes are freed. Were it stored after,
// its generation would pass for stored with a hole in it where the newer
// content still reads it.
func TestReapedContentIsNotStored(t *testing.T) {
	w, _ := memWorld(t)
	chunks := newMemChunks()
	w.tree.cfg.Chunks = chunks
	ino, fh := w.create("f")
	w.mustWrite(ino, fh, 'a', 100000, 0)
	w.barrier(ino)
	w.mustWrite(ino, fh, 'b', 1000, 0) // the rest is read from the first generation
	w.barrier(ino)
	w.shut(ino, fh)
	rec, _, err := w.tree.readInode(ino, newest)
	if err != nil || rec.Settled == nil {
		t.Fatalf("%+v, %v", rec, err)
	}
	seqs, err := w.tree.numbered(schema.PrefixSnapshot)
	if err != nil {
		t.Fatal(err)
	}
	if err := expire(w.eng, seqs[0]); err != nil {
		t.Fatal(err)
	}
	if err := prune(t, w.tree); err != nil {
		t.Fatal(err)
	}
	if _, err := w.eng.Get(schema.Numbered(schema.PrefixPending, rec.Settled.Gen)); !errors.Is(err, state.ErrNotFound) {
		t.Errorf("generation %d still waits to be stored: %v", rec.Settled.Gen, err)
	}
	w.store(chunks)
	w.evictAll()
	if fs := treeFindings(w.tree); len(fs) > 0 {
		t.Errorf("%+v", fs)
	}
	w.wantSnap(seqs[1], ino, append(fill('b', 1000), fill('a', 99000)...), "")
}

// TestReapRest: an inode of which nothing could be freed rests for long; one of
// which much was dead is looked at again soon, or a job that overwrites fast
// would be ahead of the reaper for ever.
func TestReapRest(t *testing.T) {
	for _, kept := range []bool{true, false} {
		w, _ := memWorld(t)
		ino, fh := w.create("f")
		w.tree.reaper.work.Lock() // so that nobody reaps but us
		for round := range 8 {
			w.mustWrite(ino, fh, byte('a'+round), 2<<20, 0)
			if kept {
				w.barrier(ino) // a snapshot, which nobody expires
			} else if err := w.tree.Flush(ino, fh, false); err != nil {
				t.Fatal(err)
			}
		}
		f, err := w.tree.findDead(ino)
		w.tree.reaper.work.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		if want := map[bool]time.Duration{true: reapRest, false: reapRestFound}[kept]; f.looked < 2 || f.rest() != want {
			t.Errorf("kept %v: %d of %d versions are dead, it rests %d times as long, want %d", kept, len(f.stripes), f.looked, f.rest(), want)
		}
	}
}

// TestReapAll: who asks for all that is dead gets it at once, also of an inode
// that rests, down to the staging files and the chunks.
func TestReapAll(t *testing.T) {
	w, disk := memWorld(t)
	c := newMemChunks()
	ino, fh := w.create("f")
	w.mustWrite(ino, fh, 'a', 100000, 0)
	w.shut(ino, fh)
	w.store(c)
	w.tree.reaper.idle()
	w.tree.reaper.mu.Lock()
	w.tree.reaper.rest[ino] = time.Now().Add(time.Hour)
	w.tree.reaper.mu.Unlock()
	w.unlink("f")
	if more, err := w.tree.Prune(t.Context(), true); more || err != nil {
		t.Fatal(more, err)
	}
	if w.count(schema.PrefixGen) == 0 {
		t.Fatal("it did not rest")
	}
	if err := w.tree.ReapAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := w.count(schema.PrefixGen) + w.count(schema.PrefixReap) + w.count(schema.PrefixDoomed) + w.count(schema.PrefixDeadHold) + w.count(schema.PrefixChunkMap); n > 0 {
		t.Errorf("%d keys are left", n)
	}
	if n := disk.Bytes(); n > 0 {
		t.Errorf("%d bytes of staging files are left", n)
	}
}
