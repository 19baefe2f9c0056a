package snapshot_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stepfs/fs/stage"
	"stepfs/snapshot"
	"stepfs/snapshot/include"
)

// outside is a directory of files that are included.
type outside struct {
	*world
	dir string
}

// newOutside opens a world whose steps include what paths name below a new
// directory, which fill fills first.
func newOutside(t *testing.T, files map[string]string, paths ...string) *outside {
	t.Helper()
	return newOutsideWith(t, include.Config{}, nil, files, paths...)
}

func newOutsideWith(t *testing.T, cfg include.Config, conf func(*snapshot.Config), files map[string]string, paths ...string) *outside {
	t.Helper()
	o := &outside{dir: t.TempDir()}
	for name, data := range files {
		write(t, filepath.Join(o.dir, name), data)
	}
	for k, p := range paths {
		paths[k] = filepath.Join(o.dir, p)
	}
	cfg.Fresh = 50 * time.Millisecond
	cfg.Paths, cfg.Scratch = paths, filepath.Join(o.dir, "scratch")
	o.world = newWorld(t, func(c *snapshot.Config) {
		set, err := include.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		c.Include = set
		if conf != nil {
			conf(c)
		}
	})
	return o
}

// write writes a file of long ago, so that its next change is told by its times.
func write(t *testing.T, path, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), 0o640); err != nil {
		t.Fatal(err)
	}
	time.Sleep(60 * time.Millisecond)
}

// in is where a step has a file.
func (o *outside) in(scope, name string) string {
	return strings.TrimPrefix(scope+"/.stepfs/included"+o.dir+"/"+name, "/")
}

// manifest reads that of a snapshot.
func (o *outside) manifest(seq uint64, scope string) map[string]include.Row {
	o.t.Helper()
	text, ok := o.read(seq, strings.TrimPrefix(scope+"/.stepfs/included.json", "/"))
	if !ok {
		o.t.Fatal("no manifest")
	}
	var m include.Manifest
	if err := json.Unmarshal([]byte(text), &m); err != nil || m.Version != 1 {
		o.t.Fatalf("%v: %s", err, text)
	}
	rows := map[string]include.Row{}
	for _, r := range m.Files {
		rows[strings.TrimPrefix(r.Source, o.dir+"/")] = r
	}
	return rows
}

// hidden checks that the live tree shows nothing of it.
func (o *outside) hidden(dirs ...string) {
	o.t.Helper()
	for _, d := range dirs {
		if a, err := o.tree.Find(strings.TrimPrefix(d+"/.stepfs", "/")); err == nil {
			o.t.Errorf("the live tree shows %q as inode %d", d+"/.stepfs", a.Ino)
		}
	}
}

func (o *outside) attr(seq uint64, path string) stage.Attr {
	o.t.Helper()
	a, err := lookup(o.tree.At(seq), path)
	o.ok(err)
	return a
}

// TestInclude: each step has the files as they were when it was sealed, and only
// the steps do; what did not change is the same inode, written once.
func TestInclude(t *testing.T) {
	o := newOutside(t, map[string]string{"conf.yaml": "one", "data/a": "aa", "data/sub/b": "bb", "x1": "x"}, "conf.yaml", "data", "x*")
	if err := os.Symlink("a", o.dir+"/data/link"); err != nil {
		t.Fatal(err)
	}
	before := o.barrier()
	o.put("model", "m1")
	s1 := o.step("1").Seq
	o.hidden("")
	for name, data := range map[string]string{"conf.yaml": "one", "data/a": "aa", "data/sub/b": "bb", "x1": "x"} {
		o.want(s1, o.in("", name), data)
	}
	a := o.attr(s1, o.in("", "conf.yaml"))
	fi, err := os.Stat(o.dir + "/conf.yaml")
	o.ok(err)
	if a.Mode != stage.ModeReg|0o640 || a.Mtime != fi.ModTime().UnixNano() {
		t.Errorf("mode %o, mtime %d", a.Mode, a.Mtime)
	}
	l := o.attr(s1, o.in("", "data/link"))
	if to, err := o.tree.At(s1).Readlink(l.Ino); err != nil || to != "a" {
		t.Errorf("link to %q, %v", to, err)
	}
	m := o.manifest(s1, "")
	if r := m["conf.yaml"]; len(m) != 5 || r.How != include.HowCopy || r.Size != 3 || !r.Mtime.Equal(fi.ModTime()) || m["data/link"].How != include.HowLink {
		t.Errorf("manifest: %+v", m)
	}

	write(t, o.dir+"/conf.yaml", "two!")
	o.ok(os.Remove(o.dir + "/data/a"))
	write(t, o.dir+"/x2", "new")
	o.put("model", "m2")
	s2 := o.step("2").Seq
	o.want(s1, o.in("", "conf.yaml"), "one")
	o.want(s1, o.in("", "data/a"), "aa")
	o.want(s2, o.in("", "conf.yaml"), "two!")
	o.want(s2, o.in("", "x2"), "new")
	o.wantAbsent(s2, o.in("", "data/a"))
	o.wantAbsent(before, ".stepfs/included.json")
	for _, name := range []string{"data/sub/b", "x1"} {
		if x, y := o.attr(s1, o.in("", name)), o.attr(s2, o.in("", name)); x.Ino != y.Ino {
			t.Errorf("%s did not change, and was copied again", name)
		}
	}
	o.barrier(o.put("later", "l"))
	o.hidden("")
	o.drain()
	for _, i := range []uint64{s1, s2} {
		if info, err := o.m.Get(i); err != nil || info.State != snapshot.StateStored {
			t.Errorf("snapshot %d: %v, %v", i, info.State, err)
		}
	}
	o.noFaults()
}

// TestIncludeUnchanged: a seal before which nothing changed outside brings no
// content to be stored.
func TestIncludeUnchanged(t *testing.T) {
	o := newOutside(t, map[string]string{"big": noise(1, 300<<10)}, "big")
	o.step("1")
	o.drain()
	first := o.attr(o.step("2").Seq, o.in("", "big"))
	o.drain()
	if i := o.step("3"); o.attr(i.Seq, o.in("", "big")).Ino != first.Ino {
		t.Error("it was copied again")
	}
	o.ok(o.tree.Pending(func(f *stage.Frozen) bool {
		t.Errorf("inode %d has content that waits to be stored", f.Ino())
		return true
	}))
	o.noFaults()
}

// TestIncludeMissing: what is not there when a step is sealed is recorded and
// reported, once, and the step is sealed. It comes back.
func TestIncludeMissing(t *testing.T) {
	o := newOutside(t, map[string]string{"a": "a", "b": "b"}, "a", "b")
	o.ok(os.Remove(o.dir + "/a"))
	for _, name := range []string{"1", "2"} {
		seq := o.step(name).Seq
		o.want(seq, o.in("", "b"), "b")
		o.wantAbsent(seq, o.in("", "a"))
		if r := o.manifest(seq, "")["a"]; !strings.Contains(r.Error, "no such file") || r.How != "" {
			t.Errorf("manifest: %+v", r)
		}
	}
	o.mu.Lock()
	if len(o.faults) != 1 || !strings.Contains(o.faults[0], o.dir+"/a") {
		t.Errorf("faults: %q", o.faults)
	}
	o.faults = nil
	o.mu.Unlock()
	write(t, o.dir+"/a", "again")
	seq := o.step("3").Seq
	o.want(seq, o.in("", "a"), "again")
	if r := o.manifest(seq, "")["a"]; r.Error != "" {
		t.Errorf("manifest: %+v", r)
	}
	o.noFaults()
}

// TestIncludeScopes: a step of a scope has them in its own directory, and no
// other one does.
func TestIncludeScopes(t *testing.T) {
	o := newOutside(t, map[string]string{"c": "c1"}, "c")
	o.put("runA/w", "a")
	o.put("runB/w", "b")
	seal := func(scope, name string) uint64 {
		i, err := o.m.Snapshot(o.ctx(), scope, name, "command", nil)
		o.ok(err)
		return i.Seq
	}
	a := seal("runA", "1")
	b := seal("runB", "1")
	write(t, o.dir+"/c", "c2")
	a2 := seal("runA", "2")
	o.hidden("", "runA", "runB")
	for seq, want := range map[uint64][3]string{a: {"runA", "c1", "runB"}, b: {"runB", "c1", "runA"}, a2: {"runA", "c2", "runB"}} {
		o.want(seq, o.in(want[0], "c"), want[1])
		o.wantAbsent(seq, o.in(want[2], "c"))
		o.wantAbsent(seq, o.in("", "c"))
		up, err := o.tree.At(seq).Parent(o.attr(seq, want[0]+"/.stepfs").Ino)
		if err != nil || up != o.attr(seq, want[0]).Ino {
			t.Errorf("snapshot %d: .. of .stepfs is %d, %v", seq, up, err)
		}
	}
	o.noFaults()
}

// TestIncludeKill: a kill right after a seal leaves the step whole and the live
// tree clean, and so does a power cut.
func TestIncludeKill(t *testing.T) {
	for _, crash := range []func(*world){(*world).kill, (*world).powerCut} {
		o := newOutside(t, map[string]string{"c": "c1", "d/e": "e"}, "c", "d")
		o.put("w", "1")
		s1 := o.step("1").Seq
		crash(o.world)
		o.hidden("")
		o.want(s1, o.in("", "c"), "c1")
		write(t, o.dir+"/c", "c2")
		s2 := o.step("2").Seq
		crash(o.world)
		o.hidden("")
		o.want(s1, o.in("", "c"), "c1")
		o.want(s2, o.in("", "c"), "c2")
		o.want(s2, o.in("", "d/e"), "e")
		o.restart()
		o.hidden("")
		o.drain()
		o.noFaults()
	}
}

// TestIncludeRollback does not bring what was included into the live tree.
func TestIncludeRollback(t *testing.T) {
	o := newOutside(t, map[string]string{"c": "c1"}, "c")
	o.put("w", "1")
	o.step("1")
	o.put("w", "2")
	s2 := o.step("2").Seq
	_, err := o.m.Rollback(o.ctx(), "", "1")
	o.ok(err)
	o.hidden("")
	if a, err := o.tree.Find("w"); err != nil || string(readAll(t, o.tree.Now(), a)) != "1" {
		t.Errorf("rolled back to %v, %v", a, err)
	}
	o.want(s2, o.in("", "c"), "c1")
	o.noFaults()
}

// TestIncludeOwnDirectory: a job that has a directory .stepfs itself (it copied
// a step) keeps it, in the live tree and in steps; what is included goes over
// it there. It has a file of that name: nothing is included, and the step says so.
func TestIncludeOwnDirectory(t *testing.T) {
	o := newOutside(t, map[string]string{"c": "new"}, "c")
	o.put(".stepfs/mine", "mine")
	stale := o.in("", "stale")
	o.put(stale, "stale")
	seq := o.step("1").Seq
	o.want(seq, ".stepfs/mine", "mine")
	o.want(seq, o.in("", "c"), "new")
	o.wantAbsent(seq, stale)
	for path, want := range map[string]string{".stepfs/mine": "mine", stale: "stale"} {
		if a, err := o.tree.Find(path); err != nil || string(readAll(t, o.tree.Now(), a)) != want {
			t.Errorf("live %s: %v", path, err)
		}
	}
	if _, err := o.tree.Find(".stepfs/included.json"); err == nil {
		t.Error("the live tree shows the manifest")
	}
	later := o.barrier(o.put("w", "w"))
	o.want(later, stale, "stale")
	_, err := o.m.Rollback(o.ctx(), "", "1")
	o.ok(err)
	o.want(o.barrier(), ".stepfs/mine", "mine")
	o.noFaults()

	o.remove(".stepfs")
	o.put(".stepfs", "a file")
	i := o.step("2")
	o.want(i.Seq, ".stepfs", "a file")
	if len(i.Marks) != 1 || !strings.Contains(i.Marks[0], "no included files") {
		t.Errorf("marks: %q", i.Marks)
	}
}

// TestIncludeDiff: what differs between two steps is found in what they include,
// too.
func TestIncludeDiff(t *testing.T) {
	o := newOutside(t, map[string]string{"c": "c1", "d": "d"}, "c", "d")
	plain := o.barrier(o.put("w", "1"))
	s1 := o.step("1").Seq
	write(t, o.dir+"/c", "c2 now")
	s2 := o.step("2").Seq
	same := o.step("3").Seq
	for _, c := range []struct {
		a, b uint64
		want int
	}{{plain, s1, 3}, {s1, s2, 2}, {s2, same, 0}} {
		d, err := o.tree.Diff(o.ctx(), c.a, stage.RootIno, c.b, stage.RootIno)
		o.ok(err)
		var got []string
		for _, c := range d.Changes {
			if c.NewMode&stage.ModeType == stage.ModeReg {
				got = append(got, c.Path())
			}
		}
		if len(got) != c.want {
			t.Errorf("%d to %d: %q", c.a, c.b, got)
		}
	}
}

// TestIncludeChanging: a file that somebody goes on writing is taken; once they
// rest it is taken again, whole.
func TestIncludeChanging(t *testing.T) {
	o := newOutside(t, map[string]string{"log": noise(1, 16<<20)}, "log")
	f, err := os.OpenFile(o.dir+"/log", os.O_WRONLY|os.O_APPEND, 0)
	o.ok(err)
	_, err = f.WriteString("first")
	o.ok(err)
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				stopped <- f.Close()
				return
			default: // without rest: each try has to meet a change
				if _, err := f.WriteString("more"); err != nil {
					stopped <- err
					return
				}
			}
		}
	}()
	until(t, "it is being written", func() bool {
		fi, err := os.Stat(o.dir + "/log")
		return err == nil && fi.Size() > 16<<20+1000
	})
	s1 := o.step("1").Seq
	close(stop)
	o.ok(<-stopped)
	if r := o.manifest(s1, "")["log"]; r.Error != "" || r.Size < 16<<20 { // whether a change was met is up to the scheduler
		t.Errorf("manifest: %+v", r)
	}
	s2 := o.step("2").Seq
	fi, err := os.Stat(o.dir + "/log")
	o.ok(err)
	if r := o.manifest(s2, "")["log"]; r.Note != "" || r.Size != fi.Size() || o.attr(s2, o.in("", "log")).Size != fi.Size() {
		t.Errorf("manifest: %+v, the file has %d bytes", r, fi.Size())
	}
	o.noFaults()
}

// TestIncludeBounds: what is too much is left out, and said, and a pipe holds
// nothing up.
func TestIncludeBounds(t *testing.T) {
	o := newOutsideWith(t, include.Config{MaxFiles: 5, MaxBytes: 10}, nil,
		map[string]string{"d/a": "123456", "d/b": "12345", "d/c": "1", "d/x": "x", "d/y": "y"}, "d")
	o.ok(unix.Mkfifo(o.dir+"/d/pipe", 0o600))
	seq := o.step("1").Seq
	m := o.manifest(seq, "")
	for name, want := range map[string]string{"d/a": "", "d/b": "too large", "d/c": "", "d/pipe": "neither a file", "d/x": "", "d/y": ""} {
		if r := m[name]; want == "" && r.How != include.HowCopy || !strings.Contains(r.Error, want) {
			t.Errorf("%s: %+v", name, r)
		}
	}
	write(t, o.dir+"/d/0", "0")
	write(t, o.dir+"/d/00", "0")
	seq = o.step("2").Seq
	if r := o.manifest(seq, "")["d/pipe"]; !strings.Contains(r.Error, "more than 5") {
		t.Errorf("%+v", r)
	}
	o.wantAbsent(seq, o.in("", "d/x"))
	o.wantAbsent(seq, o.in("", "d/y"))
	o.want(seq, o.in("", "d/c"), "1")

	f, err := os.OpenFile(o.dir+"/d/a", os.O_WRONLY|os.O_APPEND, 0)
	o.ok(err)
	_, err = f.WriteString("too large by now")
	o.ok(errors.Join(err, f.Close()))
	seq = o.step("3").Seq
	o.wantAbsent(seq, o.in("", "d/a"))
	d, err := os.Stat(o.dir + "/d")
	o.ok(err)
	if a := o.attr(seq, o.in("", "d")); a.Mtime != d.ModTime().UnixNano() {
		t.Error("the directory has another mtime")
	}
}

// TestIncludeBecomes: what was a file becomes a directory, and a link, and a file.
func TestIncludeBecomes(t *testing.T) {
	o := newOutside(t, map[string]string{"d/x": "file", "d/y/z": "z"}, "d")
	o.want(o.step("1").Seq, o.in("", "d/x"), "file")
	o.ok(os.Remove(o.dir + "/d/x"))
	o.ok(os.RemoveAll(o.dir + "/d/y"))
	write(t, o.dir+"/d/x/in", "in")
	write(t, o.dir+"/d/y", "y")
	s2 := o.step("2").Seq
	o.want(s2, o.in("", "d/x/in"), "in")
	o.want(s2, o.in("", "d/y"), "y")
	o.ok(os.RemoveAll(o.dir + "/d/x"))
	o.ok(os.Symlink("y", o.dir+"/d/x"))
	s3 := o.step("3").Seq
	if a := o.attr(s3, o.in("", "d/x")); a.Mode&stage.ModeType != stage.ModeLink {
		t.Errorf("mode %o", a.Mode)
	}
	d, err := os.Stat(o.dir + "/d")
	o.ok(err)
	if a := o.attr(s3, o.in("", "d")); a.Mtime != d.ModTime().UnixNano() {
		t.Error("the directory has another mtime")
	}
	o.noFaults()
}

// TestIncludeWithoutSQLite: a database is never copied plainly.
func TestIncludeWithoutSQLite(t *testing.T) {
	o := newOutsideWith(t, include.Config{SQLite: "no-such-sqlite3"}, nil,
		map[string]string{"db": "SQLite format 3\x00 and so on", "db-wal": "its log", "plain": "p"}, "db", "db-wal", "plain")
	seq := o.step("1").Seq
	for name, want := range map[string]string{"db": "install sqlite3", "db-wal": "backup of that", "plain": ""} {
		r := o.manifest(seq, "")[name]
		if !strings.Contains(r.Error, want) || (want == "") != (r.How != "") {
			t.Errorf("%s: %+v", name, r)
		}
		if want != "" {
			o.wantAbsent(seq, o.in("", name))
		}
	}
}

// TestIncludeSteps: steps that are sealed by themselves have them, while many
// are sealed at the same time and files change.
func TestIncludeSteps(t *testing.T) {
	o := newOutside(t, map[string]string{"c": "c", "d/a": "a"}, "c", "d")
	var wg sync.WaitGroup
	seqs := make([][]uint64, 4)
	for k := range seqs {
		scope := "run" + string(rune('A'+k))
		o.put(scope+"/w", "w")
		wg.Go(func() {
			for n := range 8 {
				if err := os.WriteFile(fmt.Sprintf("%s/d/%d-%d", o.dir, k, n), nil, 0o600); err != nil {
					t.Error(err)
				}
				i, err := o.m.Snapshot(o.ctx(), scope, fmt.Sprint(n), "command", nil)
				if err != nil {
					t.Error(err)
					return
				}
				seqs[k] = append(seqs[k], i.Seq)
			}
		})
	}
	wg.Wait()
	for k := range seqs {
		scope := "run" + string(rune('A'+k))
		o.hidden("", scope)
		for n, seq := range seqs[k] {
			o.want(seq, o.in(scope, "c"), "c")
			o.want(seq, o.in(scope, fmt.Sprintf("d/%d-%d", k, n)), "")
			if r := o.manifest(seq, scope)["d/a"]; r.How != include.HowCopy {
				t.Errorf("%s %d: %+v", scope, n, r)
			}
		}
	}
	o.drain()
	o.noFaults()
}

// TestIncludeForgotten: what only a forgotten step has of them comes back, and
// what another has, or the next will, does not.
func TestIncludeForgotten(t *testing.T) {
	o := newOutsideWith(t, include.Config{}, keeping(&hands{}, unpacked),
		map[string]string{"c": noise(1, 200<<10), "d": noise(2, 300<<10)}, "c", "d")
	one := o.step("1")
	write(t, o.dir+"/c", "small")
	two := o.step("2")
	o.drain()
	o.still()
	o.wantFrees(one, 200<<10)
	three := o.step("3")
	o.forget("2")
	o.still()
	o.gone(two.Seq)
	o.want(three.Seq, o.in("", "c"), "small")
	o.want(three.Seq, o.in("", "d"), noise(2, 300<<10))
	o.ok(os.Remove(o.dir + "/d"))
	o.step("4")
	o.drain()
	o.wantFrees(three, 300<<10)
}

// TestIncludeVerify: what a step includes is verified with it.
func TestIncludeVerify(t *testing.T) {
	o := newOutside(t, map[string]string{"c": noise(1, 100<<10)}, "c")
	o.put("checkpoint-5/model.bin", noise(2, 100<<10))
	i, err := o.m.Snapshot(o.ctx(), "", "5", "test", nil)
	o.ok(err)
	o.drain()
	i, err = o.m.Verify(o.ctx(), i.Seq, nil)
	o.ok(err)
	if i.Verified == nil || !i.Verified.OK() || i.Verified.Bytes < 200<<10 {
		t.Errorf("%+v", i.Verified)
	}
}

// TestIncludeCopiedBack: a checkpoint that was included, and copied into the live
// tree with a step, is not taken for one of the job's.
func TestIncludeCopiedBack(t *testing.T) {
	o := newOutside(t, map[string]string{"c": "c"}, "c")
	o.put(".stepfs/included/data/checkpoint-7/model.safetensors", "m")
	e, err := o.m.Explain("/.stepfs/included/data/checkpoint-7")
	if err == nil && e.Step != "" {
		t.Errorf("%+v", e)
	}
}

// TestIncludeGoneMeanwhile: a job removes a checkpoint while what is included,
// which takes long, is still being copied. The step is sealed without that.
func TestIncludeGoneMeanwhile(t *testing.T) {
	dir := t.TempDir()
	slow := filepath.Join(dir, "slow-sqlite3")
	if err := os.WriteFile(slow, []byte("#!/bin/sh\ntouch "+dir+"/copying\nwhile [ ! -e "+dir+"/go ]; do sleep 0.01; done\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	o := newOutsideWith(t, include.Config{SQLite: slow},
		func(c *snapshot.Config) { c.SealQuiet, c.SealGrace = never, 10*time.Second }, map[string]string{"conf": "c"}, "conf", "*.db")
	write(t, o.dir+"/x.db", "SQLite format 3\x00 and so on")
	o.play(`checkpoint-7/ checkpoint-7/config.json=~{} checkpoint-7/trainer_state.json=~{"global_step":7}`)
	until(t, "the copy is under way", func() bool { _, err := os.Stat(dir + "/copying"); return err == nil })
	until(t, "the step is cut", func() bool { return o.m.Sealing() })
	o.play("-checkpoint-7/trainer_state.json -checkpoint-7/config.json -checkpoint-7")
	write(t, dir+"/go", "")
	i := o.sealedAs("", "7", 1)
	o.want(i.Seq, "checkpoint-7/config.json", "{}")
	o.wantAbsent(i.Seq, ".stepfs/included.json")
	if !strings.Contains(strings.Join(i.Marks, "\n"), "no included files: the job went on") {
		t.Errorf("marks: %q", i.Marks)
	}
}
