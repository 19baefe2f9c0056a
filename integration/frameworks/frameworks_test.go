package frameworks

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"stepfs/integration/harness"
)

// step is what `stepfs snapshots --json --revisions` says of one.
type step struct {
	id, rule, reason, verdict string
	revision                  int
	findings                  any
}

// steps gives every revision, newest first, by "scope/step".
func steps(t *testing.T, d *harness.Daemon) map[string][]step {
	t.Helper()
	lines, err := root.JSONLines("snapshots", "--json", "--revisions", d.Mnt)
	must(t, err)
	all := map[string][]step{}
	word := func(l map[string]any, key string) string { s, _ := l[key].(string); return s }
	for _, l := range lines {
		key := word(l, "scope") + "/" + word(l, "step")
		s := step{word(l, "id"), word(l, "rule"), word(l, "reason"), word(l, "verdict"), int(l["revision"].(float64)), l["findings"]}
		all[key] = append([]step{s}, all[key]...)
	}
	return all
}

// waitFor waits until all of these steps are sealed.
func waitFor(t *testing.T, d *harness.Daemon, keys []string) map[string][]step {
	t.Helper()
	var all map[string][]step
	eventually(t, func() (left string) {
		all = steps(t, d)
		for _, k := range keys {
			if len(all[k]) == 0 {
				left = k
			}
		}
		return left
	})
	return all
}

// eventually waits until nothing is left; it fails after a time that no
// working machine needs.
func eventually(t *testing.T, left func() string) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		what := left()
		if what == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still waiting for: %s", what)
		}
	}
}

// settled waits until nothing waits to be sealed any more.
func settled(t *testing.T, d *harness.Daemon) {
	t.Helper()
	last := ""
	since := time.Now()
	eventually(t, func() string {
		if now := fmt.Sprint(steps(t, d)); now != last {
			last, since = now, time.Now()
		}
		if time.Since(since) < 4*quiet {
			return "no step was sealed for a while"
		}
		return ""
	})
}

// quiet is --seal-quiet.
const quiet = time.Second

// sealed gives the files of a step as its snapshot shows them.
func sealed(t *testing.T, d *harness.Daemon, key string) map[string]string {
	t.Helper()
	return files(t, filepath.Join(d.Mnt, "snapshots", key))
}

// files gives the regular files below a directory.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	must(t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		out[strings.TrimPrefix(path, dir)] = string(b)
		return err
	}))
	return out
}

func latest(d *harness.Daemon, scope string) string {
	target, err := os.Readlink(filepath.Join(d.Mnt, "snapshots", scope, "latest"))
	if err != nil {
		return ""
	}
	return target
}

// together runs fn for 0 to n-1, four at a time.
func together(t *testing.T, n int, fn func(k int) error) {
	t.Helper()
	var wg sync.WaitGroup
	errs := make([]error, n)
	slots := make(chan struct{}, 4)
	for k := range n {
		slots <- struct{}{}
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer func() { <-slots }()
			errs[k] = fn(k)
		}()
	}
	wg.Wait()
	for _, err := range errs {
		must(t, err)
	}
}

// matrix is what was found, to be printed.
type matrix struct {
	mu   sync.Mutex
	cols []string
	rows map[string]map[string]string
}

func (m *matrix) set(row, col, format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rows[row] == nil {
		m.rows[row] = map[string]string{}
	}
	m.rows[row][col] = fmt.Sprintf(format, args...)
}

func (m *matrix) print(t *testing.T) {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "framework\t"+strings.Join(m.cols, "\t"))
	for _, r := range table {
		line := r.name
		for _, c := range m.cols {
			line += "\t" + m.rows[r.name][c]
		}
		fmt.Fprintln(w, line)
	}
	w.Flush()
	t.Logf("\n%s", b.String())
}

// TestFrameworks plays the system calls of every framework, at once in scopes
// of their own on one mount.
func TestFrameworks(t *testing.T) {
	contents := makeContents(t)
	m := &matrix{cols: []string{"sealed", "killed at every operation", "deleted, overwritten", "two at once"}, rows: map[string]map[string]string{}}
	d := mount(t, "--seal-quiet", quiet.String(), "--seal-grace", "200ms")
	defer m.print(t)
	t.Run("sealed", func(t *testing.T) { wholeSteps(t, d, m, contents) })
	t.Run("hurt", func(t *testing.T) { hurtSteps(t, d, m) })
	t.Run("killed", func(t *testing.T) { killedWriters(t, d, m, contents) })
	must(t, d.Stop())
}

// wholeSteps: (a) sealed once, with number, reason, verdict; (d) in two scopes
// at once.
func wholeSteps(t *testing.T, d *harness.Daemon, m *matrix, contents string) {
	for _, n := range []string{"7", "8"} {
		together(t, 2*len(table), func(k int) error {
			row := k / 2
			return play(d.Mnt, scopeOf(row, k%2), row, n, len(operations(table[row].script)), contents)
		})
		var keys []string
		for row := range table {
			keys = append(keys, scopeOf(row, 0)+"/"+n, scopeOf(row, 1)+"/"+n)
		}
		waitFor(t, d, keys)
	}
	settled(t, d)
	all := steps(t, d)
	for row, r := range table {
		for run := range 2 {
			scope := scopeOf(row, run)
			got := all[scope+"/8"]
			s := got[0]
			if len(got) != 1 || s.rule != r.rule || s.reason != r.reason || s.verdict != "complete" {
				t.Errorf("%s: %+v, want once %s, %s, complete", r.name, got, r.rule, r.reason)
			}
			if l := latest(d, scope); l != "8" {
				t.Errorf("%s: latest is %q", r.name, l)
			}
			m.set(r.name, "sealed", "%s, %s", s.reason, s.verdict)
			m.set(r.name, "two at once", "ok")
		}
		if extra := others(all, scopeOf(row, 0)); len(extra) > 0 {
			t.Errorf("%s: other steps were sealed: %v", r.name, extra)
		}
	}
}

func scopeOf(row, run int) string { return fmt.Sprintf("run%c/row%c", 'A'+run, 'a'+row) }

// others gives the steps of a scope that nobody wrote.
func others(all map[string][]step, scope string) (extra []string) {
	for key := range all {
		if rest, ok := strings.CutPrefix(key, scope+"/"); ok && rest != "7" && rest != "8" && rest != "6" {
			extra = append(extra, key)
		}
	}
	return extra
}

// hurtSteps: (c) whatever the job does to its files, the sealed step stays.
func hurtSteps(t *testing.T, d *harness.Daemon, m *matrix) {
	for row, r := range table {
		scope := scopeOf(row, 0)
		id := steps(t, d)[scope+"/8"][0].id
		before := sealed(t, d, scope+"/"+id)
		if len(before) == 0 {
			t.Errorf("%s: the step is empty", r.name)
		}
		live := filepath.Join(d.Mnt, scope)
		must(t, filepath.Walk(live, func(path string, info os.FileInfo, err error) error {
			if err == nil && info.Mode().IsRegular() {
				err = os.WriteFile(path, []byte("overwritten"), 0o644)
			}
			return err
		}))
		must(t, os.RemoveAll(live))
		if after := sealed(t, d, scope+"/"+id); !maps.Equal(before, after) {
			t.Errorf("%s: the sealed step has changed", r.name)
		}
		m.set(r.name, "deleted, overwritten", "untouched")
	}
}

// killedWriters: (b) a writer that is killed after any operation leaves no
// complete step, and the one before stays the latest, and whole.
func killedWriters(t *testing.T, d *harness.Daemon, m *matrix, contents string) {
	type cut struct {
		row, ops int
		scope    string
	}
	var cuts []cut
	for row, r := range table {
		for n := range len(operations(r.script)) {
			cuts = append(cuts, cut{row, n, fmt.Sprintf("killed/row%c/at-op%c", 'a'+row, 'a'+n)})
		}
	}
	var keys []string
	for _, n := range []string{"6", "7"} { // a hand-written loop's first step can't be complete
		together(t, len(cuts), func(k int) error {
			return play(d.Mnt, cuts[k].scope, cuts[k].row, n, len(operations(table[cuts[k].row].script)), contents)
		})
		keys = keys[:0]
		for _, c := range cuts {
			keys = append(keys, c.scope+"/"+n)
		}
		waitFor(t, d, keys)
	}
	before := make([]map[string]string, len(cuts))
	for k, c := range cuts {
		before[k] = sealed(t, d, c.scope+"/7")
	}
	together(t, len(cuts), func(k int) error {
		return play(d.Mnt, cuts[k].scope, cuts[k].row, "8", cuts[k].ops, contents)
	})
	settled(t, d)
	all := steps(t, d)
	verdicts := map[string]map[string]int{}
	for k, c := range cuts {
		r := table[c.row]
		verdict := "absent"
		if s := all[c.scope+"/8"]; len(s) > 0 {
			verdict = s[0].verdict
		}
		if verdicts[r.name] == nil {
			verdicts[r.name] = map[string]int{}
		}
		verdicts[r.name][verdict]++
		whole, want := r.whole > 0 && c.ops >= r.whole, "7"
		if whole {
			want = "8"
		}
		if (verdict == "complete") != whole || !whole && verdict != "absent" && verdict != "partial" && verdict != r.killed {
			t.Errorf("%s, killed after %d operations: %s, %v", r.name, c.ops, verdict, all[c.scope+"/8"])
		}
		if l := latest(d, c.scope); l != want {
			t.Errorf("%s, killed after %d operations: latest is %q", r.name, c.ops, l)
		}
		if !maps.Equal(before[k], sealed(t, d, c.scope+"/7")) {
			t.Errorf("%s, killed after %d operations: the step before has changed", r.name, c.ops)
		}
	}
	for name, v := range verdicts {
		m.set(name, "killed at every operation", "%s", strings.TrimSuffix(strings.TrimPrefix(fmt.Sprint(v), "map["), "]"))
	}
}

// TestPyTorch has real PyTorch write checkpoints, twice each, in two scopes at
// once.
func TestPyTorch(t *testing.T) {
	d := mount(t, "--seal-quiet", "1h")
	jobs := []struct {
		step, rule, reason string
		args               func(dir string) []string
	}{
		{"100", "torch-save", "commit-file", func(dir string) []string { return []string{"save", dir + "/model_step_100.pt"} }},
		{"200", "hf-trainer", "commit-file", func(dir string) []string { return []string{"trainer", dir + "/checkpoint-200", "200"} }},
		{"300", "torch-dcp", "rename", func(dir string) []string { return []string{"dcp", dir + "/checkpoint-300"} }},
		{"400", "torchtitan", "rename", func(dir string) []string { return []string{"dcp", dir + "/step-400"} }},
	}
	for _, j := range jobs {
		var wg sync.WaitGroup
		for _, run := range []string{"runA", "runB"} {
			must(t, os.MkdirAll(filepath.Join(d.Mnt, run), 0o755))
			wg.Add(1)
			go func() {
				defer wg.Done()
				torchJob(t, j.args(filepath.Join(d.Mnt, run))...)
			}()
		}
		wg.Wait()
		all := waitFor(t, d, []string{"runA/" + j.step, "runB/" + j.step})
		for _, run := range []string{"runA", "runB"} {
			got := all[run+"/"+j.step]
			if s := got[0]; len(got) != 1 || s.rule != j.rule || s.reason != j.reason || s.verdict != "complete" {
				t.Errorf("%s of %s: %+v, want once %s, %s, complete", j.step, run, got, j.rule, j.reason)
			}
			if l := latest(d, run); l != j.step {
				t.Errorf("latest of %s is %q, want %s", run, l, j.step)
			}
			if !maps.Equal(files(t, filepath.Join(d.Mnt, run)), sealed(t, d, run+"/"+j.step)) {
				t.Errorf("%s of %s is not what was written", j.step, run)
			}
		}
	}
	must(t, d.Stop())
}
