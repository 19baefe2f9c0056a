package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What a step brought, by how it is kept and by file, from the daemon and from the
// store alone: the parts add up, and each file has what its content asks for.
func TestStepStats(t *testing.T) {
	store, point, _ := mountInBackground(t)
	rng := rand.New(rand.NewSource(1))
	weights := make([]float32, 1<<20)
	for i := range weights {
		weights[i] = float32(rng.NormFloat64())
	}
	noise := make([]byte, 2<<20)
	rng.Read(noise)
	for step := 1; step <= 2; step++ {
		var b []byte
		for i := range weights {
			weights[i] *= 1 + 1e-6*float32(rng.NormFloat64())
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(weights[i]))
		}
		must(t, os.WriteFile(point+"/weights.bin", b, 0o644))
		must(t, os.WriteFile(point+"/same.bin", noise, 0o644))
		rand.New(rand.NewSource(int64(step))).Read(b)
		must(t, os.WriteFile(point+"/noise.bin", b[:2<<20], 0o644))
		must(t, os.WriteFile(point+"/hole.bin", nil, 0o644))
		must(t, os.Truncate(point+"/hole.bin", 1<<20))
		if step == 1 {
			must(t, os.Link(point+"/noise.bin", point+"/other.bin"))
		} else {
			must(t, os.WriteFile(point+"/text.txt", []byte(strings.Repeat("what happened ", 100_000)), 0o644))
		}
		must(t, unix.Setxattr(point, "user.stepfs.step", []byte(fmt.Sprint(step)), 0))
		says(t, 0, "", "drain", store)
	}
	check := func(step string, n int) (map[string]FileStats, StepStats) {
		t.Helper()
		got := says(t, 0, `"total"`, "stats", "--json", "--files", store, step)
		files, sum, total := map[string]FileStats{}, Saved{}, StepStats{}
		lines := slices.Collect(strings.Lines(got.stdout))
		for i, line := range lines {
			if i == len(lines)-1 {
				must(t, json.Unmarshal([]byte(line), &total))
				break
			}
			var f FileStats
			must(t, json.Unmarshal([]byte(line), &f))
			files[f.Path] = f
			sum.add(f.Saved)
			if f.Size != f.Holes+f.Duplicate+f.Delta.Plain+f.Planes.Plain+f.Zstd.Plain+f.Raw.Plain || f.Staged+f.Missing > 0 {
				t.Errorf("the parts do not add up: %+v", f)
			}
		}
		if sum != total.Saved || total.Files != len(files) || total.Files != n {
			t.Errorf("%d files with %+v, total %+v", len(files), sum, total)
		}
		return files, total
	}
	for _, mounted := range []bool{true, false} {
		if !mounted {
			says(t, 0, "", "umount", point)
		}
		files, total := check("1", 4)
		if f := files["weights.bin"]; total.Before != "" || f.Planes.Plain < f.Size*9/10 || f.Planes.Stored >= f.Planes.Plain {
			t.Errorf("the first step's weights: %+v, compared with %q", f, total.Before)
		}
		files, total = check("2", 5)
		if !strings.HasPrefix(total.Before, "1@") {
			t.Errorf("compared with %q", total.Before)
		}
		for path, part := range map[string]int64{
			"weights.bin": files["weights.bin"].Delta.Plain, "same.bin": files["same.bin"].Duplicate,
			"noise.bin": files["noise.bin"].Raw.Plain, "text.txt": files["text.txt"].Zstd.Plain, "hole.bin": files["hole.bin"].Holes,
		} {
			if f := files[path]; part != f.Size || part == 0 {
				t.Errorf("%s: %+v", path, f)
			}
		}
		says(t, 0, "compared with 1@", "stats", store, "2")
		says(t, 0, "text.txt", "stats", "--files", store, "latest")
		says(t, exitError, "there is no snapshot 7", "stats", store, "7")
		says(t, exitError, "of a STEP", "stats", "--files", store)
	}
}
