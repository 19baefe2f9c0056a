package stage

import (
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// TestGraftBeside: cuts show a hidden directory while the job makes, renames,
// fills and removes a directory of that name itself. Each cut shows it, with what
// the job has there; the live tree never does. Half of the cuts come to nothing.
func TestGraftBeside(t *testing.T) {
	w, _ := memWorld(t)
	defer w.close()
	fail := func(err error) {
		if err != nil {
			t.Helper()
			t.Error(err)
		}
	}
	h, err := w.tree.Hidden()
	fail(err)
	sub, err := w.tree.Mknod(h, "sub", ModeDir|0o755, 0, Cred{})
	fail(err)
	file, err := w.tree.Mknod(h, "file", ModeReg|0o644, 0, Cred{})
	fail(err)
	scope, err := w.tree.Mknod(RootIno, "scope", ModeDir|0o755, 0, Cred{})
	fail(err)

	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		for rng := rand.New(rand.NewPCG(1, 2)); ; {
			select {
			case <-done:
				return
			default:
			}
			own, err := w.tree.Mknod(scope.Ino, "own", ModeDir|0o755, 0, Cred{})
			fail(err)
			if rng.IntN(2) == 0 {
				_, err = w.tree.Mknod(own.Ino, "sub", ModeReg|0o644, 0, Cred{})
				fail(err)
			}
			fail(w.tree.Rename(scope.Ino, "own", scope.Ino, ".x", 0))
			if rng.IntN(2) == 0 {
				fail(w.tree.Rename(scope.Ino, ".x", scope.Ino, "own", 0))
				fail(w.tree.Rename(scope.Ino, "own", scope.Ino, ".x", 0))
			}
			fail(w.tree.RemoveAll(scope.Ino, ".x"))
		}
	})
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			a, err := w.tree.Find("scope/.x")
			if err == nil && a.Ino == h {
				t.Error("the live tree shows the hidden directory")
			}
			if _, err := w.tree.Find("scope/.x/file"); err == nil {
				t.Error("the live tree shows a hidden file")
			}
			if a, err := w.tree.Find("scope/.x/sub"); err == nil && a.Ino == sub.Ino {
				t.Error("the live tree shows the hidden directory in the job's")
			}
		}
	})
	within(t, 60*time.Second, func() {
		for k := range 400 {
			c, err := w.tree.CutWith(Graft{Dir: scope.Ino, Name: ".x", Ino: h})
			if err != nil {
				t.Error(err)
				break
			}
			v := w.tree.At(c.Seq)
			for name, want := range map[string]uint64{"scope/.x/sub": sub.Ino, "scope/.x/file": file.Ino} {
				if a, err := v.Find(name); err != nil || a.Ino != want {
					t.Errorf("cut %d shows %s as %d, %v", c.Seq, name, a.Ino, err)
				}
			}
			dir, err := v.Find("scope")
			fail(err)
			if n := subdirs(t, v, dir.Ino); dir.Nlink != n+2 {
				t.Errorf("cut %d: %d links to a directory of %d directories", c.Seq, dir.Nlink, n)
			}
			w.tree.CutDone(c)
			if k%8 == 0 {
				fail(prune(t, w.tree))
			}
		}
		close(done)
		wg.Wait()
	})
	now, err := w.tree.GetAttr(scope.Ino)
	if err != nil || now.Nlink != 2 {
		t.Errorf("the directory has %d links, %v", now.Nlink, err)
	}
	fail(prune(t, w.tree))
	if fs := treeFindings(w.tree); len(fs) > 0 {
		t.Errorf("%d findings: %+v", len(fs), fs[:min(len(fs), 4)])
	}
}

func subdirs(t *testing.T, v *View, dir uint64) (n uint32) {
	es, err := v.ReadDir(dir, "", 100)
	if err != nil {
		t.Error(err)
	}
	for _, e := range es {
		if e.Type == ModeDir {
			n++
		}
	}
	return n
}

// TestGraftNoPlace: a file of that name is not hidden by it, and a directory
// that is gone is said to be.
func TestGraftNoPlace(t *testing.T) {
	w, _ := memWorld(t)
	defer w.close()
	h, err := w.tree.Hidden()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.tree.Mknod(RootIno, ".x", ModeReg|0o644, 0, Cred{}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.tree.CutWith(Graft{Dir: RootIno, Name: ".x", Ino: h}); !errors.Is(err, ErrExist) {
		t.Error(err)
	}
	if _, err := w.tree.CutWith(Graft{Dir: 4242, Name: ".x", Ino: h}); !errors.Is(err, ErrNotExist) {
		t.Error(err)
	}
	if n := len(w.tree.cuts.under()); n != 0 {
		t.Errorf("%d cuts are under way", n)
	}
}
