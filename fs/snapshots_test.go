package fs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"stepfs/fs/stage"
)

// seal takes a snapshot as the daemon does, by a name.
func (m *mount) seal(scope, name string) uint64 {
	m.Helper()
	info, err := m.cuts.SnapshotAs(m.Context(), scope, name, "quiet", 0, nil)
	if err != nil {
		m.Fatal(err)
	}
	return info.Seq
}

// run runs a shell command in the mount.
func (m *mount) run(script string) {
	m.Helper()
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir = m.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		m.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// small fills the live tree with one of each kind.
func (m *mount) small(version string) {
	m.Helper()
	m.mkdir("run/sub")
	m.write("run/sub/model.bin", strings.Repeat(version, 100000))
	m.write("run/tracker", version)
	os.Remove(m.path("run/last"))
	if err := os.Symlink("sub", m.path("run/last")); err != nil {
		m.Fatal(err)
	}
	if err := unix.Setxattr(m.path("run/tracker"), "user.v", []byte(version), 0); err != nil {
		m.Fatal(err)
	}
}

func TestSnapshotsShowTheOld(t *testing.T) {
	m := newMount(t)
	m.small("one")
	one := m.seal("", "1000")
	m.small("two")
	if err := os.Rename(m.path("run/sub"), m.path("run/moved")); err != nil {
		t.Fatal(err)
	}
	two := m.seal("", "2000")
	m.run("rm -rf run")

	for dir, v := range map[string]string{
		"snapshots/1000":                           "one",
		fmt.Sprintf("snapshots/1000@%d", one):      "one",
		fmt.Sprintf("snapshots/.barriers/%d", one): "one",
		"snapshots/2000":                           "two",
		"snapshots/latest":                         "two",
		fmt.Sprintf("snapshots/.barriers/%d", two): "two",
	} {
		m.want(dir+"/run/tracker", v)
		sub := "/run/sub"
		if v == "two" {
			sub = "/run/moved"
		}
		m.want(dir+sub+"/model.bin", strings.Repeat(v, 100000))
		buf := make([]byte, 10)
		n, err := unix.Getxattr(m.path(dir, "run/tracker"), "user.v", buf)
		if err != nil || string(buf[:n]) != v {
			t.Errorf("xattr in %s: %q, %v", dir, buf[:n], err)
		}
		if got := m.names(dir + "/run"); len(got) != 3 {
			t.Errorf("%s/run lists %q", dir, got)
		}
	}
	if target, err := os.Readlink(m.path("snapshots/latest")); err != nil || target != "2000" {
		t.Errorf("latest -> %q, %v", target, err)
	}
	m.run(`mkdir back && cp -a snapshots/1000/. back/ && diff -r back snapshots/1000 && rm -rf back`)
	m.want("snapshots/1000/run/tracker", "one")
}

func TestSnapshotsDirectory(t *testing.T) {
	m := newMount(t)
	m.mkdir("runs/a")
	m.write("runs/a/f", "x")
	m.seal("", "10")
	m.seal("", "9")
	seq := m.seal("", "10")
	m.seal("runs/a", "7")
	for dir, want := range map[string][]string{
		"":                   {"runs"},
		"snapshots":          {".status", ".status.json", "10", "9", "latest", "runs"},
		"snapshots/runs":     {"a"},
		"snapshots/runs/a":   {"7", "latest"},
		"snapshots/10":       {"runs"},
		"snapshots/9/runs":   {"a"},
		"snapshots/runs/a/7": {"f"},
	} {
		if got := m.names(dir); !slices.Equal(got, want) {
			t.Errorf("%q lists %q, want %q", dir, got, want)
		}
	}
	if got := m.names("snapshots/.barriers"); len(got) != 4 {
		t.Errorf(".barriers lists %q", got)
	}
	for _, name := range []string{"11", "10@1000", "nothing", ".barriers/0", ".barriers/00" + fmt.Sprint(seq), ".barriers/x", "runs/b", ".hidden", "runs/.status"} {
		if _, err := os.Lstat(m.path("snapshots", name)); !errors.Is(err, unix.ENOENT) {
			t.Errorf("snapshots/%s: %v", name, err)
		}
	}
	m.seal("", "11") // and no cached "not there" of it
	m.want("snapshots/11/runs/a/f", "x")

	// ".." leads back, also for who asks the file system and not the kernel.
	for dir, up := range map[string]string{"snapshots": "", "snapshots/10": "snapshots", "snapshots/10/runs": "snapshots/10",
		"snapshots/runs/a": "snapshots/runs", "snapshots/runs/a/7": "snapshots/runs/a"} {
		n, err := m.fs.parent(m.fs.node(inoOf(t, m.path(dir))))
		if err != nil || uint64(n) != inoOf(t, m.path(up)) {
			t.Errorf("the parent of %s is %x, %v", dir, n, err)
		}
	}
}

func TestSnapDirNameAndVisibility(t *testing.T) {
	m := newMount(t, func(o *Options) { o.SnapDirName, o.SnapDirVisible = ".steps", true })
	m.write("snapshots", "an ordinary file")
	m.seal("", "1")
	m.want(".steps/1/snapshots", "an ordinary file")
	if got := m.names(""); !slices.Equal(got, []string{".steps", "snapshots"}) {
		t.Errorf("the root lists %q", got)
	}
	m.run(`test "$(ls -A | sort | tr '\n' ' ')" = ".steps snapshots " && ls -la >/dev/null`)
	if _, err := New(Options{Tree: m.tree, Registry: m.cuts, Manager: m.cuts, SnapDirName: "a/b"}); err == nil {
		t.Error("a name with a slash was taken")
	}
}

// TestSnapshotsAreReadOnly tries every mutation on every kind of node.
func TestSnapshotsAreReadOnly(t *testing.T) {
	m := newMount(t)
	m.small("one")
	m.seal("", "1000")
	m.write("live", "l")
	at := unix.AT_FDCWD
	for _, dir := range []string{"snapshots/1000", "snapshots/1000/run", "snapshots/.barriers"} {
		p := m.path(dir)
		for what, err := range map[string]error{
			"create":  errOf(os.Create(p + "/new")),
			"mkdir":   os.Mkdir(p+"/new", 0o755),
			"symlink": os.Symlink("x", p+"/new"),
			"mkfifo":  unix.Mkfifo(p+"/new", 0o600),
			"chmod":   os.Chmod(p, 0o700),
			"chown":   os.Chown(p, 1, 1),
			"xattr":   unix.Setxattr(p, "user.x", nil, 0),
			"step":    unix.Setxattr(p, "user.stepfs.step", []byte("1"), 0),
			"times":   unix.UtimesNanoAt(at, p, []unix.Timespec{{}, {}}, 0),
		} {
			wantErr(t, what+" in "+dir, err, unix.EROFS)
		}
	}
	f := m.path("snapshots/1000/run/tracker")
	for what, err := range map[string]error{
		"open for writing":    errOf(os.OpenFile(f, os.O_WRONLY, 0)),
		"open for both":       errOf(os.OpenFile(f, os.O_RDWR, 0)),
		"O_TRUNC":             errOf(os.OpenFile(f, os.O_RDONLY|os.O_TRUNC, 0)),
		"truncate":            os.Truncate(f, 0),
		"unlink":              unix.Unlink(f),
		"rename":              os.Rename(f, f+"2"),
		"link":                os.Link(f, f+"2"),
		"xattr":               unix.Setxattr(f, "user.x", nil, 0),
		"remove xattr":        unix.Removexattr(f, "user.v"),
		"rmdir of a step":     unix.Rmdir(m.path("snapshots/1000")),
		"rename of a step":    os.Rename(m.path("snapshots/1000"), m.path("snapshots/1001")),
		"unlink of latest":    unix.Unlink(m.path("snapshots/latest")),
		"unlink of .status":   unix.Unlink(m.path("snapshots/.status")),
		"rmdir of snapshots":  unix.Rmdir(m.path("snapshots")),
		"rename of snapshots": os.Rename(m.path("snapshots"), m.path("s")),
		"chmod of snapshots":  os.Chmod(m.path("snapshots"), 0o700),
		"writing to .status":  errOf(os.OpenFile(m.path("snapshots/.status"), os.O_WRONLY, 0)),
		"a file in snapshots": errOf(os.Create(m.path("snapshots/new"))),
		"a link in snapshots": os.Symlink("x", m.path("snapshots/new")),
	} {
		wantErr(t, what, err, unix.EROFS)
	}
	for what, err := range map[string]error{
		"rename out":  os.Rename(f, m.path("out")),
		"rename in":   os.Rename(m.path("live"), m.path("snapshots/1000/in")),
		"link out":    os.Link(f, m.path("out")),
		"link in":     os.Link(m.path("live"), m.path("snapshots/1000/in")),
		"rename over": os.Rename(m.path("live"), m.path("snapshots/latest")),
	} {
		wantErr(t, what, err, unix.EXDEV)
	}
	for what, err := range map[string]error{
		"mkdir":   os.Mkdir(m.path("snapshots"), 0o755),
		"symlink": os.Symlink("x", m.path("snapshots")),
		"mkfifo":  unix.Mkfifo(m.path("snapshots"), 0o600),
		"link":    os.Link(m.path("live"), m.path("snapshots")),
		"O_EXCL":  errOf(os.OpenFile(m.path("snapshots"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)),
		"rename":  unix.Renameat2(at, m.path("live"), at, m.path("snapshots"), unix.RENAME_NOREPLACE),
	} {
		wantErr(t, what+" as snapshots", err, unix.EEXIST)
	}
	if out, err := exec.Command("rm", "-rf", m.path("snapshots/1000")).CombinedOutput(); err == nil {
		t.Errorf("rm -rf of a step succeeded: %s", out)
	}
	m.want("snapshots/1000/run/tracker", "one")
	m.want("live", "l")
}

func errOf(f *os.File, err error) error {
	if err == nil {
		f.Close()
	}
	return err
}

func TestNamedSnapshots(t *testing.T) {
	m := newMount(t)
	m.write("f", "one")
	if err := os.Mkdir(m.path("snapshots/before"), 0o755); err != nil {
		t.Fatal(err)
	}
	m.write("f", "two")
	m.want("snapshots/before/f", "one")
	wantErr(t, "again", os.Mkdir(m.path("snapshots/before"), 0o755), unix.EEXIST)
	for _, bad := range []string{"latest2@3", ".hidden"} {
		wantErr(t, bad, os.Mkdir(m.path("snapshots", bad), 0o755), unix.EINVAL)
	}
	if err := os.Remove(m.path("snapshots/before")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(m.path("snapshots/before")); !errors.Is(err, unix.ENOENT) {
		t.Errorf("after rmdir: %v", err)
	}
	wantErr(t, "rmdir of nothing", unix.Rmdir(m.path("snapshots/before")), unix.ENOENT)
}

func TestStepXattr(t *testing.T) {
	m := newMount(t)
	m.mkdir("a/b")
	m.write("a/b/f", "x")
	if err := unix.Setxattr(m.path("a/b"), "user.stepfs.step", []byte("77"), 0); err != nil {
		t.Fatal(err)
	}
	m.want("snapshots/a/b/77/f", "x")
	wantErr(t, "on a file", unix.Setxattr(m.path("a/b/f"), "user.stepfs.step", []byte("77"), 0), unix.ENOTDIR)
	wantErr(t, "no name", unix.Setxattr(m.path("a/b"), "user.stepfs.step", []byte("x/y"), 0), unix.EINVAL)
	step := m.path("snapshots/a/b/77")
	for name, want := range map[string]string{"verdict": "unverified", "reason": "xattr", "step": "77"} {
		buf := make([]byte, 100)
		n, err := unix.Getxattr(step, "user.stepfs."+name, buf)
		if err != nil || string(buf[:n]) != want {
			t.Errorf("%s is %q, %v", name, buf[:n], err)
		}
	}
	i, err := m.cuts.Resolve("a/b", "77")
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	if n, err := unix.Getxattr(step, "user.stepfs.new", buf); err != nil || string(buf[:n]) != strconv.FormatUint(i.Seq*1000, 10) {
		t.Errorf("new is %q, %v", buf[:n], err)
	}
	_, err = unix.Getxattr(step+"/f", "user.stepfs.new", nil)
	wantErr(t, "what a file alone needs", err, unix.ENODATA)
	_, err = unix.Getxattr(step+"/f", "user.stepfs.verdict", nil)
	wantErr(t, "the verdict of a file", err, unix.ENODATA)
	if n, err := unix.Listxattr(step, nil); n != 0 || err != nil {
		t.Errorf("a step lists %d bytes of attributes, %v", n, err)
	}
}

func TestStatusFiles(t *testing.T) {
	m := newMount(t)
	m.want("snapshots/.status", "json=false barriers=0\n")
	f, err := os.Create(m.path("f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 10 {
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	m.want("snapshots/.status", "json=false barriers=10\n")
	m.want("snapshots/.status.json", "json=true barriers=10\n")
	st, err := os.Stat(m.path("snapshots/.status"))
	if err != nil || st.Size() != int64(len("json=false barriers=10\n")) {
		t.Errorf("size %d, %v", st.Size(), err)
	}
}

// TestInodeNumbers: tools that tell files apart by device and inode number
// take no file in a snapshot for the live one, nor for one in another.
func TestInodeNumbers(t *testing.T) {
	m := newMount(t)
	m.write("f", "one")
	m.seal("", "1")
	m.write("g", "two")
	m.seal("", "2")
	inos := map[uint64]string{}
	for _, p := range []string{"f", "snapshots/1/f", "snapshots/2/f", "snapshots/.barriers/1/f", "", "snapshots", "snapshots/1", "snapshots/2", "snapshots/.barriers"} {
		if p == "snapshots/.barriers/1/f" {
			p = "snapshots/.barriers/" + m.names("snapshots/.barriers")[0] + "/f"
		}
		ino := inoOf(t, m.path(p))
		if other, taken := inos[ino]; taken {
			t.Errorf("%q and %q are both %x", p, other, ino)
		}
		inos[ino] = p
		entry := filepath.Base(p)
		for _, e := range mustReadDir(t, filepath.Dir(m.path(p))) {
			if e.Name == entry && e.Ino != ino && entry == "f" {
				t.Errorf("%q is listed as %x", p, e.Ino)
			}
		}
	}
	out, err := exec.Command("find", m.path("snapshots/1"), m.path("snapshots/2"), "-samefile", m.path("f")).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("find -samefile: %s, %v", out, err)
	}
	m.run(`cp snapshots/1/f f && diff f snapshots/1/f && ! diff -rq . snapshots/1 >/dev/null`)
}

type dirEntryIno struct {
	Name string
	Ino  uint64
}

func mustReadDir(t testing.TB, dir string) (out []dirEntryIno) {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 64<<10)
	n, err := unix.Getdents(int(f.Fd()), buf)
	if err != nil {
		t.Fatal(err)
	}
	for b := buf[:n]; len(b) > 0; {
		reclen := binary.NativeEndian.Uint16(b[16:])
		ino := binary.NativeEndian.Uint64(b)
		name := string(b[19:reclen])
		name, _, _ = strings.Cut(name, "\x00")
		out = append(out, dirEntryIno{name, ino})
		b = b[reclen:]
	}
	return out
}

func TestSnapshotsOnly(t *testing.T) {
	tree := openTree(t)
	c := newCuts(tree)
	a, fh, err := tree.Create(stage.RootIno, "f", 0o644, unix.O_WRONLY, stage.Cred{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Write(a.Ino, fh, []byte("content"), 0); err != nil {
		t.Fatal(err)
	}
	if err := tree.Flush(a.Ino, fh, false); err != nil {
		t.Fatal(err)
	}
	tree.Release(a.Ino, fh)
	if _, err := c.SnapshotAs(t.Context(), "", "5", "quiet", 0, nil); err != nil {
		t.Fatal(err)
	}
	m := mountTree(t, tree, c, func(o *Options) { o.SnapshotsOnly, o.Manager = true, nil })
	m.want("5/f", "content")
	m.want("latest/f", "content")
	if got := m.names(""); !slices.Equal(got, []string{".status", ".status.json", "5", "latest"}) {
		t.Errorf("the root lists %q", got)
	}
	for what, err := range map[string]error{
		"mkdir":  os.Mkdir(m.path("new"), 0o755),
		"create": errOf(os.Create(m.path("new"))),
		"rmdir":  unix.Rmdir(m.path("5")),
		"chmod":  os.Chmod(m.dir, 0o755),
		"unlink": unix.Unlink(m.path("5/f")),
	} {
		wantErr(t, what, err, unix.EROFS)
	}
	if st := inoOf(t, m.dir); st != 1 {
		t.Errorf("the root is inode %d", st)
	}
	var sb syscall.Statfs_t
	if err := syscall.Statfs(m.dir, &sb); err != nil {
		t.Error(err)
	}
}
