package fs

import (
	"os"
	"testing"
	"time"
)

// Open files and directories of a snapshot pin it until they are closed, a
// look-up in it is a use; listing snapshots is neither.
func TestReadersPinTheirSnapshot(t *testing.T) {
	m := newMount(t)
	m.small("one")
	seq := m.seal("", "1000")
	wait := func(what string, want int) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			_, pinned := m.cuts.readers(seq)
			if pinned == want {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%s: pinned %d times, want %d", what, pinned, want)
			}
		}
	}
	m.run("ls -l snapshots; stat snapshots/1000 snapshots/latest/.")
	if used, pinned := m.cuts.readers(seq); used != 0 || pinned != 0 {
		t.Errorf("after a listing: used %d times, pinned %d times", used, pinned)
	}
	m.run("stat snapshots/1000/run/tracker")
	if used, pinned := m.cuts.readers(seq); used == 0 || pinned != 0 {
		t.Errorf("after a look-up: used %d times, pinned %d times", used, pinned)
	}
	var open []*os.File
	for n, path := range []string{"snapshots/1000/run/tracker", "snapshots/1000/run", "snapshots/latest/run/tracker"} {
		f, err := os.Open(m.path(path))
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, f)
		wait(path, n+1)
	}
	for n, f := range open {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		wait("closed", len(open)-n-1)
	}
}
