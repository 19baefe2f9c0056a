package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"stepfs/integration/harness"
)

// TestRemoveTreeWhileReading lets a job remove and rewrite everything it has,
// several times over, while readers hold its snapshots against what they were.
func TestRemoveTreeWhileReading(t *testing.T) {
	d := mount(t)
	var overlapped atomic.Int64 // whole readings begun and ended while everything is removed and rewritten
	var removing atomic.Bool
	stop := make(chan struct{})
	errs := make(chan error, 16)
	var readers sync.WaitGroup

	read := func(path string, want harness.Tree) {
		defer readers.Done()
		for {
			select {
			case <-stop:
				return
			default:
			}
			began := removing.Load()
			got, err := harness.ReadTree(path)
			if err == nil && want.Diff(got) != "" {
				err = fmt.Errorf("%s changed:\n%s", path, want.Diff(got))
			}
			if err != nil {
				errs <- err
				return
			}
			if began && removing.Load() {
				overlapped.Add(1)
			}
		}
	}

	const rounds = 4
	for round := range rounds {
		fill(t, d.Mnt, 300, int64(round))
		want, err := harness.ReadTree(d.Mnt)
		must(t, err)
		path := snapshotNow(t, d, fmt.Sprintf("round-%d", round))
		readers.Add(1)
		go read(path, want)
		removing.Store(true)
		for overlapped.Load() <= int64(round) && len(errs) == 0 { // until a reader kept up
			removeAll(t, d.Mnt)
			fill(t, d.Mnt, 300, int64(1000+round))
		}
		removeAll(t, d.Mnt)
		removing.Store(false)
	}
	close(stop)
	readers.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	t.Logf("%d whole readings of snapshots while the live tree was being removed", overlapped.Load())
	if overlapped.Load() == 0 {
		t.Error("no reading overlapped a removal: this proved nothing")
	}
}

// removeAll is the job's `rm -rf` of everything that it sees.
func removeAll(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		if e.Name() == "snapshots" {
			t.Fatal("readdir of the root lists snapshots: a job would remove it")
		}
		shell(t, "rm", "-rf", filepath.Join(dir, e.Name()))
	}
}

// TestSnapshotsCannotBeHurt tries every way to change a snapshot.
func TestSnapshotsCannotBeHurt(t *testing.T) {
	d := mount(t)
	fill(t, d.Mnt, 20, 1)
	snap := snapshotNow(t, d, "kept")
	want, err := harness.ReadTree(snap)
	must(t, err)
	if len(want) < 20 {
		t.Fatalf("the snapshot holds %d names", len(want))
	}
	for what, attempt := range hurts(snap, d.Mnt) {
		if err := attempt(); !isReadOnly(err) {
			t.Errorf("%s: got %v, want EROFS", what, err)
		}
	}
	res, err := harness.Run("rm", "-rf", snap+"/d0")
	must(t, err)
	if res.Code == 0 {
		t.Error("rm -rf in a snapshot ended with 0")
	}
	got, err := harness.ReadTree(snap)
	must(t, err)
	if diff := want.Diff(got); diff != "" {
		t.Error(diff)
	}
}
