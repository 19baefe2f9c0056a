package stage

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// A file without a name goes with its last handle, or with the daemon, unless
// it was given a name.
func TestTmpfile(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	make := func() (ino, fh uint64) {
		t.Helper()
		a, fh, err := w.tree.Tmpfile(RootIno, 0o644, unix.O_RDWR, Cred{})
		if err != nil || a.Nlink != 0 {
			t.Fatalf("%+v, %v", a, err)
		}
		w.mustWrite(a.Ino, fh, 'x', 100, 0)
		return a.Ino, fh
	}
	gone := func(ino uint64) {
		t.Helper()
		if _, err := w.tree.GetAttr(ino); !errors.Is(err, ErrNotExist) {
			t.Fatalf("it is there: %v", err)
		}
	}
	released, fh := make()
	w.tree.Release(released, fh)
	gone(released)

	kept, fh := make()
	if a, err := w.tree.Link(kept, RootIno, "f"); err != nil || a.Nlink != 1 {
		t.Fatalf("%+v, %v", a, err)
	}
	w.shut(kept, fh)
	killed, _ := make()
	w.kill()
	gone(killed)
	if a, err := w.tree.Find("f"); err != nil || a.Ino != kept || a.Size != 100 {
		t.Fatalf("%+v, %v", a, err)
	}
}

// The kernel keeps a directory from being moved below itself. So do we.
func TestRenameBelowItself(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	var dirs []uint64
	parent := uint64(RootIno)
	for range 3 {
		a, err := w.tree.Mknod(parent, "d", ModeDir|0o755, 0, Cred{})
		if err != nil {
			t.Fatal(err)
		}
		parent = a.Ino
		dirs = append(dirs, a.Ino)
	}
	if err := w.tree.Rename(RootIno, "d", dirs[2], "x", 0); !errors.Is(err, ErrInvalid) {
		t.Fatalf("below itself: %v", err)
	}
	if err := w.tree.Rename(dirs[1], "d", RootIno, "d", unix.RENAME_EXCHANGE); !errors.Is(err, ErrInvalid) {
		t.Fatalf("exchanged with what it lies in: %v", err)
	}
	if err := w.tree.Rename(dirs[1], "d", RootIno, "d", 0); !errors.Is(err, ErrNotEmpty) {
		t.Fatalf("over what it lies in: %v", err)
	}
}
