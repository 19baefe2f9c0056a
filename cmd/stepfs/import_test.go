package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestImportOrder: checkpoints come in the order of their newest files, then of
// their numbers; what lies in one is not one of its own. What stepfs itself left
// unfinished counts as nothing.
func TestImportOrder(t *testing.T) {
	dir, now := t.TempDir(), time.Now().Truncate(time.Second)
	for name, age := range map[string]time.Duration{
		"a/checkpoint-9/w": 3, "a/checkpoint-10/w": 3, "b/step_5.pt": 9, "a/checkpoint-9/global_step9/w": 4, "checkpoint-1/w": 1, "notes": 0,
		"a/.stepfs-import-0123456789abcdef/checkpoint-7/w": 8, "a/checkpoint-9/.stepfs-restore-0123456789abcdef": 0,
	} {
		p := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(p), 0o755))
		must(t, os.WriteFile(p, []byte("x"), 0o644))
		must(t, os.Chtimes(p, now, now.Add(-age*time.Hour)))
	}
	units, err := findUnits(context.Background(), dir)
	must(t, err)
	var got []string
	for _, u := range units {
		got = append(got, u.path+"="+u.step)
	}
	if want := "b/step_5.pt=5 a/checkpoint-9=9 a/checkpoint-10=10 checkpoint-1=1"; strings.Join(got, " ") != want {
		t.Errorf("%v, want %s", got, want)
	}
	var names []string
	var walk func(n node) error
	src := &importSource{dirSource{dir}, map[string]bool{"checkpoint-1": true}}
	walk = func(n node) error {
		if names = append(names, n.path); n.mode&unix.S_IFMT == unix.S_IFDIR {
			return src.Children(context.Background(), n, walk)
		}
		return nil
	}
	top, err := src.Stat(".")
	must(t, err)
	must(t, walk(top))
	if all := strings.Join(names, " "); strings.Contains(all, ".stepfs") || strings.Contains(all, "checkpoint-1/") || len(names) != 11 {
		t.Errorf("%d: %s", len(names), all)
	}
}

// TestImportReadsBack: a file that is not what was copied is found.
func TestImportReadsBack(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	root, err := os.OpenRoot(to)
	must(t, err)
	defer root.Close()
	c := &comparing{source: &dirSource{from}, to: dirSink{root}}
	for name, there := range map[string]string{"same": "content", "other": "contenT", "short": "conten", "long": "content.", "empty": ""} {
		must(t, os.WriteFile(filepath.Join(from, name), []byte("content"), 0o644))
		must(t, os.WriteFile(filepath.Join(to, name), []byte(there), 0o644))
		err := c.same(context.Background(), node{path: name})
		if (err == nil) != (name == "same") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
