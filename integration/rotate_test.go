package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"stepfs/integration/harness"
)

// TestRotatingJob: a job that keeps two checkpoints runs on a store that holds
// ten, and keeps no policy. It never meets ENOSPC, and after each save the
// newest three steps are whole. STEPFS_SAVES, STEPFS_SAVE_MB and
// STEPFS_SAVE_ROOM make it longer, larger, and the store smaller.
func TestRotatingJob(t *testing.T) {
	saves, mb := number(t, "STEPFS_SAVES", 24), number(t, "STEPFS_SAVE_MB", 100)
	limit := number(t, "STEPFS_SAVE_ROOM", 10) * mb
	d := prepare(t, "--seal-quiet", "200ms", "--store-limit", strconv.Itoa(limit)+"M")
	must(t, d.Start())
	res, err := harness.Run(python, "testdata/rotate.py", d.Mnt, strconv.Itoa(saves), "2", strconv.Itoa(mb), filepath.Join(d.Mnt, "snapshots"))
	must(t, err)
	if res.Code != 0 {
		status, _ := root.Must("status", d.Mnt)
		t.Fatalf("exit code %d\n%s\n%s", res.Code, res.Both(), status)
	}
	t.Logf("%d saves of %d MB: %s", saves, mb, strings.TrimSpace(res.Stdout))
	used := diskUse(t, d.Store)
	t.Logf("the store takes %d MB of %d", used>>20, limit)
	if used > int64(limit)<<20 {
		t.Errorf("the store takes %d bytes, more than its limit", used)
	}
	must(t, d.Stop())
}

// number is a parameter from the environment.
func number(t *testing.T, name string, standard int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return standard
	}
	n, err := strconv.Atoi(s)
	must(t, err)
	return n
}

// diskUse is what du says of a directory, in bytes.
func diskUse(t *testing.T, dir string) int64 {
	t.Helper()
	out := shell(t, "du", "-s", "--block-size=1", dir)
	n, err := strconv.ParseInt(strings.Fields(out)[0], 10, 64)
	must(t, err)
	return n
}
