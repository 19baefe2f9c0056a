package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"stepfs/integration/harness"
)

// TestTools runs the tools that people restore and compare with between the
// live tree and snapshots. They decide by device and inode number whether two
// paths are one file, and by size and time whether to look inside.
func TestTools(t *testing.T) {
	d := mount(t)
	fill(t, d.Mnt, 60, 3)
	first := snapshotNow(t, d, "first")
	rewriteKeepingTimes(t, d.Mnt+"/d0/e0/f0")
	second := snapshotNow(t, d, "second")

	t.Run("cp", func(t *testing.T) {
		out := tempDir(t)
		shell(t, "cp", "-a", first+"/.", out)
		shell(t, "diff", "-r", "--no-dereference", first, out)
		same(t, first, out)
		// cp refuses when it takes source and target for one file.
		shell(t, "cp", first+"/d0/e0/f0", d.Mnt+"/d0/e0/f0")
		shell(t, "cmp", first+"/d0/e0/f0", d.Mnt+"/d0/e0/f0")
		shell(t, "cp", second+"/d0/e0/f0", d.Mnt+"/d0/e0/f0")
		info, err := os.Stat(out + "/sparse")
		must(t, err)
		if info.Size() != sparseSize {
			t.Errorf("the sparse file has %d bytes", info.Size())
		}
	})
	t.Run("diff", func(t *testing.T) {
		shell(t, "diff", "-r", "--no-dereference", d.Mnt, second)
		for _, pair := range [][2]string{{first, second}, {d.Mnt, first}} {
			res, err := harness.Run("diff", "-rq", "--no-dereference", pair[0], pair[1])
			must(t, err)
			if res.Code != 1 || !strings.Contains(res.Stdout, "d0/e0/f0") {
				t.Errorf("diff of %q did not see the change: exit code %d\n%s", pair, res.Code, res.Both())
			}
		}
	})
	t.Run("rsync", func(t *testing.T) {
		out := tempDir(t)
		shell(t, "rsync", "-aH", first+"/", out+"/")
		same(t, first, out)
		if changes := shell(t, "rsync", "-aHcni", first+"/", out+"/"); changes != "" {
			t.Errorf("rsync -c sees changes after a copy:\n%s", changes)
		}
		if changes := shell(t, "rsync", "-acni", second+"/", first+"/"); !strings.Contains(changes, "d0/e0/f0") {
			t.Errorf("rsync -c did not see the change:\n%s", changes)
		}
	})
	t.Run("find -samefile", func(t *testing.T) { sameFile(t, d.Mnt, first, second) })
	t.Run("du and stat", func(t *testing.T) {
		live := strings.Fields(shell(t, "du", "-sb", d.Mnt))[0]
		then := strings.Fields(shell(t, "du", "-sb", second))[0]
		if live != then {
			t.Errorf("du -b: live %s, snapshot %s", live, then)
		}
	})
}

// rewriteKeepingTimes changes a file but neither its size nor its times.
func rewriteKeepingTimes(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	data, err := os.ReadFile(path)
	must(t, err)
	data[len(data)/2] ^= 1
	must(t, os.WriteFile(path, data, 0o644))
	must(t, os.Chtimes(path, info.ModTime(), info.ModTime()))
}

// same compares two trees by content.
func same(t *testing.T, a, b string) {
	t.Helper()
	want, err := harness.ReadTree(a)
	must(t, err)
	got, err := harness.ReadTree(b)
	must(t, err)
	if diff := want.Diff(got); diff != "" || len(want) == 0 {
		t.Errorf("%s and %s differ (%d names):\n%s", a, b, len(want), diff)
	}
}

// sameFile looks that a live file and its snapshots are different files for
// the tools, while hard links within one tree still are one.
func sameFile(t *testing.T, mnt, first, second string) {
	t.Helper()
	find := func(where, file string) []string {
		return strings.Fields(shell(t, "find", where, "-samefile", file))
	}
	live, hard := filepath.Join(mnt, "d0/e0/f0"), filepath.Join(mnt, "d1/hardlink")
	if got := find(mnt, live); len(got) != 2 {
		t.Errorf("hard links of a live file: %q, want %q and %q", got, live, hard)
	}
	if got := find(first, filepath.Join(first, "d0/e0/f0")); len(got) != 2 {
		t.Errorf("hard links in a snapshot: %q", got)
	}
	for _, pair := range [][2]string{{first, live}, {mnt, first + "/d0/e0/f0"}, {second, first + "/d0/e0/f0"}} {
		if got := find(pair[0], pair[1]); len(got) != 0 {
			t.Errorf("find %s -samefile %s: %q", pair[0], pair[1], got)
		}
	}
	a, err := os.Stat(live)
	must(t, err)
	b, err := os.Stat(first + "/d0/e0/f0")
	must(t, err)
	if os.SameFile(a, b) {
		t.Error("a live file and its snapshot are one file for os.SameFile")
	}
}
