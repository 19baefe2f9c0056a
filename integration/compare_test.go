package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stepfs/integration/harness"
)

// TestDiffAndLog: what differs between two steps, and the history of a file, as
// the daemon tells it and as the store that is not mounted does.
func TestDiffAndLog(t *testing.T) {
	d := mount(t)
	must(t, os.WriteFile(d.Mnt+"/model.bin", make([]byte, 1<<20), 0o644))
	must(t, os.WriteFile(d.Mnt+"/old.json", []byte("{}"), 0o644))
	mkdir(t, d.Mnt+"/logs")
	must(t, os.WriteFile(d.Mnt+"/logs/a", []byte("a"), 0o644))
	snapshotNow(t, d, "one")
	must(t, os.Rename(d.Mnt+"/logs", d.Mnt+"/log"))
	must(t, os.Remove(d.Mnt+"/old.json"))
	must(t, os.WriteFile(d.Mnt+"/new.json", []byte("[]"), 0o644))
	f, err := os.OpenFile(d.Mnt+"/model.bin", os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt([]byte(strings.Repeat("x", 5000)), 8192)
	must(t, err)
	must(t, f.Close())
	snapshotNow(t, d, "two")
	must(t, os.Remove(d.Mnt+"/model.bin"))
	snapshotNow(t, d, "three")

	// Once it is stored, what changed is whole chunks.
	part := func(n any) bool { return n.(float64) >= 5000 && n.(float64) < 1<<20 }
	check := func(store string) {
		t.Helper()
		got := map[string]string{}
		lines, err := root.JSONLines("diff", store, "one", "two", "--json")
		must(t, err)
		for _, l := range lines[:len(lines)-1] {
			got[l["path"].(string)] = l["change"].(string)
		}
		want := map[string]string{"log": "R", "old.json": "D", "new.json": "A", "model.bin": "M"}
		for path, change := range want {
			if got[path] != change {
				t.Errorf("%s: %q, want %q", path, got[path], change)
			}
		}
		if len(got) != len(want) || !part(lines[len(lines)-1]["changed_bytes"]) {
			t.Errorf("diff of %s: %v", store, lines)
		}
		text, err := root.Must("diff", store, "one", "two")
		must(t, err)
		if !strings.Contains(text, "logs -> log\n") {
			t.Errorf("no rename in %s", text)
		}
		lines, err = root.JSONLines("log", store, "model.bin", "--json")
		must(t, err)
		var changes []string
		for _, l := range lines {
			changes = append(changes, l["change"].(string))
		}
		if strings.Join(changes, " ") != "D M A" || !part(lines[1]["changed_bytes"]) {
			t.Errorf("log: %v", lines)
		}
	}
	check(d.Mnt)
	must(t, d.Stop())
	check(d.Store)
	if _, err := root.Must("log", d.Store, "never"); err == nil || !strings.Contains(err.Error(), "never") {
		t.Errorf("a path that never was: %v", err)
	}
}

// TestImport: a directory of checkpoints becomes steps in the order of their
// times; the mount then holds what the directory does; a second import, or one
// that was interrupted, does only what is missing.
func TestImport(t *testing.T) {
	dir, err := root.MkdirTemp("import")
	must(t, err)
	d, err := root.NewDaemon()
	must(t, err)
	t.Cleanup(func() { must(t, d.Close()) })
	now := time.Now()
	for k, step := range []string{"300", "100", "200"} { // 200 is the newest
		at := fmt.Sprintf("%s/run/checkpoint-%s", dir, step)
		must(t, os.MkdirAll(at, 0o750))
		must(t, os.WriteFile(at+"/model.bin", []byte(strings.Repeat(step, 100000)), 0o640))
		must(t, os.Symlink("model.bin", at+"/link"))
		when := now.Add(time.Duration(k-10) * time.Hour)
		must(t, os.Chtimes(at+"/model.bin", when, when))
		must(t, os.Chtimes(at, when, when))
	}
	must(t, os.Link(dir+"/run/checkpoint-100/model.bin", dir+"/run/checkpoint-200/shared.bin"))
	must(t, os.Chtimes(dir+"/run/checkpoint-200", now, now))
	must(t, os.WriteFile(dir+"/run/config.json", []byte("{}"), 0o600))
	must(t, unix.Setxattr(dir+"/run/config.json", "user.note", []byte("x"), 0))
	sparse, err := os.Create(dir + "/sparse")
	must(t, err)
	must(t, sparse.Truncate(64<<20))
	must(t, sparse.Close())
	must(t, os.Chtimes(dir+"/run", now, now))
	want, err := harness.ReadTree(dir)
	must(t, err)

	must(t, d.Start())
	out, err := root.Must("import", "--dry-run", d.Mnt, dir)
	must(t, err)
	if n := strings.Count(out, "would be run/"); n != 3 {
		t.Errorf("dry run: %s", out)
	}
	for round := range 2 {
		lines, err := root.JSONLines("import", "--json", d.Mnt, dir)
		must(t, err)
		var order []string
		for _, l := range lines[:len(lines)-1] {
			order = append(order, l["event"].(string)+" "+l["step"].(string))
		}
		if got, want := strings.Join(order, ","), []string{"step 300,step 100,step 200", "there 300,there 100,there 200"}[round]; got != want {
			t.Errorf("round %d: %s, want %s", round, got, want)
		}
		if files := lines[len(lines)-1]["files"].(float64); round == 1 && files != 0 {
			t.Errorf("round 1 wrote %v files", files)
		}
		got, err := harness.ReadTree(d.Mnt)
		must(t, err)
		if diff := want.Diff(got); diff != "" {
			t.Errorf("round %d: %s", round, diff)
		}
	}
	for _, name := range []string{"run", "run/config.json", "run/checkpoint-200", "run/checkpoint-100/model.bin"} {
		a, err := os.Stat(dir + "/" + name)
		must(t, err)
		b, err := os.Stat(d.Mnt + "/" + name)
		must(t, err)
		if !a.ModTime().Equal(b.ModTime()) || a.Mode() != b.Mode() {
			t.Errorf("%s: %v %v, want %v %v", name, b.ModTime(), b.Mode(), a.ModTime(), a.Mode())
		}
	}
	note := make([]byte, 10)
	if n, err := unix.Getxattr(d.Mnt+"/run/config.json", "user.note", note); err != nil || string(note[:n]) != "x" {
		t.Errorf("xattr: %q, %v", note, err)
	}
	var st unix.Stat_t
	must(t, unix.Stat(d.Mnt+"/sparse", &st))
	if st.Blocks > 100 {
		t.Errorf("the hole takes %d blocks", st.Blocks)
	}
	latest, err := os.Readlink(d.Mnt + "/snapshots/run/latest")
	must(t, err)
	// The files of 100 are called like those of 300: it is complete; 200 has one more.
	if !strings.HasPrefix(latest, "100") || step(t, d, "100")["reason"] != "import" {
		t.Errorf("latest is %s; %v", latest, step(t, d, "100"))
	}
	holds(t, d.Mnt+"/snapshots/run/100/checkpoint-100/model.bin", []byte(strings.Repeat("100", 100000)), "step 100")
	if _, err := os.Stat(d.Mnt + "/snapshots/run/100/checkpoint-200"); err == nil {
		t.Error("step 100 shows checkpoint-200")
	}
	a, err := os.Stat(d.Mnt + "/run/checkpoint-100/model.bin")
	must(t, err)
	b, err := os.Stat(d.Mnt + "/run/checkpoint-200/shared.bin")
	must(t, err)
	if !os.SameFile(a, b) {
		t.Error("the hard link is two files")
	}
}

// TestAssessTool: exit code 3 tells that some checkpoints are torn.
func TestAssessTool(t *testing.T) {
	dir, err := root.MkdirTemp("assess")
	must(t, err)
	must(t, os.WriteFile(dir+"/step_100.pt", []byte("PK\x03\x04, and no more"), 0o644))
	mkdir(t, dir+"/checkpoint-200")
	must(t, os.WriteFile(dir+"/checkpoint-200/config.json", []byte("{}"), 0o644))
	r, err := root.Stepfs("assess", dir)
	must(t, err)
	if r.Code != 3 || !strings.Contains(r.Stdout, "2 checkpoints, 1 torn") {
		t.Errorf("%+v", r)
	}
}
