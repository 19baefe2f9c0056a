package fs

import (
	"testing"
	"time"
)

// TestWritersMeanwhile: while a FLUSH looks at /proc, another process writes, or
// the handle goes. What the FLUSH was says nothing of either.
func TestWritersMeanwhile(t *testing.T) {
	var w writers
	w.init()
	w.wrote(1, 100)
	last := w.last(1)
	w.wrote(1, 200)
	w.flushed(1, last, true)
	if w.last(1) != 200 || w.release(1) {
		t.Error("an older FLUSH undid a write")
	}
	w.wrote(2, 100)
	last = w.last(2)
	w.release(2)
	w.flushed(2, last, true)
	if w.last(2) != 0 || w.release(2) {
		t.Error("a handle that is gone came back")
	}
}

// TestLateAnswer: on a busy machine /proc answers late, and what it says counts
// all the same. (A guess after 5 ms put torn files into snapshots.)
func TestLateAnswer(t *testing.T) {
	if !soon(func() bool { time.Sleep(100 * time.Millisecond); return true }) {
		t.Error("the answer was not waited for")
	}
}
