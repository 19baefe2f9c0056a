package stage

import (
	"testing"

	"golang.org/x/sys/unix"

	"stepfs/internal/schema"
)

// A log that is overwritten between the moment at which a cut finds it and the one
// at which it is cut is none: it would be torn.
func TestLogOverwrittenBeforeCut(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	a, fh, err := w.tree.Create(RootIno, "log", 0o644, unix.O_WRONLY|unix.O_APPEND, Cred{})
	check(err)
	_, err = w.tree.Write(a.Ino, fh, make([]byte, 100), 0)
	check(err)
	logs := w.tree.openLogs()
	if len(logs) != 1 {
		t.Fatalf("logs: %v", logs)
	}
	size := int64(5000)
	_, err = w.tree.SetAttr(a.Ino, SetAttr{Size: &size})
	check(err)
	n, err := w.tree.get(a.Ino)
	check(err)
	defer w.tree.put(n)
	cut := &Cut{}
	unlock := lockAll(n)
	_, err = w.tree.update(schema.KindCut, func(tx *txn) error {
		return w.tree.cutIn(tx, cut, []*inode{n}, map[uint64]bool{a.Ino: true}, true, nil)
	})
	unlock()
	check(err)
	w.tree.CutDone(cut)
	if n.rec.Committed != nil || len(cut.Marked) > 0 {
		t.Errorf("what is being overwritten was committed: %+v, marked %v", n.rec.Committed, cut.Marked)
	}
}

// A handle that was flushed is closed, though its RELEASE has not come yet: it
// must not keep a later close, or a truncate by path, from being committed.
func TestCloseBeforeRelease(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	shows := func(ino uint64, want int64) {
		t.Helper()
		a, err := w.tree.At(w.snap()).GetAttr(ino)
		check(err)
		if a.Size != want {
			t.Fatalf("the snapshot shows %d bytes, want %d", a.Size, want)
		}
	}
	a, first, err := w.tree.Create(RootIno, "f", 0o644, unix.O_WRONLY, Cred{})
	check(err)
	_, err = w.tree.Write(a.Ino, first, make([]byte, 100), 0)
	check(err)
	check(w.tree.Flush(a.Ino, first, false)) // its RELEASE is on the way
	second, err := w.tree.Open(a.Ino, unix.O_WRONLY, Cred{})
	check(err)
	_, err = w.tree.Write(a.Ino, second, make([]byte, 100), 100)
	check(err)
	shows(a.Ino, 100)
	check(w.tree.Flush(a.Ino, second, false))
	shows(a.Ino, 200)

	size := int64(300)
	_, err = w.tree.SetAttr(a.Ino, SetAttr{Size: &size})
	check(err)
	shows(a.Ino, 300)

	third, err := w.tree.Open(a.Ino, unix.O_RDWR, Cred{})
	check(err)
	size = 400
	_, err = w.tree.SetAttr(a.Ino, SetAttr{Size: &size, Handle: third})
	check(err)
	shows(a.Ino, 300) // it is being written
	w.tree.Release(a.Ino, first)
	w.tree.Release(a.Ino, second)
	shows(a.Ino, 300)
	check(w.tree.Flush(a.Ino, third, false))
	shows(a.Ino, 400)
	w.tree.Release(a.Ino, third)
}
