package integration

import (
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"stepfs/integration/harness"
)

// root is the directory of this run, with the binary in it.
var root *harness.Root

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(harness.Main(m, &root, nil))
}

// mount gives a running daemon on a new store; it is gone when the test ends.
func mount(t *testing.T, args ...string) *harness.Daemon {
	t.Helper()
	d := prepare(t, args...)
	must(t, d.Start())
	return d
}

// prepare is mount without the start.
func prepare(t *testing.T, args ...string) *harness.Daemon {
	t.Helper()
	return root.Prepare(t, args...)
}

// restart kills the daemon as kill -9 does and starts it again.
func restart(t *testing.T, d *harness.Daemon) {
	t.Helper()
	must(t, d.Kill())
	must(t, d.Start())
}

// tempDir is a directory on the disk of the stores, outside every mount.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := root.MkdirTemp("tmp")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// snapshotNow takes and seals a snapshot by mkdir and gives its path.
func snapshotNow(t *testing.T, d *harness.Daemon, name string) string {
	t.Helper()
	path := filepath.Join(d.Mnt, "snapshots", name)
	must(t, os.Mkdir(path, 0o755))
	return path
}

// shell runs a command of the system that has to end with 0.
func shell(t *testing.T, name string, args ...string) string {
	t.Helper()
	res, err := harness.Run(name, args...)
	must(t, err)
	if res.Code != 0 {
		t.Fatalf("%s %q: exit code %d\n%s", name, args, res.Code, res.Both())
	}
	return res.Stdout
}

// rounds is how often a random harness goes round.
func rounds(t *testing.T, standard int) int {
	if s := os.Getenv("STEPFS_ROUNDS"); s != "" {
		n, err := strconv.Atoi(s)
		must(t, err)
		return n
	}
	return standard
}

// seed is what the random numbers of this run grow from.
func seed(t *testing.T) int64 {
	n := time.Now().UnixNano()
	if s := os.Getenv("STEPFS_SEED"); s != "" {
		var err error
		n, err = strconv.ParseInt(s, 10, 64)
		must(t, err)
	}
	t.Logf("seed: STEPFS_SEED=%d", n)
	return n
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until ok says so; it fails after a time that no working
// machine needs.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(90 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still waiting for: %s", what)
		}
	}
}
