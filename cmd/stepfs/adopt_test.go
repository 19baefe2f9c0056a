package main

import (
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stepfs/chunkstore/bucket"
	stepfsfs "stepfs/fs"
	"stepfs/fs/stage"
	"stepfs/internal/storedir"
)

// ours is the step of a publishedStep, when others have one of that name.
const ours = "0100000000000000/one"

// newPlace is where a new store and its mount go.
func newPlace(t *testing.T) (store, point string) {
	t.Helper()
	at, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	must(t, os.Mkdir(at+"/mnt", 0o755))
	return at + "/store", at + "/mnt"
}

// adoptedKilled: the daemon is killed in the middle of adopting, and again while it
// waits for the bucket to go on. Nobody is shown what that leaves, nor is it sealed,
// and the next one comes to the end.
func (p *publishedStep) adoptedKilled(t *testing.T) {
	store, point := newPlace(t)
	start := func() *exec.Cmd {
		cmd := exec.Command("/proc/self/exe", "mount", "--remote=dir:"+p.at, "--adopt=one", "--seal-quiet=50ms", store, point)
		cmd.Env = append(os.Environ(), mainEnv+"=1")
		must(t, cmd.Start())
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			for stepfsfs.Unmount(point, true) == nil {
			}
		})
		return cmd
	}
	killed := func(cmd *exec.Cmd) {
		must(t, cmd.Process.Kill())
		_ = cmd.Wait() // it ended as it was told to
		for what, args := range map[string][]string{"mount": {"mount", "-d", store, point}, "snapshot": {"snapshot", store, "half"}} {
			if got := stepfs(t, args...); got.code == 0 || !strings.Contains(got.stderr, "--adopt") {
				t.Errorf("%s of half a step: %+v", what, got)
			}
		}
		if got := stepfs(t, "snapshots", "--json", store); got.code != 0 || got.stdout != "" {
			t.Errorf("half a step was sealed: %+v", got)
		}
	}
	cmd := start()
	soon(t, "that files have come", func() bool { return stagedFiles(store) > 0 })
	killed(cmd)

	publish(t, p.store, p.at, bucket.Writer{3}) // there is another of that name now
	for at, says := range map[string]string{store: "go on with --adopt one@1", t.TempDir() + "/new": "0300000000000000 (one@1 of"} {
		name := map[bool]string{true: "0300000000000000/one", false: "one"}[at == store]
		if got := stepfs(t, "mount", "-d", "--remote=dir:"+p.at, "--adopt="+name, at, point); got.code == 0 || !strings.Contains(got.stderr, says) {
			t.Errorf("%s is somebody else's too: %+v", name, got)
		}
	}
	pack := filepath.Join(p.at, p.refs[0].Packs[0].Key())
	must(t, os.Rename(pack, pack+".away"))
	must(t, unix.Mkfifo(pack, 0o600)) // who opens it waits
	cmd = start()
	time.Sleep(time.Second) // many times as long as it would be quiet
	killed(cmd)
	must(t, os.Rename(pack+".away", pack))

	mountAgain(t, store, point, "--adopt="+ours, "--seal-quiet=50ms")
	if got := describe(t, point); got != p.want {
		t.Errorf("got\n%s\nwant\n%s", got, p.want)
	}
	soon(t, "what is whole is sealed", func() bool { _, err := os.Lstat(point + "/snapshots/7"); return err == nil })
	p.adoptedLater(t, store, point)
}

// stagedFiles counts those of a store.
func stagedFiles(store string) (n int) {
	_ = filepath.WalkDir(filepath.Join(store, storedir.StagingDir), func(_ string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			n++
		}
		return nil // the store may not be there yet
	})
	return n
}

// adoptedLater: what was whole when adopting ended early is not fetched again, and
// all of it is once the machine has gone down, which leaves a file its size and its
// time, and takes bytes out of it. The store is one that has adopted the step.
func (p *publishedStep) adoptedLater(t *testing.T, store, point string) {
	for _, wentDown := range []bool{false, true} {
		if got := stepfs(t, "umount", point); got.code != 0 {
			t.Fatalf("%+v", got)
		}
		torn := tear(t, store, wentDown)
		mountAgain(t, store, point, "--adopt="+ours)
		b, err := os.ReadFile(point + torn)
		must(t, err)
		if again := strings.Trim(string(b), "\x00") != ""; again != wentDown {
			t.Errorf("the machine went down: %v; %s was fetched again: %v", wentDown, torn, again)
		}
	}
	if got := describe(t, point); got != p.want {
		t.Errorf("got\n%s\nwant\n%s", got, p.want)
	}
}

// tear takes the bytes out of a file that was adopted, and has the store be one
// that did not come to the end of adopting, in this boot or another.
func tear(t *testing.T, store string, wentDown bool) (path string) {
	t.Helper()
	s, err := openLocal(store, storedir.Options{Command: "test"})
	must(t, err)
	l := s.(*local)
	defer func() { must(t, l.Close()) }()
	settings := maps.Clone(l.dir.Config().Settings)
	settings[adoptingSetting] = "one@1"
	settings[adoptingWriterSetting], _ = splitWriter(ours)
	must(t, l.dir.SaveSettings(settings))
	boot := storedir.BootID()
	if wentDown {
		boot = "another"
	}
	path, a := someFile(t, l.parts.tree, stage.RootIno, "")
	fh, err := l.parts.tree.Open(a.Ino, unix.O_RDWR, stage.Cred{})
	must(t, err)
	w := &treeFile{l, l.parts.tree, path, a.Ino, fh}
	_, err = w.WriteAt(make([]byte, a.Size), 0)
	must(t, err)
	_, err = l.parts.tree.SetAttr(a.Ino, stage.SetAttr{Mtime: &a.Mtime})
	must(t, err)
	must(t, w.Close())
	to, err := newTreeSink(l, "")
	must(t, err)
	must(t, (&restorer{to: to}).writeNote(notePath("."), boot))
	return path
}

// someFile gives a file that is not empty.
func someFile(t *testing.T, tree *stage.Tree, dir uint64, at string) (path string, a stage.Attr) {
	t.Helper()
	names, err := tree.ReadDir(dir, "", 2000)
	must(t, err)
	for _, e := range names {
		a, err := tree.Lookup(dir, e.Name)
		must(t, err)
		switch path := at + "/" + e.Name; {
		case e.Type == stage.ModeDir:
			if path, a := someFile(t, tree, e.Ino, path); path != "" {
				return path, a
			}
		case e.Type == stage.ModeReg && a.Size > 0:
			return path, a
		}
	}
	return "", stage.Attr{}
}
