package integration

import (
	"os"
	"strings"
	"testing"
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
