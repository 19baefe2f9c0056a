package main

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestAssessDeltas: weights that move a little, of two ranks, are deltas from the
// checkpoint before; a copy of them takes nothing.
func TestAssessDeltas(t *testing.T) {
	const n = 1 << 19
	dir := t.TempDir()
	rng := rand.New(rand.NewSource(1))
	var weights [2][]float32
	for rank := range weights {
		for range n {
			weights[rank] = append(weights[rank], float32(rng.NormFloat64()))
		}
	}
	for _, step := range []string{"9", "10", "11"} {
		at := filepath.Join(dir, "checkpoint-"+step)
		must(t, os.MkdirAll(at, 0o755))
		for rank, w := range weights {
			var b []byte
			for i := range w {
				w[i] *= 1 + 1e-5*float32(rng.NormFloat64())
				b = binary.LittleEndian.AppendUint32(b, math.Float32bits(w[i]))
			}
			name := filepath.Join(at, []string{"rank_0.raw", "rank_1.raw"}[rank])
			must(t, os.WriteFile(name, b, 0o644))
			must(t, os.WriteFile(name+".copy", b, 0o644))
		}
	}
	got := stepfs(t, "assess", "--full", "--json", dir)
	if got.code != 0 {
		t.Fatalf("%+v", got)
	}
	var total AssessTotal
	lines := strings.Split(strings.TrimSpace(got.stdout), "\n")
	must(t, json.Unmarshal([]byte(lines[len(lines)-1]), &total))
	const version = 2 * 4 * n // of two ranks
	if total.Bytes != 6*version || total.Sampled != total.Bytes {
		t.Fatalf("of %d bytes: %+v", 6*version, total)
	}
	if total.SampledPlanes != version || total.SampledDeltas != 2*version || total.SampledTwice != 3*version || total.SampledDeepest != 2 {
		t.Errorf("kept as %+v", total)
	}
	if total.Deltas > 2*version || total.Estimate < 2*version { // planes alone save a sixth
		t.Errorf("estimates %d and %d", total.Deltas, total.Estimate)
	}
}

func TestAssessOrder(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"checkpoint-1000", "checkpoint-9", "checkpoint-20", "other"} {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	sortBySteps(entries)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := []string{"checkpoint-9", "checkpoint-20", "checkpoint-1000", "other"}; !slices.Equal(names, want) {
		t.Errorf("%v", names)
	}
	for _, tc := range []struct{ path, checkpoint, step, want string }{
		{"a/checkpoint-20/model_20_rank_2.pt", "a/checkpoint-20", "20", "a/checkpoint-#/model_#_rank_2.pt"},
		{"a/step_20.pt", "a/step_20.pt", "20", "a/step_#.pt"},
	} {
		if got := versionName(tc.path, tc.checkpoint, tc.step); got != tc.want {
			t.Errorf("%s: %s", tc.path, got)
		}
	}
}
