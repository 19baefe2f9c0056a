package main

import (
	"encoding/json"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAssess: torn checkpoints are told from whole ones, and what the steps
// share counts once in the estimate.
func TestAssess(t *testing.T) {
	dir := t.TempDir()
	weights := make([]byte, 4<<20)
	rand.New(rand.NewSource(1)).Read(weights) // never fails
	for _, step := range []string{"100", "200", "300", "400"} {
		at := filepath.Join(dir, "run", "checkpoint-"+step)
		must(t, os.MkdirAll(at, 0o755))
		must(t, os.WriteFile(filepath.Join(at, "same.raw"), weights, 0o644))
		must(t, os.WriteFile(filepath.Join(at, "config.json"), []byte(`{"a": 1}`), 0o644))
	}
	got := stepfs(t, "assess", "--sample", "100%", "--json", dir)
	if got.code != 0 || !strings.Contains(got.stdout, `"checkpoints":4,"torn":0`) {
		t.Fatalf("%+v", got)
	}
	var total AssessTotal
	lines := strings.Split(strings.TrimSpace(got.stdout), "\n")
	must(t, json.Unmarshal([]byte(lines[len(lines)-1]), &total))
	if total.Bytes < 16<<20 || total.Estimate > 5<<20 || total.Estimate < 4<<20 {
		t.Errorf("estimate %+v", total)
	}
	must(t, os.WriteFile(filepath.Join(dir, "run", "checkpoint-300", "config.json"), []byte(`{"a": `), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "run", "step_500.pt"), []byte("PK\x03\x04 cut off"), 0o644))
	got = stepfs(t, "assess", dir)
	if got.code != exitPartly || !strings.Contains(got.stdout, "5 checkpoints, 2 torn") || !strings.Contains(got.stdout, "config.json: ") {
		t.Errorf("%+v", got)
	}
	if got := stepfs(t, "assess", "--sample", "200", dir); got.code != exitError {
		t.Errorf("sample of 200%%: %+v", got)
	}
}
