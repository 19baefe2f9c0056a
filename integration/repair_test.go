package integration

import (
	"encoding/json"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"stepfs/integration/harness"
)

const exitPartly = 3

// stepped is a store with a history of steps, and what each of them shows.
type stepped struct {
	*harness.Daemon
	want  map[string]harness.Tree // by path below snapshots/
	meta  map[string]map[string]string
	names []string
}

// history makes a store whose steps share, move, change and remove files, in two
// scopes, and stores all of it. The daemon is stopped.
func history(t *testing.T, args ...string) *stepped {
	t.Helper()
	d := mount(t, append([]string{"--seal-quiet", "100ms", "--hot-limit", "1"}, args...)...)
	s := &stepped{Daemon: d, want: map[string]harness.Tree{}, meta: map[string]map[string]string{}}
	rnd := rand.New(rand.NewSource(seed(t)))
	fill(t, d.Mnt, 30, rnd.Int63())
	must(t, unix.Setxattr(d.Mnt+"/sparse", "user.note", []byte("of the first"), 0))
	must(t, os.Mkdir(d.Mnt+"/runs", 0o750))
	must(t, os.Mkdir(d.Mnt+"/runs/a", 0o755))
	must(t, os.WriteFile(d.Mnt+"/runs/a/weights", noise(rnd, 2<<20), 0o640))
	s.take(t, "", "first")
	must(t, os.Rename(d.Mnt+"/d0", d.Mnt+"/moved"))
	must(t, os.WriteFile(d.Mnt+"/d1/e1/new", noise(rnd, 100), 0o600))
	must(t, unix.Setxattr(d.Mnt+"/sparse", "user.note", []byte("of the second"), 0))
	must(t, os.Remove(d.Mnt+"/link"))
	must(t, os.Chown(d.Mnt+"/sparse", 12, 34))
	appendTo(t, d.Mnt+"/runs/a/weights", noise(rnd, 1<<20))
	s.take(t, "", "second")
	must(t, os.WriteFile(d.Mnt+"/runs/a/optimizer", noise(rnd, 1<<20), 0o644))
	overwrite(t, d.Mnt+"/runs/a/weights", 300_000, noise(rnd, 5000))
	s.take(t, "runs/a", "inner")
	must(t, os.RemoveAll(d.Mnt+"/d1"))
	must(t, os.Link(d.Mnt+"/d2/e2/f2", d.Mnt+"/linked"))
	must(t, os.Symlink("elsewhere", d.Mnt+"/link"))
	must(t, unix.Removexattr(d.Mnt+"/sparse", "user.note"))
	must(t, os.MkdirAll(d.Mnt+"/checkpoint-5", 0o755))
	must(t, os.WriteFile(d.Mnt+"/checkpoint-5/model.safetensors", append([]byte{2, 0, 0, 0, 0, 0, 0, 0}, "{}"...), 0o644))
	must(t, os.WriteFile(d.Mnt+"/checkpoint-5/config.json", []byte("{}"), 0o644))
	must(t, os.WriteFile(d.Mnt+"/checkpoint-5/trainer_state.json", []byte(`{"global_step": 5}`), 0o644))
	s.take(t, "", "third")
	eventually(t, "checkpoint-5 is sealed", func() bool { _, err := os.Stat(d.Mnt + "/snapshots/5"); return err == nil })
	s.note(t, "", "5")
	must(t, os.RemoveAll(d.Mnt+"/runs"))
	must(t, os.WriteFile(d.Mnt+"/link2", noise(rnd, 10), 0o644))
	s.take(t, "", "last")
	_, err := root.Must("drain", d.Mnt)
	must(t, err)
	eventually(t, "every step is stored", func() bool {
		out, err := root.Must("snapshots", d.Mnt, "--json")
		must(t, err)
		return !strings.Contains(out, `"staged"`)
	})
	must(t, d.Stop())
	return s
}

// noise is content that no codec makes smaller: where it lies can be found.
func noise(rnd *rand.Rand, n int) []byte {
	b := make([]byte, n)
	rnd.Read(b)
	return b
}

func appendTo(t *testing.T, path string, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = f.Write(b)
	must(t, err)
	must(t, f.Close())
}

func overwrite(t *testing.T, path string, off int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt(b, off)
	must(t, err)
	must(t, f.Close())
}

// take takes a snapshot of a scope.
func (s *stepped) take(t *testing.T, scope, name string) {
	t.Helper()
	args := []string{"snapshot", s.Mnt, name, "--tag", "run=7"}
	if scope != "" {
		args = append(args, "--scope", scope)
	}
	_, err := root.Must(args...)
	must(t, err)
	s.note(t, scope, name)
}

// note remembers what a snapshot shows.
func (s *stepped) note(t *testing.T, scope, name string) {
	t.Helper()
	path := filepath.Join(scope, name)
	var err error
	s.want[path], err = harness.ReadTree(filepath.Join(s.Mnt, "snapshots", path))
	must(t, err)
	s.meta[path] = metadata(t, filepath.Join(s.Mnt, "snapshots", path))
	s.names = append(s.names, path)
}

// metadata is what stat and xattrs say of each path.
func metadata(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	must(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		size := st.Size
		rel, _ := filepath.Rel(dir, path)
		out[rel] = fmt.Sprintf("mode %o uid %d gid %d nlink %d size %d blocks %d mtime %v ctime %v", st.Mode, st.Uid, st.Gid, st.Nlink, size, st.Blocks, st.Mtim, st.Ctim)
		if e.Type().IsRegular() {
			b := make([]byte, 256)
			if n, err := unix.Getxattr(path, "user.note", b); err == nil {
				out[rel] += " note " + string(b[:n])
			}
		}
		return nil
	}))
	return out
}

// listed gives the lines of `stepfs snapshots` without what only index and
// journal knew.
func listed(t *testing.T, store string) map[string]string {
	t.Helper()
	out, err := root.Must("snapshots", store, "--json", "--revisions")
	must(t, err)
	all := map[string]string{}
	for line := range strings.Lines(out) {
		var m map[string]any
		must(t, json.Unmarshal([]byte(line), &m))
		id := fmt.Sprint(m["scope"], "/", m["id"])
		for _, k := range []string{"new", "new_bytes", "inode", "needs"} {
			delete(m, k)
		}
		b, err := json.Marshal(m)
		must(t, err)
		all[id] = string(b)
	}
	return all
}

// repaired runs `stepfs check --repair`.
func repaired(t *testing.T, store string, code int, flags ...string) string {
	t.Helper()
	res, err := root.Stepfs(append([]string{"check", "--repair", store}, flags...)...)
	must(t, err)
	noPanic(t, res.Both())
	if res.Code != code {
		t.Fatalf("check --repair %v: exit code %d, want %d\n%s", flags, res.Code, code, res.Both())
	}
	return res.Both()
}

// isWhole mounts the store and holds every step against what it was.
func (s *stepped) isWhole(t *testing.T) {
	t.Helper()
	must(t, s.Start())
	for _, name := range s.names {
		dir := filepath.Join(s.Mnt, "snapshots", name)
		got, err := harness.ReadTree(dir)
		must(t, err)
		if diff := s.want[name].Diff(got); diff != "" {
			t.Errorf("step %s:\n%s", name, diff)
		}
		meta := metadata(t, dir)
		for path, want := range s.meta[name] {
			if meta[path] != want {
				t.Errorf("step %s: %s is\n%s, was\n%s", name, path, meta[path], want)
			}
		}
	}
}

// goesOn uses a repaired store: what is new is stored and found, what was there is
// not stored again, and what is removed goes.
func (s *stepped) goesOn(t *testing.T) {
	t.Helper()
	before := packBytes(t, s.Store)
	must(t, os.Mkdir(s.Mnt+"/again", 0o755))
	shell(t, "cp", "-a", s.Mnt+"/snapshots/first/.", s.Mnt+"/again/")
	must(t, os.WriteFile(s.Mnt+"/again/new", []byte("new"), 0o644))
	snap := snapshotNow(t, s.Daemon, "again")
	_, err := root.Must("drain", s.Mnt)
	must(t, err)
	same(t, snap+"/again", s.Mnt+"/again")
	if grew := packBytes(t, s.Store) - before; grew > 1<<20 {
		t.Errorf("a copy of what is stored took %d bytes", grew)
	}
	wantClean(t, "in use", s.Mnt, "--read-data")
	for _, name := range []string{"first", "second", "again"} {
		_, err := root.Must("forget", s.Mnt, name)
		must(t, err)
	}
	must(t, os.RemoveAll(s.Mnt+"/again"))
	_, err = root.Must("prune", "--wait", s.Mnt)
	must(t, err)
	wantClean(t, "after a prune", s.Mnt, "--read-data")
	for _, name := range []string{"third", "last", "runs/a/inner"} {
		got, err := harness.ReadTree(filepath.Join(s.Mnt, "snapshots", name))
		must(t, err)
		if diff := s.want[name].Diff(got); diff != "" {
			t.Errorf("step %s after a prune:\n%s", name, diff)
		}
	}
	must(t, s.Stop())
}

// files lists the files of a store with their sizes.
func files(t *testing.T, store string) string {
	t.Helper()
	lines := strings.Split(shell(t, "find", store, "-type", "f", "-printf", "%P %s\n"), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func packBytes(t *testing.T, store string) (n int64) {
	t.Helper()
	packs, err := filepath.Glob(store + "/packs/*.pack")
	must(t, err)
	for _, p := range packs {
		st, err := os.Stat(p)
		must(t, err)
		n += st.Size()
	}
	return n
}

// TestRepairWithoutNamespace: with index/ and journal/ gone, every step that was
// sealed and stored is back, to the byte, with all that was known of it.
func TestRepairWithoutNamespace(t *testing.T) {
	s := history(t)
	list := listed(t, s.Store)
	must(t, os.RemoveAll(s.Store+"/index"))
	must(t, os.RemoveAll(s.Store+"/journal"))
	res, err := root.Stepfs("snapshots", s.Store)
	must(t, err)
	refused(t, res, exitError, `gone.*stepfs check --repair`)
	before := files(t, s.Store)
	said := repaired(t, s.Store, exitError, "--dry-run")
	if !strings.Contains(said, "namespace-rebuilt") || !strings.Contains(said, "first") {
		t.Errorf("a dry run says:\n%s", said)
	}
	if after := files(t, s.Store); after != before {
		t.Errorf("a dry run changed\n%s\nto\n%s", before, after)
	}
	said = repaired(t, s.Store, 0)
	t.Log(said)
	wantClean(t, "after the repair", s.Store, "--read-data")
	for id, line := range listed(t, s.Store) {
		if list[id] != line {
			t.Errorf("%s is listed as\n%s, was\n%s", id, line, list[id])
		}
		delete(list, id)
	}
	for id := range list {
		t.Errorf("%s is not back", id)
	}
	s.isWhole(t)
	live, err := harness.ReadTree(s.Mnt, "snapshots")
	must(t, err)
	if diff := s.want["5"].Diff(live); diff != "" {
		t.Errorf("the live tree is not the newest complete step:\n%s", diff)
	}
	s.goesOn(t)
	if said := repaired(t, s.Store, 0); !strings.Contains(said, "nothing to repair") {
		t.Errorf("a second repair says:\n%s", said)
	}
}
