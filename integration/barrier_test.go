package integration

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"stepfs/integration/harness"
)

// at gives the path of a barrier's tree.
func at(d *harness.Daemon, seq string) string {
	return filepath.Join(d.Mnt, "snapshots", ".barriers", seq)
}

// syncOwn writes a file of its own, syncs it, and gives the newest barrier.
func syncOwn(t *testing.T, d *harness.Daemon, name string) string {
	t.Helper()
	f, err := os.Create(filepath.Join(d.Mnt, name))
	must(t, err)
	defer f.Close()
	_, err = f.WriteString(name)
	must(t, err)
	must(t, f.Sync())
	seq, err := newestBarrier(d.Mnt)
	must(t, err)
	return seq
}

// TestBarrierHoldsWhatIsClosed: what others have closed but not synced is in
// the barrier, and settles; what is being written shows its previous content.
func TestBarrierHoldsWhatIsClosed(t *testing.T) {
	d := mount(t)
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<20) // 16 MiB
	path := func(name string) string { return filepath.Join(d.Mnt, name) }
	must(t, os.WriteFile(path("closed"), big, 0o644))
	must(t, os.WriteFile(path("rewritten"), []byte("before"), 0o644))
	half, err := os.Create(path("rewritten"))
	must(t, err)
	defer half.Close()
	_, err = half.Write(big[:1<<20])
	must(t, err)
	fresh, err := os.Create(path("fresh"))
	must(t, err)
	defer fresh.Close()
	_, err = fresh.Write([]byte("begun"))
	must(t, err)

	seq := syncOwn(t, d, "own")
	check := func(when string) {
		t.Helper()
		holds(t, at(d, seq)+"/own", []byte("own"), when)
		holds(t, at(d, seq)+"/closed", big, when)
		holds(t, at(d, seq)+"/rewritten", []byte("before"), when)
		if _, err := os.Stat(at(d, seq) + "/fresh"); !os.IsNotExist(err) {
			t.Errorf("%s: a file that was never closed is in the barrier: %v", when, err)
		}
	}
	check("at once")
	_, err = half.Write(big[:1<<20])
	must(t, err)
	must(t, os.Truncate(path("closed"), 5))
	must(t, os.Remove(path("own")))
	check("after the live tree went on")
	restart(t, d)
	check("after kill -9")
	holds(t, path("rewritten"), big[:2<<20], "live, after kill -9")
	holds(t, path("fresh"), []byte("begun"), "live, after kill -9")
}

func holds(t *testing.T, path string, want []byte, when string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Errorf("%s: %v", when, err)
	} else if !bytes.Equal(got, want) {
		t.Errorf("%s: %s: %s", when, path, firstDifference(got, want))
	}
}

// TestEveryKindOfBarrier: each way to sync makes a barrier that shows the file.
func TestEveryKindOfBarrier(t *testing.T) {
	d := mount(t)
	for name, sync := range barrierKinds() {
		t.Run(name, func(t *testing.T) {
			before := -1
			if names, err := barriers(d.Mnt); err == nil {
				before = len(names)
			}
			must(t, sync(filepath.Join(d.Mnt, name)))
			names, err := barriers(d.Mnt)
			must(t, err)
			if len(names) <= before {
				t.Fatalf("no new barrier: %d before, %d after", before, len(names))
			}
			seq, err := newestBarrier(d.Mnt)
			must(t, err)
			holds(t, filepath.Join(at(d, seq), name), []byte(name), "in the barrier")
		})
	}
}

// TestGroupCommit: barriers that arrive together share commits, and each holds
// what its own caller synced.
func TestGroupCommit(t *testing.T) {
	d := mount(t)
	const writers, each = 24, 20
	before, err := barriers(d.Mnt)
	must(t, err)
	var wg sync.WaitGroup
	errs := make(chan error, writers)
	for w := range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			errs <- syncOften(filepath.Join(d.Mnt, fmt.Sprintf("w%d", w)), each)
		}()
	}
	wg.Wait()
	for range writers {
		must(t, <-errs)
	}
	after, err := barriers(d.Mnt)
	must(t, err)
	made := len(after) - len(before)
	t.Logf("%d fsyncs by %d writers: %d barriers", writers*each, writers, made)
	if made < each || made >= writers*each {
		t.Errorf("%d barriers for %d fsyncs: not shared, or lost", made, writers*each)
	}
	seq, err := newestBarrier(d.Mnt)
	must(t, err)
	for w := range writers {
		holds(t, fmt.Sprintf("%s/w%d", at(d, seq), w), bytes.Repeat([]byte("line\n"), each), "the last barrier")
	}
	restart(t, d)
	for w := range writers {
		holds(t, fmt.Sprintf("%s/w%d", at(d, seq), w), bytes.Repeat([]byte("line\n"), each), "after kill -9")
	}
}

// syncOften appends a line and syncs, n times.
func syncOften(path string, n int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for range n {
		if _, err := f.WriteString("line\n"); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return f.Close()
}
