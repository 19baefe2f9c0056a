package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"stepfs/internal/storedir"
)

// fill makes one of each thing that a restore must bring back.
func fill(t *testing.T, dir string) {
	t.Helper()
	big := make([]byte, 18<<20)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(big) // never fails
	must(t, os.MkdirAll(dir+"/checkpoint-7/empty", 0o755))
	must(t, os.WriteFile(dir+"/checkpoint-7/model.bin", big, 0o640))
	must(t, os.WriteFile(dir+"/checkpoint-7/zero", nil, 0o400))
	must(t, os.WriteFile(dir+"/checkpoint-7/a:b\n\xff", []byte("odd name"), 0o644))
	must(t, os.Link(dir+"/checkpoint-7/model.bin", dir+"/hard"))
	must(t, os.Symlink("model.bin", dir+"/checkpoint-7/latest"))
	must(t, os.Symlink("/etc/passwd", dir+"/abs"))
	must(t, unix.Mkfifo(dir+"/pipe", 0o600))
	f, err := os.Create(dir + "/sparse")
	must(t, err)
	_, err = f.WriteAt([]byte("island"), 9<<20)
	must(t, err)
	must(t, f.Truncate(20<<20))
	must(t, f.Close())
	must(t, unix.Setxattr(dir+"/sparse", "user.note", []byte("v\x00w"), 0))
	must(t, unix.Setxattr(dir+"/checkpoint-7", "user.dir", []byte("d"), 0))
	past := []unix.Timespec{{Sec: 1e9, Nsec: 123456789}, {Sec: 1e9 + 1, Nsec: 987654321}}
	for _, name := range []string{"/checkpoint-7/model.bin", "/sparse", "/checkpoint-7/latest", "/checkpoint-7/empty"} {
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, dir+name, past, unix.AT_SYMLINK_NOFOLLOW))
	}
	must(t, os.Chmod(dir+"/checkpoint-7/empty", 0o2511))
	if os.Geteuid() == 0 {
		must(t, os.Lchown(dir+"/checkpoint-7/zero", 12, 34))
	}
}

// describe is everything about a tree that a restore keeps.
func describe(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	names := map[uint64]string{}
	must(t, filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		must(t, unix.Lstat(p, &st))
		rel, err := filepath.Rel(dir, p)
		must(t, err)
		fmt.Fprintf(&b, "%q %o %d:%d", rel, st.Mode, st.Uid, st.Gid)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(p)
			must(t, err)
			if first, again := names[st.Ino]; again {
				fmt.Fprintf(&b, " = %s", first)
			} else if st.Nlink > 1 {
				names[st.Ino] = rel
			}
			fmt.Fprintf(&b, " %d bytes, hash %d", st.Size, hash(data))
		case unix.S_IFLNK:
			to, err := os.Readlink(p)
			must(t, err)
			fmt.Fprintf(&b, " -> %s", to)
		}
		if rel != "." {
			fmt.Fprintf(&b, " %d", st.Mtim.Nano())
		}
		for _, name := range []string{"user.note", "user.dir"} {
			v := make([]byte, 64)
			if n, err := unix.Lgetxattr(p, name, v); err == nil {
				fmt.Fprintf(&b, " %s=%q", name, v[:n])
			}
		}
		b.WriteByte('\n')
		return nil
	}))
	return b.String()
}

func hash(b []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

// Through a mount and out of a store without one, whole and resumed.
func TestRestore(t *testing.T) {
	store, point, _ := mountInBackground(t)
	fill(t, point)
	want := describe(t, point)
	if got := stepfs(t, "snapshot", point, "one"); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	if got := stepfs(t, "drain", point); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	must(t, os.RemoveAll(point+"/checkpoint-7")) // no matter to a snapshot
	for _, mounted := range []bool{true, false} {
		name := "mounted"
		if !mounted {
			name = "not mounted"
			if got := stepfs(t, "umount", point); got.code != 0 {
				t.Fatalf("%+v", got)
			}
		}
		t.Run(name, func(t *testing.T) { restoreAll(t, store, want) })
		t.Run(name+", a part", func(t *testing.T) { restorePart(t, store) })
	}
}

func restoreAll(t *testing.T, store, want string) {
	out := t.TempDir() + "/new/out"
	s := restoreJSON(t, exitDone, store, "one", out)
	if s.Files != 4 || s.Skipped != 0 || s.Failed != 0 {
		t.Errorf("first: %+v", s)
	}
	if got := describe(t, out); got != want {
		t.Errorf("restored:\n%s\nwas:\n%s", got, want)
	}
	var st unix.Stat_t
	must(t, unix.Stat(out+"/sparse", &st))
	if st.Blocks*512 > 1<<20 {
		t.Errorf("the sparse file takes %d bytes", st.Blocks*512)
	}
	if s := restoreJSON(t, exitDone, store, "one", out); s.Files != 0 {
		t.Errorf("again: %+v", s)
	}
	// What an interrupted run, or somebody, left wrong.
	must(t, os.Truncate(out+"/sparse", 5))
	must(t, os.Remove(out+"/checkpoint-7/latest"))
	must(t, os.Remove(out+"/hard"))
	must(t, os.WriteFile(out+"/"+tempName(".stepfs-restore-", "sparse"), []byte("half"), 0o600))
	must(t, os.WriteFile(out+"/other", []byte("mine"), 0o600))
	if s := restoreJSON(t, exitDone, store, "one", out); s.Files != 1 {
		t.Errorf("resumed: %+v", s)
	}
	must(t, os.Remove(out+"/other")) // was left alone, else this fails
	if got := describe(t, out); got != want {
		t.Errorf("resumed:\n%s\nwas:\n%s", got, want)
	}
}

func restorePart(t *testing.T, store string) {
	out := t.TempDir()
	restoreJSON(t, exitDone, store, "one:checkpoint-7/empty/..", out+"/dir")
	if _, err := os.Stat(out + "/dir/model.bin"); err != nil {
		t.Error(err)
	}
	restoreJSON(t, exitDone, store, "one:checkpoint-7/model.bin", out+"/file")
	restoreJSON(t, exitDone, store, "one:checkpoint-7/model.bin", out)
	a, err := os.ReadFile(out + "/file")
	must(t, err)
	b, err := os.ReadFile(out + "/model.bin")
	must(t, err)
	if len(a) != 18<<20 || !bytes.Equal(a, b) {
		t.Errorf("%d and %d bytes", len(a), len(b))
	}
	// One thing in the way is not the end of the others.
	must(t, os.MkdirAll(out+"/way/hard/x", 0o755))
	if s := restoreJSON(t, exitPartly, store, "one", out+"/way"); s.Failed == 0 {
		t.Errorf("%+v", s)
	}
	if _, err := os.Stat(out + "/way/sparse"); err != nil {
		t.Error(err)
	}
	for args, says := range map[string]string{
		"two " + out:                    "no snapshot two",
		"one:no/such " + out:            "no no/such",
		"one:../one " + out:             "not a path inside",
		"one " + store + "/in":          "inside the store",
		"one@99 " + out:                 "no snapshot one@99",
		"one " + out + "/file/x":        "not a directory",
		"--scope=nowhere one " + out:    "no snapshot one in scope nowhere",
		"nowhere/one " + out + "/never": "in scope nowhere",
	} {
		got := stepfs(t, append([]string{"restore", store}, strings.Fields(args)...)...)
		if got.code != exitError || !strings.Contains(got.stderr, says) {
			t.Errorf("%s: %+v", args, got)
		}
	}
}

func restoreJSON(t *testing.T, code int, args ...string) (s restoreSummary) {
	t.Helper()
	got := stepfs(t, append([]string{"restore", "--json"}, args...)...)
	if got.code != code {
		t.Fatalf("restore %q: %+v", args, got)
	}
	lines := strings.Split(strings.TrimSpace(got.stdout), "\n")
	must(t, json.Unmarshal([]byte(lines[len(lines)-1]), &s))
	return s
}

// A symbolic link in the target leads nowhere outside of it.
func TestRestoreStaysInTarget(t *testing.T) {
	src, out, outside := t.TempDir(), t.TempDir(), t.TempDir()
	must(t, os.MkdirAll(src+"/d", 0o755))
	must(t, os.WriteFile(src+"/d/f", []byte("x"), 0o644))
	must(t, os.Symlink(outside, out+"/d"))
	r, errs := restoreFrom(t, &dirSource{src}, out)
	if r.failed.Load() == 0 || !strings.Contains(errs, "in the way") {
		t.Errorf("failed %d: %s", r.failed.Load(), errs)
	}
	if left, _ := os.ReadDir(outside); len(left) > 0 {
		t.Errorf("written outside: %v", left)
	}
}

// Damage in one file: that file is missing, the others are there, and the
// command says so.
func TestRestoreDamage(t *testing.T) {
	src, out := t.TempDir(), t.TempDir()
	for _, name := range []string{"a", "bad", "c"} {
		must(t, os.WriteFile(src+"/"+name, bytes.Repeat([]byte(name), 1<<20), 0o644))
	}
	r, errs := restoreFrom(t, damaged{&dirSource{src}}, out)
	if r.failed.Load() != 1 || r.files.Load() != 2 || !strings.Contains(errs, "bad: reading at 0: damaged") {
		t.Errorf("%d failed, %d restored: %s", r.failed.Load(), r.files.Load(), errs)
	}
	left, err := os.ReadDir(out)
	must(t, err)
	if len(left) != 2 {
		t.Errorf("left: %v", left)
	}
}

type damaged struct{ *dirSource }

func (d damaged) Open(n node) (content, error) {
	c, err := d.dirSource.Open(n)
	if err == nil && n.path == "bad" {
		return damagedContent{c}, nil
	}
	return c, err
}

type damagedContent struct{ content }

func (damagedContent) ReadAt([]byte, int64) (int, error) { return 0, errors.New("damaged") }

func TestRestoreInterrupted(t *testing.T) {
	src, out := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(src+"/a", make([]byte, 1<<20), 0o644))
	ctx, cancel := context.WithCancel(context.Background())
	dir, err := os.OpenRoot(out)
	must(t, err)
	defer dir.Close()
	s := stopping{&dirSource{src}, cancel}
	top, err := s.Stat(".")
	must(t, err)
	err = newRestorer(s, dirSink{dir}, restoreOptions{workers: 2, errs: io.Discard}).run(ctx, top, ".")
	if exitCode(err) != exitInterrupted {
		t.Errorf("got %v", err)
	}
	if left, _ := os.ReadDir(out); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// stopping is interrupted when the first file is opened.
type stopping struct {
	*dirSource
	cancel context.CancelFunc
}

func (s stopping) Open(n node) (content, error) {
	s.cancel()
	return s.dirSource.Open(n)
}

func restoreFrom(t *testing.T, src source, out string) (*restorer, string) {
	t.Helper()
	dir, err := os.OpenRoot(out)
	must(t, err)
	defer dir.Close()
	var errs bytes.Buffer
	r := newRestorer(src, dirSink{dir}, restoreOptions{workers: 3, errs: &errs, out: io.Discard})
	top, err := src.Stat(".")
	must(t, err)
	must(t, r.run(context.Background(), top, "."))
	return r, errs.String()
}

// A restore that was cut off goes on where it was; but once the machine has gone down,
// which leaves a file its size and its time and takes bytes out of it, every file that
// was not synced is written anew.
func TestRestoreAfterPowerCut(t *testing.T) {
	store, point, _ := mountInBackground(t)
	fill(t, point)
	want := describe(t, point)
	if got := stepfs(t, "snapshot", point, "one"); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	to := t.TempDir()
	note := to + "/.stepfs-restore-unsynced"
	restore := func() {
		t.Helper()
		if got := stepfs(t, "restore", store, "one", to); got.code != 0 {
			t.Fatalf("%+v", got)
		}
		if _, err := os.Lstat(note); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("all is synced, and the note is there: %v", err)
		}
	}
	restore()
	torn := to + "/checkpoint-7/model.bin"
	for boot, again := range map[string]bool{storedir.BootID(): false, "another": true, "": true} {
		var st unix.Stat_t
		must(t, unix.Stat(torn, &st))
		must(t, os.WriteFile(torn, make([]byte, st.Size), 0))
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, torn, []unix.Timespec{st.Atim, st.Mtim}, 0))
		must(t, os.WriteFile(note, []byte(boot+"\none@1:."), 0o600))
		restore()
		if got := describe(t, to) == want; got != again {
			t.Errorf("a note of boot %q: written anew: %v", boot, got)
		}
		must(t, os.Remove(torn))
		restore()
		if got := describe(t, to); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	}
}

// An import copies one checkpoint after the other: that one is whole says nothing of
// another that was being copied when the machine went down.
func TestNotesOfSeveral(t *testing.T) {
	src, out := &dirSource{t.TempDir()}, t.TempDir()
	dir, err := os.OpenRoot(out)
	must(t, err)
	defer dir.Close()
	for _, name := range []string{"a", "b"} {
		must(t, os.WriteFile(src.root+"/"+name, []byte(name), 0o600))
		must(t, os.WriteFile(out+"/"+name, []byte{0}, 0o600))
		n, err := src.Stat(name)
		must(t, err)
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, out+"/"+name, n.times(), 0))
	}
	must(t, os.WriteFile(out+"/"+notePath("b"), []byte("another\n"), 0o600))
	for _, name := range []string{"a", "b"} {
		top, err := src.Stat(name)
		must(t, err)
		must(t, newRestorer(src, dirSink{dir}, restoreOptions{workers: 1, out: io.Discard, errs: io.Discard}).run(t.Context(), top, name))
	}
	if b, err := os.ReadFile(out + "/b"); err != nil || string(b) != "b" {
		t.Errorf("%q, %v", b, err)
	}
}

// What was cut off may be a restore of something else: its note is heeded, also by who
// restores one file to the directory, and stays, but for one of this boot: what is synced
// then is all.
func TestRestoreBesideTorn(t *testing.T) {
	src, out := &dirSource{t.TempDir()}, t.TempDir()
	must(t, os.WriteFile(src.root+"/a", []byte("whole"), 0o600))
	note := out + "/.stepfs-restore-unsynced"
	for _, name := range []string{".", "a"} {
		for boot, stays := range map[string]bool{storedir.BootID(): name != ".", "another": true} {
			must(t, os.WriteFile(note, []byte(boot+"\nsomething else"), 0o600))
			must(t, os.WriteFile(out+"/a", []byte("\x00\x00\x00\x00\x00"), 0o600))
			n, err := src.Stat("a")
			must(t, err)
			must(t, unix.UtimesNanoAt(unix.AT_FDCWD, out+"/a", n.times(), 0))
			dir, err := os.OpenRoot(out)
			must(t, err)
			top, err := src.Stat(name)
			must(t, err)
			must(t, newRestorer(src, dirSink{dir}, restoreOptions{workers: 1, out: io.Discard, errs: io.Discard}).run(t.Context(), top, name))
			must(t, dir.Close())
			b, err := os.ReadFile(out + "/a")
			must(t, err)
			if _, err := os.Lstat(note); (err == nil) != stays || (string(b) == "whole") != (boot == "another") {
				t.Errorf("%s beside a note of %q: %q, and the note: %v", name, boot, b, err)
			}
			if left, _ := filepath.Glob(out + "/.stepfs-restore-unsynced-*"); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		}
	}
}

// The note is there, and durable, before the first file is; and stays when a restore is
// cut off after one.
func TestRestoreNote(t *testing.T) {
	store, point, _ := mountInBackground(t)
	fill(t, point)
	if got := stepfs(t, "snapshot", point, "one"); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	from, err := openRestore(t.Context(), store, "one", &restoreOptions{})
	must(t, err)
	defer from.close()
	top, err := from.src.Stat(".")
	must(t, err)
	dir, err := os.OpenRoot(t.TempDir())
	must(t, err)
	defer dir.Close()
	cut := &cutOff{sink: dirSink{dir}}
	r := newRestorer(from.src, cut, restoreOptions{workers: 1, out: io.Discard, errs: io.Discard})
	if err := r.run(t.Context(), top, "."); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	text, err := dir.ReadFile(".stepfs-restore-unsynced")
	if want := "create note, sync note, sync dir, create file"; err != nil || string(text) != storedir.BootID()+"\n" || !strings.HasPrefix(strings.Join(cut.log, ", "), want) {
		t.Errorf("%q, %v, after %v", text, err, cut.log)
	}
}

// cutOff is a target that takes one file, and notes what was tried.
type cutOff struct {
	sink
	mu    sync.Mutex
	log   []string
	files int
}

func (c *cutOff) say(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log = append(c.log, what)
}

func (c *cutOff) Create(path string) (sinkFile, error) {
	what := "note"
	if path != ".stepfs-restore-unsynced" {
		if what, c.files = "file", c.files+1; c.files > 1 { // one worker makes them
			return nil, context.Canceled
		}
	}
	c.say("create " + what)
	f, err := c.sink.Create(path)
	return &cutOffFile{f, c, what}, err
}

func (c *cutOff) Open(path string) (sinkFile, error) {
	f, err := c.sink.Open(path)
	return &cutOffFile{f, c, "dir"}, err
}

type cutOffFile struct {
	sinkFile
	of   *cutOff
	what string
}

func (f *cutOffFile) Sync() error {
	f.of.say("sync " + f.what)
	return f.sinkFile.Sync()
}
