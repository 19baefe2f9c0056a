package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"stepfs/integration/harness"
)

// includedAt is where a step has a file from outside.
func includedAt(d *harness.Daemon, step, path string) string {
	return filepath.Join(d.Mnt, "snapshots", step, ".stepfs/included", path)
}

// includedRow is what a step's manifest says of a file.
func includedRow(t *testing.T, d *harness.Daemon, step, path string) (r struct{ Source, How, Note, Error string }) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(d.Mnt, "snapshots", step, ".stepfs/included.json"))
	must(t, err)
	var m struct {
		Version int
		Files   []struct{ Source, How, Note, Error string }
	}
	must(t, json.Unmarshal(b, &m))
	if m.Version != 1 {
		t.Errorf("version %d", m.Version)
	}
	for _, f := range m.Files {
		if f.Source == path {
			return f
		}
	}
	t.Fatalf("the manifest of %s says nothing of %s:\n%s", step, path, b)
	return r
}

// wantIncluded compares a file of a step.
func wantIncluded(t *testing.T, d *harness.Daemon, step, path, want string) {
	t.Helper()
	if b, err := os.ReadFile(includedAt(d, step, path)); err != nil || string(b) != want {
		t.Errorf("%s in %s: %q, %v, want %q", path, step, b, err, want)
	}
}

// nothingIncluded checks that the job sees none of it.
func nothingIncluded(t *testing.T, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		es, err := os.ReadDir(dir)
		must(t, err)
		for _, e := range es {
			if e.Name() == ".stepfs" {
				t.Errorf("%s lists .stepfs", dir)
			}
		}
		if _, err := os.Lstat(dir + "/.stepfs"); !os.IsNotExist(err) {
			t.Errorf("%s has .stepfs: %v", dir, err)
		}
	}
}

// writeDatabase starts a process that commits to a database without end, in two
// tables that agree after each commit, and returns once it has begun.
func writeDatabase(t *testing.T, db, mode string) (stop func()) {
	t.Helper()
	const script = `
import sqlite3, sys, time
c = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
c.execute("pragma journal_mode=" + sys.argv[2])
c.execute("create table a (n int, pad text)")
c.execute("create table b (n int, pad text)")
n = 0
while True:
    c.execute("begin immediate")
    c.execute("insert into a values (?, ?)", (n, "x" * 2000))
    c.execute("insert into b values (?, ?)", (n, "y" * 2000))
    if n % 50 == 49:
        c.execute("delete from a where n < ?", (n - 200,))
        c.execute("delete from b where n < ?", (n - 200,))
    c.execute("commit")
    n += 1
    time.sleep(0.001)
    if n == 100:
        print("ready", flush=True)
`
	c := exec.Command("/usr/bin/python3", "-c", script, db, mode)
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())
	stop = func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	}
	t.Cleanup(stop)
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal("the writer of the database:", err)
	}
	return stop
}

// soundDatabase checks a copy that was read out of a step.
func soundDatabase(t *testing.T, path string) {
	t.Helper()
	to := tempDir(t) + "/db"
	b, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(to, b, 0o600))
	out, err := exec.Command("sqlite3", to, "pragma integrity_check; select count(*) > 0 from a; select count(*) from (select n from a except select n from b union all select n from b except select n from a);").CombinedOutput()
	if err != nil || string(out) != "ok\n1\n0\n" {
		t.Errorf("the copy of the database: %v\n%s", err, out)
	}
}

// TestInclude is files from outside on a real mount: what steps have of them,
// through restarts by kill -9, a rollback, restores and a check.
func TestInclude(t *testing.T) {
	out := tempDir(t)
	conf, gone := out+"/conf.yaml", out+"/gone"
	write := func(path, data string) {
		must(t, os.WriteFile(path, []byte(data), 0o640))
	}
	must(t, os.MkdirAll(out+"/data/deep", 0o755))
	write(conf, "lr: 1")
	write(gone, "here")
	write(out+"/data/deep/manifest", "m1")
	wal, rollback := out+"/data/wal.db", out+"/data/plain.db"
	stops := []func(){writeDatabase(t, wal, "wal"), writeDatabase(t, rollback, "delete")}

	d := mount(t, "--seal-quiet", "100ms", "--include", conf, "--include", gone, "--include", out+"/data", "--save-settings")
	save := func(scope, step string, seed int64) string {
		must(t, os.MkdirAll(filepath.Join(d.Mnt, scope, "checkpoint-"+step), 0o755))
		fill(t, filepath.Join(d.Mnt, scope, "checkpoint-"+step), 4, seed)
		name := filepath.Join(scope, step)
		eventually(t, name+" is sealed", func() bool {
			_, err := os.Stat(filepath.Join(d.Mnt, "snapshots", name))
			return err == nil
		})
		return name
	}
	must(t, os.Remove(gone))
	a1 := save("runA", "100", 1)
	b1 := save("runB", "100", 2)
	snapshotNow(t, d, "named")
	for _, step := range []string{a1, b1, "named"} {
		wantIncluded(t, d, step, conf, "lr: 1")
		wantIncluded(t, d, step, out+"/data/deep/manifest", "m1")
		for _, db := range []string{wal, rollback} {
			if r := includedRow(t, d, step, db); r.How != "sqlite-backup" {
				t.Errorf("%s: %+v", step, r)
				continue
			}
			soundDatabase(t, includedAt(d, step, db))
		}
		if r := includedRow(t, d, step, gone); !strings.Contains(r.Error, "no such file") {
			t.Errorf("%s: %+v", step, r)
		}
		if _, err := os.Lstat(includedAt(d, step, wal+"-wal")); err == nil {
			t.Error(step, "has the log of the database, which spoils the backup")
		}
	}
	nothingIncluded(t, d.Mnt, d.Mnt+"/runA", d.Mnt+"/runB")
	if !strings.Contains(d.Output(), gone) {
		t.Error("nobody was told of the file that is missing")
	}
	for _, stop := range stops {
		stop()
	}

	// A kill right after a seal: the step is whole, and the settings go on.
	write(conf, "lr: 2, changed")
	a2 := save("runA", "200", 3)
	must(t, d.Kill())
	d.Args = []string{"--seal-quiet", "100ms"}
	if err := d.Start(); err == nil || !strings.Contains(err.Error(), gone) {
		t.Fatalf("mounted though %s is missing: %v", gone, err)
	}
	write(gone, "back")
	must(t, d.Start())
	nothingIncluded(t, d.Mnt, d.Mnt+"/runA", d.Mnt+"/runB")
	wantIncluded(t, d, a1, conf, "lr: 1")
	wantIncluded(t, d, a2, conf, "lr: 2, changed")
	a3 := save("runA", "300", 4)
	wantIncluded(t, d, a3, gone, "back")
	wantIncluded(t, d, a3, conf, "lr: 2, changed")

	// What did not change is in the next step without being written again.
	a4 := save("runA", "400", 5)
	res, err := root.Must("diff", "--json", d.Mnt, a3, a4)
	must(t, err)
	if strings.Contains(res, ".stepfs") || !strings.Contains(res, "checkpoint-400") {
		t.Errorf("unchanged files were copied again:\n%s", res)
	}

	// Nothing of it comes back by a rollback; a restore has it.
	_, err = root.Must("rollback", d.Mnt, "100", "--scope", "runA")
	must(t, err)
	nothingIncluded(t, d.Mnt, d.Mnt+"/runA", d.Mnt+"/runB")
	to := tempDir(t) + "/restored"
	_, err = root.Must("restore", d.Mnt, "200", to, "--scope", "runA")
	must(t, err)
	if b, err := os.ReadFile(to + "/.stepfs/included" + conf); err != nil || string(b) != "lr: 2, changed" {
		t.Errorf("restored %q, %v", b, err)
	}
	_, err = root.Must("drain", d.Mnt)
	must(t, err)
	for _, at := range []string{d.Mnt, d.Store} {
		if at == d.Store {
			must(t, d.Stop())
		}
		res, err := root.Stepfs("check", "--read-data", at)
		must(t, err)
		if res.Code != 0 {
			t.Errorf("check %s: %d\n%s", at, res.Code, res.Both())
		}
	}
	if es, err := os.ReadDir(d.Store + "/scratch"); err == nil && len(es) > 0 {
		t.Errorf("backups are left over: %v", es)
	}
}

// TestIncludeRefused: what can be known to be wrong is said before anything is
// mounted.
func TestIncludeRefused(t *testing.T) {
	d, err := root.NewDaemon()
	must(t, err)
	must(t, d.Start())
	must(t, d.Stop())
	for path, want := range map[string]string{
		d.Store + "/config": "in the store", d.Mnt: "on the mount", d.Mnt + "/*.yaml": "on the mount",
		"/no/such/file": "no such file", "/dev/zero": "neither a file",
	} {
		res, err := root.Stepfs("mount", "--save-settings", "--include", path, d.Store, d.Mnt)
		must(t, err)
		if res.Code != 1 || !strings.Contains(res.Stderr, want) || !strings.Contains(res.Stderr, path) {
			t.Errorf("%s: exit code %d\n%s", path, res.Code, res.Both())
		}
	}
	must(t, d.Start()) // nothing of it was saved
	must(t, d.Stop())
}

// TestIncludeOfTheStore: a store's settings that anybody could have written are
// not followed.
func TestIncludeOfTheStore(t *testing.T) {
	out := tempDir(t)
	must(t, os.WriteFile(out+"/secret", []byte("secret"), 0o600))
	d := mount(t, "--include", out+"/secret", "--save-settings")
	must(t, d.Stop())
	d.Args = nil
	for k, c := range []struct {
		mode  os.FileMode
		there bool
	}{{0o600, true}, {0o666, false}} {
		must(t, os.Chmod(d.Store+"/config", c.mode))
		must(t, d.Start())
		name := fmt.Sprint("named", k)
		snapshotNow(t, d, name)
		if _, err := os.Stat(includedAt(d, name, out+"/secret")); (err == nil) != c.there {
			t.Errorf("config with mode %o: %v", c.mode, err)
		}
		must(t, d.Stop())
	}
}
