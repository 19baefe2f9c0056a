package stage

import (
	"bytes"
	"errors"
	"testing"
)

// wear makes a staging file's byte at an offset another one.
func (w *world) wear(d Disk, gen uint64, off int64) {
	w.t.Helper()
	f, err := d.Open(gen)
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, off); err != nil {
		w.t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, off); err != nil {
		w.t.Fatal(err)
	}
}

// hotFile makes a file that is stored, still has its own copy, and was appended to
// since: its last bytes are only there.
func hotFile(t *testing.T) (w *world, d *memDisk, c *memChunks, ino, fh, gen uint64) {
	w, d = memWorld(t)
	c = newMemChunks()
	w.tree.cfg.Chunks = c
	ino, fh = w.create("log")
	w.mustWrite(ino, fh, 'a', 400_000, 0)
	w.shut(ino, fh)
	w.store(c)
	fh, err := w.tree.Open(ino, 2, Cred{})
	if err != nil {
		t.Fatal(err)
	}
	w.mustWrite(ino, fh, 'b', 100_000, 400_000)
	rec, _, err := w.tree.readInode(ino, newest)
	if err != nil {
		t.Fatal(err)
	}
	if hot, err := w.tree.IsHot(rec.Live.Gen); !hot || err != nil {
		t.Fatal(hot, err)
	}
	return w, d, c, ino, fh, rec.Live.Gen
}

// TestWrongCopy: what is stored of a generation whose own copy is known to be wrong,
// or can't be read, comes from chunks; what is not stored is read where it is. With
// neither, a read fails.
func TestWrongCopy(t *testing.T) {
	want := append(bytes.Repeat([]byte("a"), 400_000), bytes.Repeat([]byte("b"), 100_000)...)
	t.Run("wrong", func(t *testing.T) {
		w, d, c, ino, fh, gen := hotFile(t)
		w.wear(d, gen, 1000)
		w.tree.Distrust(gen)
		w.wantLive(ino, want)
		for id := range c.all {
			delete(c.all, id)
		}
		if n, err := w.tree.Read(ino, 0, make([]byte, 10), 995); !errors.Is(err, ErrIO) {
			t.Errorf("without chunks it reads %d bytes, %v", n, err)
		}
		w.shut(ino, fh)
	})
	t.Run("unreadable", func(t *testing.T) {
		w, d, _, ino, fh, _ := hotFile(t)
		d.before(func(op string, _ uint64) error {
			if op == "read" {
				return errors.New("medium error")
			}
			return nil
		})
		got := make([]byte, 400_000)
		if n, err := w.tree.Read(ino, 0, got, 0); err != nil || !bytes.Equal(got[:n], want[:400_000]) {
			t.Errorf("%d bytes, %v", n, err)
		}
		if _, err := w.tree.Read(ino, 0, got, 400_000); err == nil {
			t.Error("what is not stored is read")
		}
		d.well()
		w.wantLive(ino, want)
		w.shut(ino, fh)
	})
}

// TestWrongCopyIsNotStored: a copy that went bad after it was stored is not stored
// once more as if that had been written, neither with what was appended nor with
// what was written over other places of it.
func TestWrongCopyIsNotStored(t *testing.T) {
	for _, over := range []bool{false, true} {
		w, d, c, ino, fh, gen := hotFile(t)
		want := append(bytes.Repeat([]byte("a"), 400_000), bytes.Repeat([]byte("b"), 100_000)...)
		seq, _ := w.barrier(ino)
		if over {
			w.mustWrite(ino, fh, 'c', 10, 450_000)
			copy(want[450_000:], "cccccccccc")
		}
		w.wear(d, gen, 1000)
		w.shut(ino, fh)
		if err := c.storeAll(w.tree); !errors.Is(err, ErrIO) {
			t.Fatalf("overwritten %v: stored, %v", over, err)
		}
		if err := c.storeAll(w.tree); err != nil {
			t.Fatal(err)
		}
		w.wantLive(ino, want)
		w.evictAll()
		w.wantLive(ino, want)
		w.wantSnap(seq, ino, append(want[:400_000:400_000], bytes.Repeat([]byte("b"), 100_000)...), "")
	}
}

// TestLastCopyStays: a hot copy of which a chunk is known to be damaged is not given up.
func TestLastCopyStays(t *testing.T) {
	w, _, c, ino, fh, gen := hotFile(t)
	w.shut(ino, fh)
	w.store(c)
	lost := map[[32]byte][]byte{}
	for id, b := range c.all {
		lost[id] = b
	}
	clear(c.all)
	w.evictAll()
	if hot, err := w.tree.IsHot(gen); !hot || err != nil {
		t.Error("the last copy is gone", err)
	}
	c.all = lost
	w.evictAll()
	if hot, err := w.tree.IsHot(gen); hot || err != nil {
		t.Error("it stays for ever", err)
	}
}
