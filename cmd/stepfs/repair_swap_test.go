package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"stepfs/internal/storedir"
)

// TestRepairBrokenOffInSwap: a repair ended with a new journal made and nothing in
// its place, or after it got there. The next one ends it, in a store that was moved
// meanwhile, and staging files that no record names go aside and are not lost.
func TestRepairBrokenOffInSwap(t *testing.T) {
	for _, placed := range []bool{false, true} {
		first, store := filepath.Join(t.TempDir(), "s"), filepath.Join(t.TempDir(), "moved")
		from := t.TempDir()
		must(t, os.WriteFile(filepath.Join(from, "f"), []byte("x"), 0o644))
		if r := stepfs(t, "import", first, from); r.code != 0 {
			t.Fatalf("%+v", r)
		}
		base := filepath.Join(first, repairDir)
		must(t, os.Mkdir(base, 0o700))
		journal := filepath.Join(first, storedir.JournalDir)
		must(t, os.CopyFS(filepath.Join(base, storedir.JournalDir), os.DirFS(journal)))
		const aside = "damaged-20261126-000000"
		must(t, os.Mkdir(filepath.Join(first, aside), 0o700))
		if placed {
			must(t, os.Rename(journal, filepath.Join(first, aside, storedir.JournalDir)))
			must(t, os.Rename(filepath.Join(base, storedir.JournalDir), journal))
		}
		const stray = "00ffff/000000000ffff007"
		must(t, os.MkdirAll(filepath.Join(first, storedir.StagingDir, "00ffff"), 0o700))
		must(t, os.WriteFile(filepath.Join(first, storedir.StagingDir, stray), []byte("bytes"), 0o600))
		ready, err := json.Marshal(readyFile{[]string{storedir.JournalDir}, aside, true})
		must(t, err)
		must(t, os.WriteFile(filepath.Join(base, readyName), ready, 0o600))
		must(t, os.Rename(first, store))

		if r := stepfs(t, "check", "--repair", store); r.code != 0 && r.code != exitPartly {
			t.Fatalf("placed %v: %+v", placed, r)
		}
		for _, path := range []string{storedir.JournalDir, filepath.Join(storedir.StagingDir, stray)} {
			if _, err := os.Stat(filepath.Join(store, aside, path)); err != nil {
				t.Errorf("placed %v: %v", placed, err)
			}
		}
		if _, err := os.Stat(first); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("placed %v: where the store was: %v", placed, err)
		}
		if r := stepfs(t, "check", store); r.code != 0 {
			t.Errorf("placed %v: %+v", placed, r)
		}
	}
}
