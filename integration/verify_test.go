package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"stepfs/integration/harness"
)

// recovery is what status says of it.
func recovery(t *testing.T, at string) (r struct {
	Recovery struct {
		Sound     int     `json:"sound"`
		Damaged   int     `json:"damaged"`
		Integrity float64 `json:"integrity"`
		Seconds   int64   `json:"restore_seconds"`
	} `json:"recovery"`
}) {
	t.Helper()
	out, err := root.Must("status", "--json", at)
	must(t, err)
	must(t, json.Unmarshal([]byte(out), &r))
	return r
}

// TestVerify: steps are verified by themselves once they are stored; after a
// byte of a pack has changed, verify finds it, with its path, says so by its
// exit code, in the list, in the status and by an event, on a mount and without
// one, and a step that is sound stays so.
func TestVerify(t *testing.T) {
	out := tempDir(t)
	d := mount(t, "--seal-quiet", "100ms", "--verify-on-seal", "--hot-limit", "1", "--on-event", "cat >> '"+out+"/events'")
	save := func(step string, seed int64) {
		mkdir(t, d.Mnt+"/checkpoint-"+step)
		fill(t, d.Mnt+"/checkpoint-"+step, 10, seed)
		_, err := root.Must("drain", d.Mnt)
		must(t, err)
		eventually(t, step+" is verified", func() bool {
			for _, line := range mustLines(t, d.Mnt) {
				if line["step"] == step && line["verified"] != nil {
					return true
				}
			}
			return false
		})
	}
	save("100", 1)
	sound := packsOf(t, d)
	save("200", 2)
	for _, name := range []string{"100", "200"} {
		if v := step(t, d, name)["verified"].(map[string]any); v["ok"] != true || v["bytes"].(float64) == 0 {
			t.Errorf("%s: %v", name, v)
		}
	}
	if r := recovery(t, d.Mnt).Recovery; r.Sound != 2 || r.Damaged != 0 || r.Integrity != 100 || r.Seconds < 1 {
		t.Errorf("%+v", r)
	}
	for name := range packsOf(t, d) {
		if !sound[name] {
			damage(t, name)
		}
	}
	check := func(at string) {
		t.Helper()
		res, err := root.Stepfs("verify", at, "100", "200")
		must(t, err)
		if res.Code != 1 || !strings.Contains(res.Stdout, ": checkpoint-200/") || !strings.Contains(res.Stdout, "DAMAGED") ||
			!strings.Contains(res.Stdout, "100@") || strings.Contains(res.Stdout, ": checkpoint-100/") || !strings.Contains(res.Stderr, "1 of 2") {
			t.Errorf("exit code %d\n%s", res.Code, res.Both())
		}
		if r := recovery(t, at).Recovery; r.Sound != 1 || r.Damaged != 1 || r.Integrity != 50 {
			t.Errorf("%+v", r)
		}
	}
	check(d.Mnt)
	if v := step(t, d, "200")["verified"].(map[string]any); v["ok"] != false || !strings.HasPrefix(fmt.Sprint(v["problems"]), "[checkpoint-200/") {
		t.Errorf("in the list: %v", v)
	}
	eventually(t, "the event", func() bool { return hookEvent(t, out+"/events", "verify-failed", "200") != nil })
	if hookEvent(t, out+"/events", "verify-failed", "100") != nil {
		t.Error("verify-failed for a step that is sound")
	}
	must(t, d.Stop())
	check(d.Store)
	res, err := root.Stepfs("verify", d.Store, "100", "--json")
	must(t, err)
	var line struct{ Verified struct{ OK bool } }
	must(t, json.Unmarshal([]byte(res.Stdout), &line))
	if res.Code != 0 || !line.Verified.OK {
		t.Errorf("%s", res.Both())
	}
}

func mustLines(t *testing.T, at string) []map[string]any {
	t.Helper()
	lines, err := root.JSONLines("snapshots", at, "--json")
	must(t, err)
	return lines
}

// packsOf gives the paths of all packs.
func packsOf(t *testing.T, d *harness.Daemon) map[string]bool {
	t.Helper()
	packs := map[string]bool{}
	must(t, filepath.WalkDir(d.Store+"/packs", func(path string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			packs[path] = true
		}
		return err
	}))
	return packs
}
