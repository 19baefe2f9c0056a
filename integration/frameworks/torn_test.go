package frameworks

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTornAgain: a step that was complete is torn by a job that began to write
// it again and was killed. What was sealed stays the latest.
func TestTornAgain(t *testing.T) {
	d := mount(t, "--seal-quiet", quiet.String())
	torchJob(t, "trainer", filepath.Join(d.Mnt, "checkpoint-5"), "5")
	waitFor(t, d, []string{"/5"})
	before := sealed(t, d, "5")
	must(t, os.WriteFile(filepath.Join(d.Mnt, "checkpoint-5/optimizer.pt"), []byte("torn"), 0o644))
	var all []step
	eventually(t, func() string {
		if all = steps(t, d)["/5"]; len(all) < 2 {
			return "the second revision"
		}
		return ""
	})
	if all[0].verdict != "partial" || all[1].verdict != "complete" {
		t.Errorf("%+v", all)
	}
	l := latest(d, "")
	if l != all[1].id || len(before) == 0 || len(sealed(t, d, l)) != len(before) {
		t.Errorf("latest is %s, want %s", l, all[1].id)
	}
	if b, err := os.ReadFile(filepath.Join(d.Mnt, "snapshots/latest/checkpoint-5/optimizer.pt")); err != nil || strings.Contains(string(b), "torn") {
		t.Errorf("the latest step is torn: %v", err)
	}
	must(t, d.Stop())
}
