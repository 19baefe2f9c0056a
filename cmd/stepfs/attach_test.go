package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/dir"
	"stepfs/chunkstore/remote/fault"
	"stepfs/chunkstore/remote/limit"
	"stepfs/chunkstore/remote/location"
	"stepfs/chunkstore/remote/retry"
	stepfsfs "stepfs/fs"
	"stepfs/internal/schema"
)

// publishedStep is a store with a step "one", published in a directory as writer 1.
type publishedStep struct {
	store, at, want string // want is what the step has to look like
	refs            []*bucket.Ref
}

func publishStep(t *testing.T) *publishedStep {
	t.Helper()
	store, point, _ := mountInBackground(t)
	fill(t, point)
	must(t, os.Mkdir(point+"/many", 0o755))
	for k := range 1300 { // some pages
		must(t, os.WriteFile(fmt.Sprintf("%s/many/file-%04d", point, k), fmt.Appendf(nil, "%d", k), 0o644))
	}
	want := describe(t, point)
	for _, args := range [][]string{{"snapshot", point, "one"}, {"drain", point}, {"umount", point}} {
		if got := stepfs(t, args...); got.code != 0 {
			t.Fatalf("%v: %+v", args, got)
		}
	}
	at := t.TempDir()
	return &publishedStep{store, at, want, publish(t, store, at, bucket.Writer{1})}
}

// names lists a directory.
func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

// copied is a copy of a snapshot by cp -a.
func copied(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir() + "/copy"
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v %s", err, out)
	}
	return to
}

func TestAttach(t *testing.T) {
	p := publishStep(t)
	t.Run("copied", p.copied)
	t.Run("killed", p.killed)
	t.Run("faults", p.faults)
	t.Run("lies", p.lies)
	t.Run("strange names", p.strangeNames)
	t.Run("adopted", p.adopted)
	t.Run("adopted and killed", p.adoptedKilled)
}

// The bucket is enough: cp -a gives back what was there.
func (p *publishedStep) copied(t *testing.T) {
	at, want, refs := p.at, p.want, p.refs
	point, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	log := filepath.Join(t.TempDir(), "log")
	r := mountAgain(t, "dir:"+at, point, "--refresh=1s", "--log-file="+log)
	if r.Mountpoint != point || r.Snapshots != point+"/snapshots" {
		t.Errorf("%+v", r)
	}
	one := point + "/snapshots/one"
	if got := names(t, point) + ": " + names(t, point+"/snapshots"); got != "snapshots: latest one" {
		t.Error(got)
	}
	if got := describe(t, one); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	to := copied(t, one)
	if got := describe(t, to); got != want {
		t.Errorf("the copy: got\n%s\nwant\n%s", got, want)
	}
	var was, is, own unix.Stat_t
	must(t, unix.Stat(one+"/sparse", &was))
	must(t, unix.Stat(to+"/sparse", &is))
	must(t, unix.Stat(point+"/snapshots/latest/sparse", &own))
	if was.Blocks > 2<<20/512 || is.Blocks > 2<<20/512 || was.Ino != own.Ino {
		t.Errorf("holes: %d blocks, copied %d; by latest it is %d, else %d", was.Blocks, is.Blocks, own.Ino, was.Ino)
	}
	attachedReadOnly(t, one)
	attachedLookups(t, point)
	p.changes(t, point)

	lost := filepath.Join(at, refs[0].Packs[0].Key())
	must(t, os.Rename(lost, lost+".away"))
	if got := stepfs(t, "umount", point); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	mountAgain(t, "dir:"+at, point, "--log-file="+log)
	if _, err := os.ReadDir(one); !errors.Is(err, unix.EIO) {
		t.Errorf("without its pack: %v", err)
	}
	said, err := os.ReadFile(log)
	must(t, err)
	if !bytes.Contains(said, []byte(refs[0].Packs[0].Key())) {
		t.Errorf("the log does not say which: %s", said)
	}
	must(t, os.Rename(lost+".away", lost))
	if _, err := os.ReadDir(one); err != nil {
		t.Errorf("what is back: %v", err)
	}
}

func attachedReadOnly(t *testing.T, one string) {
	t.Helper()
	for what, err := range map[string]error{
		"write":  os.WriteFile(one+"/new", nil, 0o644),
		"trunc":  os.Truncate(one+"/hard", 0),
		"remove": os.Remove(one + "/hard"),
		"mkdir":  os.Mkdir(filepath.Dir(one)+"/two", 0o755),
		"chmod":  os.Chmod(one, 0o700),
		"xattr":  unix.Setxattr(one, "user.x", nil, 0),
	} {
		if !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func attachedLookups(t *testing.T, point string) {
	t.Helper()
	one := point + "/snapshots/one"
	for path, want := range map[string]string{one: "one", one + "/hard": ""} {
		v := make([]byte, 64)
		n, err := unix.Getxattr(path, "user.stepfs.step", v)
		if want == "" && !errors.Is(err, unix.ENODATA) || want != "" && string(v[:max(n, 0)]) != want {
			t.Errorf("%s is step %q: %v", path, v[:max(n, 0)], err)
		}
		if n, err = unix.Getxattr(path, "user.stepfs.state", v); err != nil || string(v[:n]) != "remote" {
			t.Errorf("%s: state %q: %v", path, v[:max(n, 0)], err)
		}
	}
	for _, missing := range []string{"/two", "/one/many/file-", "/one/many/zzz", "/one/many/file-0100x", "/one@2", "/one/many/file-0001/x", "/0100"} {
		if _, err := os.Lstat(point + "/snapshots" + missing); !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
			t.Errorf("%s: %v", missing, err)
		}
	}
	if got, err := os.ReadFile(one + "/many/file-0777"); err != nil || string(got) != "777" {
		t.Error(string(got), err)
	}
	if got, err := os.ReadFile(point + "/snapshots/0100000000000000/one/many/../many/file-1299"); err != nil || string(got) != "1299" {
		t.Error(string(got), err)
	}
	if got := stepfs(t, "snapshots", point); got.code == 0 || !strings.Contains(got.stderr, "it is the bucket") {
		t.Errorf("%+v", got)
	}
}

// changes: what is published appears, what is forgotten goes.
func (p *publishedStep) changes(t *testing.T, point string) {
	t.Helper()
	snapshots := point + "/snapshots"
	inside, err := os.Open(snapshots + "/one/checkpoint-7")
	must(t, err)
	defer inside.Close()
	publish(t, p.store, p.at, bucket.Writer{2})
	soon(t, "another writer", func() bool {
		return names(t, snapshots) == "0100000000000000 0200000000000000 latest"
	})
	if _, err := os.Lstat(snapshots + "/one"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("one of two: %v", err)
	}
	if got := names(t, snapshots+"/0200000000000000"); got != "latest one" {
		t.Error(got)
	}
	link, err := os.Readlink(snapshots + "/latest")
	if err != nil || !strings.HasPrefix(link, "0200000000000000/one@") || !strings.Contains(names(t, snapshots+"/latest"), "many") {
		t.Error(link, err)
	}
	two := snapshots + "/0200000000000000/one"
	open, err := os.Open(two + "/checkpoint-7/model.bin")
	must(t, err)
	defer open.Close()
	gone, err := os.Open(two + "/many")
	must(t, err)
	defer gone.Close()

	if got := stepfs(t, "remote", "forget", "--writer=0200000000000000", "dir:"+p.at, "one"); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	soon(t, "that it is gone", func() bool { return names(t, snapshots) == "latest one" })
	if _, err := os.Lstat(two + "/many"); !errors.Is(err, unix.ENOENT) {
		t.Errorf("in what is gone: %v", err)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(gone.Fd()), "file-0003", &st, 0); !errors.Is(err, unix.ESTALE) {
		t.Errorf("a directory of what is gone: %v", err)
	}
	if n, err := open.ReadAt(make([]byte, 1<<20), 4<<20); n != 1<<20 {
		t.Errorf("a file that is open: %d %v", n, err)
	}
	if err := unix.Fstatat(int(inside.Fd()), "model.bin", &st, 0); err != nil || st.Size != 18<<20 {
		t.Errorf("a directory of the other: %v", err)
	}
}

// A daemon that is killed leaves a mount that stepfs umount takes away, and that
// the next mount replaces.
func (p *publishedStep) killed(t *testing.T) {
	point, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	log := "--log-file=" + filepath.Join(t.TempDir(), "log")
	for _, again := range []bool{true, false} {
		r := mountAgain(t, "dir:"+p.at, point, log)
		must(t, unix.Kill(r.PID, unix.SIGKILL))
		soon(t, "its death", func() bool { return isDead(point) })
		if !again {
			break
		}
		r = mountAgain(t, "dir:"+p.at, point, log)
		if got := names(t, point+"/snapshots"); got != "latest one" {
			t.Error(got)
		}
		must(t, unix.Kill(r.PID, unix.SIGTERM))
		soon(t, "its end", func() bool { return unix.Kill(r.PID, 0) != nil })
	}
	if got := stepfs(t, "umount", point); got.code != 0 {
		t.Errorf("%+v", got)
	}
	all, err := mounts()
	must(t, err)
	if m, ok := mountAt(all, point); ok {
		t.Errorf("%+v is left", m)
	}
}

func TestAttachArguments(t *testing.T) {
	empty, full, point := t.TempDir(), t.TempDir(), t.TempDir()
	must(t, os.WriteFile(full+"/x", nil, 0o644))
	for args, says := range map[string]string{
		"dir:" + empty + " " + point:                     "it is empty",
		"dir:" + full + " " + point:                      "",
		"--remote=dir:/x dir:" + empty + " " + point:     "--remote: there is no store",
		"--refresh=1ms dir:" + empty + " " + point:       "less than a second",
		"s3://b?endpoint=http://127.0.0.1:1 " + point:    "127.0.0.1:1",
		"--store-limit=1G --no-seal dir:" + empty + " X": "--no-seal, --store-limit",
	} {
		got := stepfsEnv(t, []string{"AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=b", "AWS_REGION=r"}, append([]string{"mount"}, strings.Fields(args)...)...)
		if got.code == 0 || !strings.Contains(got.stderr, says) {
			t.Errorf("%s: %+v", args, got)
		}
	}
}

// attachWith mounts a bucket in this process, behind what rule says.
func attachWith(t *testing.T, at string, rule fault.Rule, o mountOptions) (*attachment, string) {
	t.Helper()
	inner, err := dir.Open(vfs.Default, at)
	must(t, err)
	var b remote.Bucket
	b, _, err = location.Wrap(fault.New(inner, rule), retry.Options{First: time.Millisecond, Most: 4 * time.Millisecond, Within: 20 * time.Millisecond, Budget: 1 << 20}, limit.Options{Requests: 32})
	must(t, err)
	cfg, err := bucket.Read(t.Context(), inner)
	must(t, err)
	point, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	o.refresh, o.snapDirName = time.Hour, "snapshots"
	a, err := startAttach(t.Context(), &o, b, cfg, "dir:"+at, point)
	must(t, err)
	t.Cleanup(func() {
		if err := a.close(); err != nil {
			t.Error(err)
		}
		for stepfsfs.Unmount(point, true) == nil {
			t.Error("it was still mounted")
		}
	})
	return a, point
}

// A server that loses requests and answers: what is read is right all the same.
func (p *publishedStep) faults(t *testing.T) {
	_, point := attachWith(t, p.at, fault.Sometimes(0.1, 7), mountOptions{})
	if got := describe(t, copied(t, point+"/snapshots/one")); got != p.want {
		t.Errorf("got\n%s\nwant\n%s", got, p.want)
	}
}

// A server that lies is found out: EIO, and the log says what; once it speaks the
// truth, so does the mount. One that hangs holds up nobody who is killed.
func (p *publishedStep) lies(t *testing.T) {
	var lies, hangs atomic.Bool
	var asked sync.Map // packs
	a, point := attachWith(t, p.at, func(verb, key string) fault.Fault {
		packs := strings.HasPrefix(key, bucket.PacksPrefix) && verb == "get"
		if packs {
			asked.Store(key, true)
		}
		switch {
		case packs && hangs.Load():
			return fault.Fault{Delay: time.Second}
		case packs && lies.Load():
			return fault.Fault{Damage: true}
		}
		return fault.Fault{}
	}, mountOptions{snapshotsOnly: true})
	if _, err := os.Stat(point + "/one"); err != nil {
		t.Fatal(err)
	}
	asked.Range(func(key, _ any) bool {
		if key != p.refs[0].Packs[0].Key() {
			t.Errorf("stat of a step asks for %s", key)
		}
		return true
	})
	if _, err := os.ReadDir(point + "/one/checkpoint-7"); err != nil {
		t.Fatal(err)
	}
	lies.Store(true)
	model := point + "/one/checkpoint-7/model.bin"
	if b, err := os.ReadFile(model); !errors.Is(err, unix.EIO) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	faults := strings.Join(a.faults.recent(), "\n")
	if !strings.Contains(faults, "model.bin in one@") || !strings.Contains(faults, "checksum") {
		t.Errorf("the log says %s", faults)
	}
	lies.Store(false)
	hangs.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second/4)
	defer cancel()
	if err := exec.CommandContext(ctx, "cat", model).Run(); err == nil || ctx.Err() == nil {
		t.Errorf("it has read what nobody gave: %v", err)
	}
	hangs.Store(false)
	if got := describe(t, point+"/one"); got != p.want {
		t.Errorf("got\n%s\nwant\n%s", got, p.want)
	}
}

// What nobody has made is not shown.
func (p *publishedStep) strangeNames(t *testing.T) {
	b, err := dir.Open(vfs.Default, p.at)
	must(t, err)
	rec, err := schema.DecodeSnapshot(p.refs[0].Record)
	must(t, err)
	for k, name := range []string{"..", "a/b", "", "two\x00", "run/../x", "latest", "fine"} {
		f := *p.refs[0]
		r := *rec
		r.Name = name
		if strings.HasPrefix(name, "run/") {
			r.Scope, r.Name = "run/..", "x"
		}
		f.Seq, f.Record = uint64(100+k), r.Encode()
		must(t, b.Put(t.Context(), f.Key(), remote.Bytes(f.Encode())))
	}
	_, point := attachWith(t, p.at, func(string, string) fault.Fault { return fault.Fault{} }, mountOptions{})
	if got := strings.Fields(names(t, point+"/snapshots")); !slices.Equal(got, []string{"fine", "latest", "one"}) {
		t.Error(got)
	}
}

// The live tree of a new store starts as a published step; one that is half of it
// is finished, and never shown.
func (p *publishedStep) adopted(t *testing.T) {
	at, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	store, point := at+"/store", at+"/mnt"
	must(t, os.Mkdir(point, 0o755))
	refused := func(says string, args ...string) {
		t.Helper()
		got := stepfs(t, append(append([]string{"mount", "-d"}, args...), store, point)...)
		if got.code == 0 || !strings.Contains(got.stderr, says) {
			t.Errorf("%v: %+v", args, got)
		}
	}
	refused("no snapshot two is published", "--remote=dir:"+p.at, "--adopt=two")
	packs := p.refs[0].Packs
	lost := filepath.Join(p.at, packs[len(packs)-1].Key())
	must(t, os.Rename(lost, lost+".away"))
	refused("could not be had", "--remote=dir:"+p.at, "--adopt=one")
	must(t, os.Rename(lost+".away", lost))
	refused("go on with --adopt one@1", "--remote=dir:"+p.at)
	refused("go on with --adopt one@1", "--remote=dir:"+p.at, "--adopt=on")
	end := func() {
		t.Helper()
		if got := stepfs(t, "umount", point); got.code != 0 {
			t.Fatalf("%+v", got)
		}
	}
	mountAgain(t, store, point, "--adopt=latest")
	if got := describe(t, point); got != p.want {
		t.Errorf("got\n%s\nwant\n%s", got, p.want)
	}
	var st unix.Stat_t
	must(t, unix.Stat(point+"/sparse", &st))
	if st.Blocks > 2<<20/512 {
		t.Errorf("holes: %d blocks", st.Blocks)
	}
	must(t, os.Remove(point+"/sparse"))
	end()
	mountAgain(t, store, point, "--adopt=one") // as a unit does each time
	if got := describe(t, point); got == p.want {
		t.Error("it was adopted again")
	}
}
