package stage

import (
	"testing"
	"time"
)

// A tree is busy while much is written, and while a barrier is under way, and a
// moment longer.
func TestBusy(t *testing.T) {
	w, _ := memWorld(t)
	s := &w.tree.settler
	later := func() {
		s.written.Store(time.Now().Add(-time.Second).UnixNano())
		s.lastEnd.Store(time.Now().Add(-time.Second).UnixNano())
	}
	is := func(want bool, when string) {
		t.Helper()
		if w.tree.Busy() != want {
			t.Errorf("%s: busy is %v", when, !want)
		}
	}
	is(false, "at first")
	ino, fh := w.create("f")
	w.mustWrite(ino, fh, 'a', largeWrite-1, 0)
	is(false, "a small write")
	w.mustWrite(ino, fh, 'b', largeWrite, 0)
	is(true, "a large write")
	later()
	is(false, "a second later")
	cut, err := w.tree.Cut([]uint64{ino}, false, true)
	if err != nil {
		t.Fatal(err)
	}
	is(true, "a barrier")
	w.tree.CutDone(cut)
	later()
	is(false, "a second after it")
}
