package suites

import (
	"os"
	"testing"

	"stepfs/integration/harness"
)

// someSuites is a short selection, for daemons that have less to run on.
func someSuites(t *testing.T, d *harness.Daemon) {
	t.Helper()
	fio(t, mkdir(t, d.Mnt+"/fio"), false)
	sqlite(t, d, 60)
	source := native(t)
	makeTree(t, source)
	byRsync.copy(t, source, mkdir(t, d.Mnt+"/tree"))
	equal(t, source, d.Mnt+"/tree", copied)
	again(t, d, "tree", byRsync)
	_, err := root.Must("drain", d.Mnt)
	must(t, err)
	fio(t, d.Mnt+"/fio", true)
}

// TestOneThread: the daemon runs one goroutine at a time.
func TestOneThread(t *testing.T) {
	d := prepare(t)
	d.Env = []string{"GOMAXPROCS=1"}
	must(t, d.Start())
	someSuites(t, d)
}

// memoryLimit is what a daemon has for itself and the page cache of its store:
// less than what the selection writes.
const memoryLimit = 256 << 20

// TestMemoryPressure: the daemon lives in a small memory cgroup, whose limit
// what is written exceeds several times.
func TestMemoryPressure(t *testing.T) {
	limit := int64(memoryLimit)
	if os.Getenv("STEPFS_RACE") == "1" {
		limit *= 8 // what the race detector takes for itself
	}
	c, err := harness.NewCgroup("stepfs-suites", limit)
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) }) // after the daemon's end
	d := prepare(t)
	d.Cgroup = c
	must(t, d.Start())
	someSuites(t, d)
	must(t, d.Stop())
}
