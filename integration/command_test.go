package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"stepfs/integration/harness"
)

// step finds the newest line of `snapshots --json` for a step or a name.
func step(t *testing.T, d *harness.Daemon, name string) map[string]any {
	t.Helper()
	lines, err := root.JSONLines("snapshots", d.Mnt, "--json")
	must(t, err)
	for i := len(lines) - 1; i >= 0; i-- {
		if lines[i]["step"] == name || lines[i]["name"] == name {
			return lines[i]
		}
	}
	t.Fatalf("no snapshot %q in %v", name, lines)
	return nil
}

// TestWaysToSeal: mkdir, the command, the xattr, and quiet each seal a step
// that is then listed everywhere.
func TestWaysToSeal(t *testing.T) {
	d := mount(t, "--seal-quiet", "300ms")
	fill(t, d.Mnt, 30, 1)
	want, err := harness.ReadTree(d.Mnt)
	must(t, err)
	snapshotNow(t, d, "by-mkdir")
	_, err = root.Must("snapshot", d.Mnt, "by-command")
	must(t, err)
	must(t, unix.Setxattr(d.Mnt, "user.stepfs.step", []byte("4242"), 0))
	mkdir(t, d.Mnt+"/checkpoint-7000")
	must(t, os.WriteFile(d.Mnt+"/checkpoint-7000/weights.raw", []byte("weights"), 0o644))
	eventually(t, "checkpoint-7000 is sealed", func() bool {
		_, err := os.Stat(d.Mnt + "/snapshots/7000/checkpoint-7000/weights.raw")
		return err == nil
	})
	for name, reason := range map[string]string{"by-mkdir": "", "by-command": "", "4242": "", "7000": "quiet"} {
		line := step(t, d, name)
		if got := fmt.Sprint(line["reason"]); reason != "" && got != reason {
			t.Errorf("%s: sealed by %s, want %s", name, got, reason)
		}
		got, err := harness.ReadTree(filepath.Join(d.Mnt, "snapshots", name), "checkpoint-7000")
		must(t, err)
		if diff := want.Diff(got); diff != "" {
			t.Errorf("snapshots/%s:\n%s", name, diff)
		}
	}
	latest, err := os.Readlink(d.Mnt + "/snapshots/latest")
	must(t, err)
	// What is sealed for its quiet alone is unverified, and there is one that counts as complete.
	if latest != "4242" {
		t.Errorf("latest is %s, want 4242", latest)
	}
	revision := fmt.Sprintf("%s/snapshots/7000@%v", d.Mnt, step(t, d, "7000")["sequence"])
	holds(t, revision+"/checkpoint-7000/weights.raw", []byte("weights"), "by its revision")
}

// TestRemoveSnapshot: rmdir removes a given name; a step is not removed by it.
func TestRemoveSnapshot(t *testing.T) {
	d := mount(t)
	fill(t, d.Mnt, 10, 1)
	snap := snapshotNow(t, d, "mine")
	must(t, os.Remove(snap))
	if _, err := os.Stat(snap); !os.IsNotExist(err) {
		t.Errorf("still there: %v", err)
	}
	must(t, unix.Setxattr(d.Mnt, "user.stepfs.step", []byte("100"), 0))
	if err := unix.Rmdir(d.Mnt + "/snapshots/100"); err != unix.EROFS {
		t.Errorf("rmdir of a step: %v, want EROFS", err)
	}
	restart(t, d)
	if _, err := os.Stat(snap); !os.IsNotExist(err) {
		t.Errorf("the removed snapshot came back: %v", err)
	}
	_, err := os.Stat(d.Mnt + "/snapshots/100/d0")
	must(t, err)
}

// TestRollback makes the live tree the step, and can be undone.
func TestRollback(t *testing.T) {
	d := mount(t)
	fill(t, d.Mnt, 30, 1)
	before, err := harness.ReadTree(d.Mnt)
	must(t, err)
	snapshotNow(t, d, "good")
	must(t, os.RemoveAll(d.Mnt+"/d0"))
	must(t, os.WriteFile(d.Mnt+"/d1/new", []byte("new"), 0o644))
	after, err := harness.ReadTree(d.Mnt)
	must(t, err)
	_, err = root.Must("rollback", d.Mnt, "good")
	must(t, err)
	got, err := harness.ReadTree(d.Mnt)
	must(t, err)
	if diff := before.Diff(got); diff != "" {
		t.Errorf("after the rollback:\n%s", diff)
	}
	if !someSnapshotIs(t, d, after) {
		t.Error("no snapshot holds what was live before the rollback")
	}
	restart(t, d)
	got, err = harness.ReadTree(d.Mnt)
	must(t, err)
	if diff := before.Diff(got); diff != "" {
		t.Errorf("after kill -9:\n%s", diff)
	}
}

// someSnapshotIs looks for a snapshot, named or not, with this tree.
func someSnapshotIs(t *testing.T, d *harness.Daemon, want harness.Tree) bool {
	t.Helper()
	for _, dir := range []string{d.Mnt + "/snapshots", d.Mnt + "/snapshots/.barriers"} {
		entries, err := os.ReadDir(dir)
		must(t, err)
		for _, e := range entries {
			if got, err := harness.ReadTree(filepath.Join(dir, e.Name())); err == nil && want.Diff(got) == "" {
				return true
			}
		}
	}
	return false
}

// TestRestore: from a running daemon's store and from one that nobody has open,
// onto what an interrupted restore left too.
func TestRestore(t *testing.T) {
	d := mount(t)
	fill(t, d.Mnt, 80, 2)
	snap := snapshotNow(t, d, "r")
	want, err := harness.ReadTree(snap)
	must(t, err)
	out := tempDir(t)
	check := func(target string) {
		t.Helper()
		got, err := harness.ReadTree(target)
		must(t, err)
		if diff := want.Diff(got); diff != "" {
			t.Errorf("%s:\n%s", target, diff)
		}
	}
	_, err = root.Must("restore", d.Store, "r", out+"/running")
	must(t, err)
	check(out + "/running")
	must(t, d.Stop())
	_, err = root.Must("restore", d.Store, "r", out+"/stopped")
	must(t, err)
	check(out + "/stopped")

	must(t, os.RemoveAll(out+"/stopped/d3"))
	must(t, os.Truncate(out+"/stopped/d0/e0/f0", 1))
	_, err = root.Must("restore", d.Store, "r", out+"/stopped")
	must(t, err)
	check(out + "/stopped")
}

// TestJSON: every command that prints gives JSON Lines with what is promised.
func TestJSON(t *testing.T) {
	d := mount(t)
	fill(t, d.Mnt, 20, 1)
	snapshotNow(t, d, "j")
	_, err := root.Must("drain", d.Mnt)
	must(t, err)
	line := step(t, d, "j")
	for _, field := range []string{"id", "step", "revision", "sequence", "time", "reason", "verdict", "logical_bytes", "new_bytes", "stored_bytes", "state", "tags"} {
		if _, ok := line[field]; !ok {
			t.Errorf("snapshots --json has no %q: %v", field, line)
		}
	}
	for _, command := range []string{"status", "stats"} {
		lines, err := root.JSONLines(command, d.Mnt, "--json")
		must(t, err)
		if len(lines) == 0 || len(lines[0]) < 3 {
			t.Errorf("%s --json says too little: %v", command, lines)
		}
		out, err := root.Must(command, d.Store)
		must(t, err)
		if strings.TrimSpace(out) == "" {
			t.Errorf("%s says nothing", command)
		}
	}
	status, err := os.ReadFile(d.Mnt + "/snapshots/.status.json")
	must(t, err)
	if !json.Valid(status) {
		t.Errorf(".status.json is not JSON: %s", status)
	}
	holdsWords(t, d.Mnt+"/snapshots/.status")
	for _, args := range [][]string{{"version"}, {"completion", "bash"}, {"--help"}, {"mount", "--help"}} {
		out, err := root.Must(args...)
		must(t, err)
		if len(out) == 0 {
			t.Errorf("stepfs %v says nothing", args)
		}
	}
}

func holdsWords(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	if len(strings.Fields(string(b))) < 3 {
		t.Errorf("%s says %q", path, b)
	}
}

// TestSnapshotsOnly mounts the snapshots alone, read-only.
func TestSnapshotsOnly(t *testing.T) {
	d := mount(t)
	fill(t, d.Mnt, 20, 1)
	want, err := harness.ReadTree(d.Mnt)
	must(t, err)
	snapshotNow(t, d, "only")
	must(t, d.Stop())
	d.Args = []string{"--snapshots-only"}
	must(t, d.Start())
	got, err := harness.ReadTree(d.Mnt + "/only")
	must(t, err)
	if diff := want.Diff(got); diff != "" {
		t.Error(diff)
	}
	if err := os.WriteFile(d.Mnt+"/new", nil, 0o644); !isReadOnly(err) {
		t.Errorf("a write: %v, want EROFS", err)
	}
}

// TestSnapdir: hidden by default, listed on request, under another name.
func TestSnapdir(t *testing.T) {
	d := mount(t, "--snapdir", "visible", "--snapdir-name", ".steps")
	fill(t, d.Mnt, 10, 1)
	mkdir(t, d.Mnt+"/.steps/one")
	entries, err := os.ReadDir(d.Mnt)
	must(t, err)
	listed := false
	for _, e := range entries {
		listed = listed || e.Name() == ".steps"
	}
	if !listed {
		t.Errorf("--snapdir=visible, and readdir gives %v", entries)
	}
	if _, err := os.Stat(d.Mnt + "/.steps/one/d0/e0/f0"); err != nil {
		t.Error(err)
	}
	mkdir(t, d.Mnt+"/snapshots") // an ordinary name now
}

// TestSQLite: a database in WAL mode needs locks and shared memory maps.
func TestSQLite(t *testing.T) {
	d := mount(t)
	db := d.Mnt + "/runs.db"
	shell(t, "sqlite3", db, "PRAGMA journal_mode=WAL; CREATE TABLE r(i INTEGER, x BLOB);")
	for range 5 {
		shell(t, "sqlite3", db, "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM c WHERE i<500) INSERT INTO r SELECT i, randomblob(900) FROM c;")
	}
	restart(t, d)
	out := shell(t, "sqlite3", db, "PRAGMA integrity_check; SELECT count(*) FROM r;")
	if out != "ok\n2500\n" {
		t.Errorf("after kill -9 the database says %q", out)
	}
}
