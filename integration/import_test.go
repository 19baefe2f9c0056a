package integration

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stepfs/integration/harness"
)

// everything describes all that an import has to keep of a directory, path by
// path. What names the same file is told by the first of its names.
func everything(t *testing.T, dir string) harness.Tree {
	t.Helper()
	tree, first := harness.Tree{}, map[uint64]string{}
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		must(t, unix.Lstat(path, &st))
		name, err := filepath.Rel(dir, path)
		must(t, err)
		if _, ok := first[st.Ino]; !ok {
			first[st.Ino] = name
		}
		about := fmt.Sprintf("%o %d:%d mtime %d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		if name == "." { // the mountpoint of some
			tree[name] = about
			return nil
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			to, err := os.Readlink(path)
			must(t, err)
			about += " to " + to
		case unix.S_IFREG:
			f, err := os.Open(path)
			must(t, err)
			h := sha256.New()
			_, err = io.Copy(h, f)
			must(t, errors.Join(err, f.Close()))
			about += fmt.Sprintf(" atime %d.%09d nlink %d is %s size %d hole %v %x", st.Atim.Sec, st.Atim.Nsec, st.Nlink, first[st.Ino],
				st.Size, st.Blocks*512 < st.Size, h.Sum(nil))
		case unix.S_IFCHR, unix.S_IFBLK:
			about += fmt.Sprintf(" rdev %d", st.Rdev)
		}
		list := make([]byte, 4096)
		n, err := unix.Llistxattr(path, list)
		must(t, err)
		names := strings.Split(strings.TrimRight(string(list[:n]), "\x00"), "\x00")
		slices.Sort(names)
		for _, x := range names {
			if value := make([]byte, 4096); x != "" {
				n, err := unix.Lgetxattr(path, x, value)
				must(t, err)
				about += fmt.Sprintf(" %s=%q", x, value[:n])
			}
		}
		tree[name] = about
		return nil
	}))
	return tree
}

// allKinds makes a directory with one of each that an import has to keep.
func allKinds(t *testing.T) (dir string) {
	t.Helper()
	dir = tempDir(t) + "/all kinds"
	rnd := rand.New(rand.NewSource(1))
	start := time.Now().Truncate(time.Hour).Add(-100 * time.Hour)
	write := func(name string, n int) string {
		path := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		data := make([]byte, n)
		rnd.Read(data)
		must(t, os.WriteFile(path, data, 0o640))
		return path
	}
	for k, step := range []string{"300", "100", "200"} {
		at := "run/checkpoint-" + step
		write(at+"/model.bin", 40<<20*k+5)
		write(at+"/global_step1/mp_rank_00_model_states.pt", 100) // a step's name in a step
		must(t, os.WriteFile(dir+"/"+at+"/trainer_state.json", []byte(`{"global_step": `+step+`}`), 0o600))
		must(t, os.Symlink("model.bin", dir+"/"+at+"/link"))
		when := start.Add(time.Duration(k)*time.Hour + 123456789)
		must(t, filepath.WalkDir(dir+"/"+at, func(p string, e fs.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				err = os.Chtimes(p, when, when)
			}
			return err
		}))
	}
	must(t, os.Link(dir+"/run/checkpoint-300/model.bin", dir+"/run/checkpoint-300/again.bin"))
	must(t, os.Link(dir+"/run/checkpoint-300/model.bin", dir+"/run/checkpoint-200/shared.bin"))
	must(t, os.Link(dir+"/run/checkpoint-300/model.bin", dir+"/zz-best.bin"))
	write("other/step_5.pt", 70000)
	write("empty", 0)
	must(t, os.Mkdir(dir+"/nothing in it", 0o700))
	must(t, os.Chmod(write("bin/tool", 10), 0o6755))
	must(t, os.Chmod(dir+"/bin", 0o1777))
	must(t, os.Chown(write("owned", 10), 1234, 5678))
	must(t, os.Symlink("nowhere", dir+"/dangling"))
	must(t, os.Lchown(dir+"/dangling", 12, 34))
	write("readonly/file", 10)
	must(t, os.Chmod(dir+"/readonly", 0o500))
	must(t, unix.Mkfifo(dir+"/fifo", 0o622))
	must(t, unix.Mknod(dir+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, unix.Mknod(dir+"/socket", unix.S_IFSOCK|0o755, 0))
	write("\xff\n'name", 10)
	for name, size := range map[string]int64{"sparse": 64 << 20, "run/checkpoint-200/sparse.bin": 32 << 20} {
		f, err := os.Create(filepath.Join(dir, name))
		must(t, err)
		_, err = f.WriteAt(bytes.Repeat([]byte("data"), 1<<18), 8<<20)
		must(t, errors.Join(err, f.Truncate(size), f.Close()))
	}
	must(t, unix.Setxattr(dir+"/owned", "user.note", []byte("a\x00b"), 0))
	must(t, unix.Setxattr(dir+"/owned", "user.empty", nil, 0))
	must(t, unix.Setxattr(dir+"/run/checkpoint-100", "user.dir", []byte("of a step"), 0))
	must(t, unix.Setxattr(dir+"/run", "trusted.t", []byte("root's"), 0))
	// Access times ahead of everything: reading does not change them.
	later := unix.NsecToTimespec(time.Now().Add(time.Hour).UnixNano())
	must(t, filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			err = unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{later, {Nsec: unix.UTIME_OMIT}}, 0)
		}
		return err
	}))
	must(t, os.Chtimes(dir+"/run", start, start))
	must(t, os.Chmod(dir, 0o751))
	return dir
}

// sealedSteps is what an import made, without what differs from one store to
// the next.
func sealedSteps(t *testing.T, store string) (steps []string) {
	t.Helper()
	lines, err := root.JSONLines("snapshots", "--json", "--revisions", store)
	must(t, err)
	for _, l := range lines {
		steps = append(steps, fmt.Sprint(l["scope"], " ", l["step"], " ", l["revision"], " ", l["verdict"], " ", l["reason"], " ", l["rule"], " ",
			l["findings"], l["marks"], l["logical_bytes"], l["state"]))
	}
	return steps
}

// TestImportBothWays: an import into a store that nobody has mounted keeps what
// the one through a mount keeps, and makes the same steps of it.
func TestImportBothWays(t *testing.T) {
	dir := allKinds(t)
	want := everything(t, dir)
	through := mount(t)
	plain := prepare(t)
	for _, store := range []string{through.Mnt, plain.Store} {
		for round := range 2 {
			lines, err := root.JSONLines("import", "--json", store, dir)
			must(t, err)
			if n := lines[len(lines)-1]["files"].(float64); round == 1 && n != 0 {
				t.Errorf("a second import of %s wrote %v files", store, n)
			}
		}
	}
	_, err := root.Must("check", plain.Store)
	must(t, err)
	must(t, plain.Start())
	for _, d := range []*harness.Daemon{through, plain} {
		_, err := root.Must("drain", d.Mnt)
		must(t, err)
		if diff := want.Diff(everything(t, d.Mnt)); diff != "" {
			t.Errorf("live, in %s:\n%s", d.Store, diff)
		}
	}
	a, b := sealedSteps(t, through.Mnt), sealedSteps(t, plain.Mnt)
	if len(a) != 4 || !slices.Equal(a, b) {
		t.Errorf("steps through a mount and without:\n%s\n\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"))
	}
	for _, scope := range []string{"run", "other"} {
		x, y := everything(t, through.Mnt+"/snapshots/"+scope), everything(t, plain.Mnt+"/snapshots/"+scope)
		dropTimes(x, y)
		if diff := x.Diff(y); diff != "" || len(x) < 3 {
			t.Errorf("snapshots of %s, through a mount and without:\n%s", scope, diff)
		}
	}
	if text, err := os.ReadFile(plain.Mnt + "/snapshots/run/300/checkpoint-300/trainer_state.json"); err != nil || string(text) != `{"global_step": 300}` {
		t.Errorf("%q, %v", text, err)
	}
}

// dropTimes takes out what tells when a step was sealed: the times of what is
// no file.
func dropTimes(trees ...harness.Tree) {
	for _, tree := range trees {
		for name, about := range tree {
			if !strings.Contains(about, " hole ") && strings.Count(name, "/") < 1 {
				tree[name], _, _ = strings.Cut(about, " mtime")
			}
		}
	}
}

// slowCheckpoints makes checkpoints whose copying takes a while, and whose
// commit file is copied first.
func slowCheckpoints(t *testing.T, n, files, size int) (dir string) {
	t.Helper()
	dir = tempDir(t) + "/old"
	rnd := rand.New(rand.NewSource(2))
	data := make([]byte, size)
	for k := 1; k <= n; k++ {
		at := fmt.Sprintf("%s/run/checkpoint-%d", dir, 100*k)
		must(t, os.MkdirAll(at, 0o755))
		must(t, os.WriteFile(at+"/trainer_state.json", fmt.Appendf(nil, `{"global_step": %d}`, 100*k), 0o644))
		for f := range files {
			rnd.Read(data)
			must(t, os.WriteFile(fmt.Sprintf("%s/weights-%02d", at, f), data, 0o644))
		}
		when := time.Now().Add(time.Duration(k-100) * time.Hour)
		must(t, filepath.WalkDir(at, func(p string, e fs.DirEntry, err error) error {
			return errors.Join(err, os.Chtimes(p, when, when))
		}))
	}
	return dir
}

// running is a command that was started, and prints JSON Lines.
type running struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
	errs  bytes.Buffer
}

func begin(t *testing.T, args ...string) *running {
	t.Helper()
	r := &running{cmd: exec.Command(root.Bin, args...)}
	out, err := r.cmd.StdoutPipe()
	must(t, err)
	r.cmd.Stderr = &r.errs
	must(t, r.cmd.Start())
	r.lines = bufio.NewScanner(out)
	return r
}

// end waits, reading on, and gives the exit code.
func (r *running) end() (code int, lines []map[string]any) {
	for r.lines.Scan() {
		var l map[string]any
		if json.Unmarshal(r.lines.Bytes(), &l) == nil {
			lines = append(lines, l)
		}
	}
	r.cmd.Wait()
	return r.cmd.ProcessState.ExitCode(), lines
}

// TestImportInterrupted ends an import in the middle, again and again: what is
// a step by then is whole, what is half is none, also for the sealing engine of
// the next mount, and the same command goes on.
func TestImportInterrupted(t *testing.T) {
	const steps, rounds, files = 6, 3, 10 // enough are left that it has not ended by itself
	dir := slowCheckpoints(t, steps, files, 2<<20)
	want, err := harness.ReadTree(dir)
	must(t, err)
	for _, mounted := range []bool{false, true} {
		for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
			t.Run(fmt.Sprintf("mounted=%v,%v", mounted, sig), func(t *testing.T) {
				d := prepare(t, "--seal-quiet", "300ms")
				store := d.Store
				if mounted {
					must(t, d.Start())
					store = d.Mnt
				}
				half := 0
				for k := range rounds { // the k+1st step is sealed, the next one is under way
					r := begin(t, "import", "--json", store, dir)
					for n := 0; n <= k && r.lines.Scan(); n++ {
					}
					time.Sleep(time.Duration(10+15*k) * time.Millisecond)
					must(t, r.cmd.Process.Signal(sig))
					code, _ := r.end()
					if sig == syscall.SIGINT && (code != 130 || !strings.Contains(r.errs.String(), "goes on")) {
						t.Fatalf("exit code %d: %s", code, r.errs.String())
					}
					if !mounted {
						must(t, d.Start())
					}
					half += checkHalf(t, d, want, k+1)
					if !mounted {
						must(t, d.Stop())
					}
				}
				lines, err := root.JSONLines("import", "--json", store, dir)
				must(t, err)
				total := lines[len(lines)-1]
				if total["files"].(float64)+total["skipped"].(float64) != float64(steps*(files+1)) || half == 0 || int(total["skipped"].(float64)) < half {
					t.Errorf("%d files were there of steps that were not whole; the last import says %v", half, total)
				}
				if !mounted {
					must(t, d.Start())
				}
				got, err := harness.ReadTree(d.Mnt)
				must(t, err)
				if diff := want.Diff(got); diff != "" {
					t.Errorf("in the end:\n%s", diff)
				}
				if all := sealedSteps(t, d.Mnt); len(all) != steps {
					t.Errorf("steps, and revisions: %q", all)
				}
				checkHalf(t, d, want, steps)
			})
		}
	}
}

// checkHalf looks at a store whose import was ended: at least so many steps are
// sealed, and all that are there are whole. It gives how many files there are of
// what is none yet.
func checkHalf(t *testing.T, d *harness.Daemon, want harness.Tree, least int) (half int) {
	t.Helper()
	time.Sleep(700 * time.Millisecond) // quiet for long enough to be sealed as it is
	steps, err := filepath.Glob(d.Mnt + "/snapshots/run/[0-9]*")
	must(t, err)
	if len(steps) < least {
		t.Errorf("%d steps, want %d at least: %q", len(steps), least, steps)
	}
	for _, s := range steps {
		name := "checkpoint-" + filepath.Base(s)
		got, err := harness.ReadTree(s + "/" + name)
		must(t, err)
		part := harness.Tree{}
		for path, is := range want {
			if below, ok := strings.CutPrefix(path, "run/"+name+"/"); ok {
				part[below] = is
			}
		}
		if diff := part.Diff(got); diff != "" {
			t.Errorf("step %s:\n%s", filepath.Base(s), diff)
		}
	}
	live, err := filepath.Glob(d.Mnt + "/run/checkpoint-*")
	must(t, err)
	if len(live) > len(steps) {
		t.Errorf("%q have names of steps, sealed are %q", live, steps)
	}
	if all := sealedSteps(t, d.Mnt); len(all) != len(steps) {
		t.Errorf("revisions: %q", all)
	}
	aside, err := filepath.Glob(d.Mnt + "/run/.stepfs-import-*/[a-z]*")
	must(t, err)
	return len(aside)
}

// TestAssessInterrupted: it ends where it is, with nothing said in sum.
func TestAssessInterrupted(t *testing.T) {
	dir := slowCheckpoints(t, 1, 1, 64<<20)
	for k := range 600 { // names of one file, which is read for each
		name := dir + "/run/checkpoint-100/weights-" + strings.Repeat("x", k%200) + string(rune('a'+k/200))
		must(t, os.Link(dir+"/run/checkpoint-100/weights-00", name))
	}
	for _, sample := range []string{"100%", "30%"} {
		r := begin(t, "assess", "--json", "--sample", sample, dir)
		time.Sleep(300 * time.Millisecond)
		must(t, r.cmd.Process.Signal(syscall.SIGINT))
		if code, lines := r.end(); code != 130 || len(lines) != 0 {
			t.Errorf("exit code %d, %v: %s", code, lines, r.errs.String())
		}
	}
}

// TestImportFull: an import into a store that gets full says at which step, and
// goes on once there is room; the steps before are whole.
func TestImportFull(t *testing.T) {
	const steps, files = 5, 8
	dir := slowCheckpoints(t, steps, files, 10<<20)
	want, err := harness.ReadTree(dir)
	must(t, err)
	for _, mounted := range []bool{false, true} {
		d := prepare(t, "--store-limit", "320M", "--save-settings", "--seal-quiet", "300ms")
		must(t, d.Start())
		store := d.Mnt
		if !mounted {
			must(t, d.Stop())
			store = d.Store
		}
		res, err := root.Stepfs("import", store, dir)
		must(t, err)
		if res.Code != 1 || !strings.Contains(res.Stderr, "importing run/checkpoint-") || !strings.Contains(res.Stderr, "the store is full") {
			t.Fatalf("mounted=%v: %+v", mounted, res)
		}
		sealed := strings.Count(res.Stdout, "sealed as")
		if sealed == 0 || sealed == steps {
			t.Fatalf("mounted=%v: this proves nothing: %+v", mounted, res)
		}
		if !mounted {
			must(t, d.Start())
		}
		checkHalf(t, d, want, sealed)
		must(t, d.Stop())
		d.Args = []string{"--store-limit", "2G", "--save-settings"}
		must(t, d.Start())
		if !mounted {
			must(t, d.Stop())
		}
		_, err = root.Must("import", store, dir)
		must(t, err)
		if !mounted {
			must(t, d.Start())
		}
		checkHalf(t, d, want, steps)
		got, err := harness.ReadTree(d.Mnt)
		must(t, err)
		if diff := want.Diff(got); diff != "" {
			t.Errorf("mounted=%v:\n%s", mounted, diff)
		}
		must(t, d.Stop())
	}
}

// TestImportTwice: two imports into one store do not meet.
func TestImportTwice(t *testing.T) {
	dir := slowCheckpoints(t, 3, 10, 2<<20)
	d := prepare(t)
	for _, store := range []string{d.Store, d.Mnt} {
		if store == d.Mnt {
			must(t, d.Start())
		}
		r := begin(t, "import", "--json", "--scope", filepath.Base(store), store, dir)
		if !r.lines.Scan() {
			t.Fatal(r.errs.String())
		}
		res, err := root.Stepfs("import", store, dir)
		must(t, err)
		if res.Code != 11 || !strings.Contains(res.Stderr, "import") {
			t.Errorf("a second import: %+v", res)
		}
		if code, lines := r.end(); code != 0 || len(lines) != 3 {
			t.Errorf("the first one: %d, %v, %s", code, lines, r.errs.String())
		}
	}
}

// TestImportRefused: what can't be meant changes nothing, and says why.
func TestImportRefused(t *testing.T) {
	d := prepare(t)
	at := filepath.Dir(d.Store)
	dir := at + "/old"
	must(t, os.MkdirAll(dir+"/checkpoint-1", 0o755))
	must(t, os.WriteFile(dir+"/checkpoint-1/w", []byte("w"), 0o644))
	must(t, os.WriteFile(at+"/a file", nil, 0o644))
	must(t, os.MkdirAll(at+"/foreign/x", 0o755))
	must(t, os.MkdirAll(at+"/with/snapshots", 0o755))
	must(t, os.Symlink(at, at+"/link"))
	refuse := func(code int, text string, args ...string) {
		t.Helper()
		res, err := root.Stepfs(append([]string{"import"}, args...)...)
		must(t, err)
		if res.Code != code || !strings.Contains(res.Stderr, text) {
			t.Errorf("%q: %+v, want %d, %s", args, res, code, text)
		}
	}
	refuse(1, "no such file", d.Store, at+"/nothing")
	refuse(1, "not a directory", d.Store, at+"/a file")
	refuse(1, "is inside "+at, d.Store, at)
	refuse(1, "is inside "+at, d.Store, at+"/link")
	refuse(10, "--create", d.Mnt, dir) // where something may be mounted
	refuse(10, "not a stepfs store", at+"/foreign", dir)
	refuse(1, "parent", at+"/no/store", dir)
	if out, err := root.Must("import", "--dry-run", d.Store, dir); err != nil || out != "checkpoint-1 would be 1\n" {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := os.Lstat(d.Store); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("a store was made: %v", err)
	}
	_, err := root.Must("import", "--create", d.Store, dir)
	must(t, err)
	refuse(1, "the store itself", d.Store, d.Store)
	refuse(1, "inside the store", d.Store, d.Store+"/packs")
	refuse(1, "called snapshots", d.Store, at+"/with")
	refuse(1, "where the snapshots are", "--scope", "snapshots/x", d.Store, dir)
	refuse(1, "not a directory is in the way", "--scope", "checkpoint-1/w/x", d.Store, dir)
	must(t, d.Start())
	for _, store := range []string{d.Mnt, d.Store} {
		refuse(1, "the mountpoint itself", store, d.Mnt)
		refuse(1, "inside the mountpoint", store, d.Mnt+"/snapshots/1")
		refuse(1, "is inside "+at, store, at)
		refuse(1, "called snapshots", store, at+"/with")
		refuse(1, "where the snapshots are", "--scope", "snapshots/x", store, dir)
	}
	must(t, os.Mkdir(d.Mnt+"/mine", 0o755))
	must(t, os.Symlink(at, d.Mnt+"/out"))
	refuse(1, "escapes", "--scope", "out/new", d.Mnt, dir)
	must(t, d.Stop())
	d.Args = []string{"--read-only"}
	must(t, d.Start())
	must(t, os.WriteFile(dir+"/new", nil, 0o644))
	refuse(1, "mounted read-only", d.Mnt, dir)
}

// TestMountRecipe: the way out of a mountpoint that is not empty, followed to
// the letter, ends with a mount that shows what was there, as steps too.
func TestMountRecipe(t *testing.T) {
	for _, storeThere := range []bool{false, true} {
		d := prepare(t)
		at := filepath.Dir(d.Mnt)
		d.Mnt, d.Store = at+"/it's a run", at+"/the store"
		must(t, os.MkdirAll(d.Mnt+"/checkpoint-7", 0o755))
		must(t, os.WriteFile(d.Mnt+"/checkpoint-7/w", []byte("seven"), 0o600))
		must(t, os.Chmod(d.Mnt, 0o750))
		if storeThere {
			must(t, os.Mkdir(d.Store, 0o700))
		}
		everything(t, d.Mnt) // the first read sets access times, others do not
		want := everything(t, d.Mnt)
		res, err := root.Stepfs("mount", "-d", d.Store, d.Mnt)
		must(t, err)
		_, recipe, ok := strings.Cut(res.Stderr, "with:\n")
		if res.Code != 1 || !ok {
			t.Fatalf("%+v", res)
		}
		env := []string{"PATH=" + filepath.Dir(root.Bin) + ":" + os.Getenv("PATH")}
		res, err = harness.RunEnv(env, "sh", "-c", recipe)
		must(t, err)
		if res.Code != 0 {
			t.Fatalf("%s\n%+v", recipe, res)
		}
		if diff := want.Diff(everything(t, d.Mnt)); diff != "" {
			t.Errorf("mounted:\n%s", diff)
		}
		if diff := want.Diff(everything(t, d.Mnt+".before")); diff != "" {
			t.Errorf("the originals:\n%s", diff)
		}
		holds(t, d.Mnt+"/snapshots/7/checkpoint-7/w", []byte("seven"), "as a step")
		_, err = root.Must("umount", d.Mnt)
		must(t, err)
	}
}
