package frameworks

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestOwnRules: a store's own rules seal what no framework writes, explain says
// why, and a wrong one is refused with its line.
func TestOwnRules(t *testing.T) {
	d := mount(t, "--seal-quiet", "1h")
	must(t, d.Stop())
	own := filepath.Join(d.Store, "rules")
	must(t, os.WriteFile(own, []byte("[mine]\nstep = run_(\\d+)/\ncommit = close DONE\ncolour = red\n"), 0o644))
	for _, args := range [][]string{{"rules", "check", d.Store}, {"rules", "list", d.Store}, {"mount", d.Store, d.Mnt}} {
		res, err := root.Stepfs(args...)
		must(t, err)
		if res.Code != 1 || !strings.Contains(res.Stderr, own+":4: bad rule: there is no key \"colour\"") {
			t.Errorf("%q: exit code %d, %s", args, res.Code, res.Both())
		}
	}
	must(t, os.WriteFile(own, []byte("[mine]\nstep = run_(\\d+)/\nsign = *.w\ncommit = close DONE\n"), 0o644))
	if out, err := root.Must("rules", "check", d.Store); err != nil || !strings.Contains(out, "1 rules, all right") {
		t.Errorf("check: %q, %v", out, err)
	}
	if out, err := root.Must("rules", "list", d.Store); err != nil || !strings.HasPrefix(out, "[mine]\nstep = run_(\\d+)/\n") || !strings.Contains(out, "[hf-trainer]") {
		t.Errorf("list: %q, %v", out, err)
	}
	must(t, d.Start())
	dir := filepath.Join(d.Mnt, "a", "run_7")
	must(t, os.MkdirAll(dir, 0o755))
	must(t, os.WriteFile(dir+"/x.w", []byte("w"), 0o644))
	explain := func(path string, words ...string) {
		t.Helper()
		out, err := root.Must("rules", "explain", path)
		must(t, err)
		for _, w := range words {
			if !strings.Contains(out, w) {
				t.Errorf("explain %s does not say %q:\n%s", path, w, out)
			}
		}
	}
	explain(dir, "step 7 in scope a", "rule mine: it is whole after close DONE", "its commit point was not seen: close DONE", "not sealed yet")
	explain(dir+"/x.w", "it belongs to a/run_7")
	must(t, os.WriteFile(dir+"/DONE", nil, 0o644))
	all := waitFor(t, d, []string{"a/7"})
	if s := all["a/7"][0]; s.rule != "mine" || s.reason != "commit-file" || s.verdict != "complete" {
		t.Errorf("%+v", s)
	}
	explain(dir, "sealed as 7@", "commit-file, complete")
	must(t, os.WriteFile(d.Mnt+"/a/latest", []byte("../../etc/passwd"), 0o644))
	must(t, os.WriteFile(d.Mnt+"/a/notes", nil, 0o644))
	explain(d.Mnt+"/a/notes", "no step", "no rule takes it")
	explain(d.Mnt+"/a", "a/latest committed no step")
	must(t, d.Stop())
}
