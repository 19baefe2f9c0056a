package fs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// wantErr checks that err is what the kernel gave.
func wantErr(t testing.TB, what string, err error, want unix.Errno) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func TestCreateOpenFlags(t *testing.T) {
	m := newMount(t)
	m.write("f", "0123456789")
	_, err := os.OpenFile(m.path("f"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	wantErr(t, "O_EXCL", err, unix.EEXIST)
	_, err = os.OpenFile(m.path("no", "f"), os.O_CREATE|os.O_WRONLY, 0o644)
	wantErr(t, "create below nothing", err, unix.ENOENT)
	_, err = os.Open(m.path("none"))
	wantErr(t, "open of nothing", err, unix.ENOENT)
	m.write("none", "now it is there") // the negative entry must be gone
	m.want("none", "now it is there")

	a, err := os.OpenFile(m.path("f"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.WriteString("+"); err != nil {
		t.Fatal(err)
	}
	a.Close()
	m.want("f", "0123456789+")

	reader, err := os.Open(m.path("f"))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	w, err := os.OpenFile(m.path("f"), os.O_TRUNC|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := reader.Stat(); err != nil || st.Size() != 0 {
		t.Errorf("after O_TRUNC: %v, %v", st.Size(), err)
	}
	w.WriteString("new")
	w.Close()
	m.want("f", "new")
	_, err = os.OpenFile(m.path("x"+string(bytes.Repeat([]byte("y"), 255))), os.O_CREATE|os.O_WRONLY, 0o644)
	wantErr(t, "a name of 256 bytes", err, unix.ENAMETOOLONG)
}

func TestSetAttr(t *testing.T) {
	m := newMount(t)
	m.write("f", "0123456789")
	f := m.path("f")
	for _, size := range []int64{4, 100000, 0, 7} {
		if err := os.Truncate(f, size); err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(f); err != nil || st.Size() != size {
			t.Errorf("after truncate to %d: %v, %v", size, st.Size(), err)
		}
	}
	m.want("f", "\x00\x00\x00\x00\x00\x00\x00")
	old := []unix.Timespec{{Sec: -5, Nsec: 7}, {Sec: 1 << 33, Nsec: 999999999}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, f, old, 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chown(f, 12, 34), unix.Chmod(f, 0o4751)); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(f, &st); err != nil {
		t.Fatal(err)
	}
	if st.Atim != old[0] || st.Mtim != old[1] || st.Uid != 12 || st.Gid != 34 || st.Mode != unix.S_IFREG|0o4751 {
		t.Errorf("got %+v", st)
	}
	if err := os.Chown(f, 13, -1); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat(f, &st); err != nil || st.Mode&unix.S_ISUID != 0 {
		t.Errorf("chown left set-user-id: %o, %v", st.Mode, err)
	}
	if st.Blksize != blockSize {
		t.Errorf("st_blksize %d", st.Blksize)
	}
}

// TestWriteDropsSuid: an ordinary user who may write a program takes its
// set-user-id away by doing so, on either way to write and by truncating.
func TestWriteDropsSuid(t *testing.T) {
	m := newMount(t)
	for name, change := range map[string]string{
		"round the cache": `printf x >> %s`,
		"through it":      `printf x 1<> %s`,
		"truncate":        `: > %s`,
	} {
		m.write("prog", "#!")
		if err := unix.Chmod(m.path("prog"), 0o6777); err != nil {
			t.Fatal(err)
		}
		asNobody(t, fmt.Sprintf(change, m.path("prog")))
		st, err := os.Stat(m.path("prog"))
		if err != nil || st.Mode()&(os.ModeSetuid|os.ModeSetgid) != 0 {
			t.Errorf("%s: mode %v, %v", name, st.Mode(), err)
		}
		os.Remove(m.path("prog"))
	}
}

func TestNamespace(t *testing.T) {
	m := newMount(t)
	m.mkdir("d/e")
	m.write("d/f", "one")
	m.write("g", "two")
	wantErr(t, "rmdir of a full one", os.Remove(m.path("d")), unix.ENOTEMPTY)
	wantErr(t, "mkdir again", os.Mkdir(m.path("d"), 0o755), unix.EEXIST)
	if err := errors.Join(
		os.Link(m.path("g"), m.path("d", "h")),
		os.Symlink("../g", m.path("d", "s")),
		unix.Mkfifo(m.path("d", "p"), 0o600),
		os.Rename(m.path("d", "f"), m.path("d", "e", "f")),
	); err != nil {
		t.Fatal(err)
	}
	m.want("d/h", "two")
	m.want("d/s", "two")
	if target, err := os.Readlink(m.path("d", "s")); err != nil || target != "../g" {
		t.Errorf("readlink: %q, %v", target, err)
	}
	m.want("d/e/f", "one")
	if got := m.names("d"); !slices.Equal(got, []string{"e", "h", "p", "s"}) {
		t.Errorf("d lists %q", got)
	}
	at := unix.AT_FDCWD
	wantErr(t, "RENAME_NOREPLACE", unix.Renameat2(at, m.path("d/h"), at, m.path("d/e/f"), unix.RENAME_NOREPLACE), unix.EEXIST)
	if err := unix.Renameat2(at, m.path("d/h"), at, m.path("d/e/f"), unix.RENAME_EXCHANGE); err != nil {
		t.Fatal(err)
	}
	m.want("d/h", "one")
	m.want("d/e/f", "two")
	wantErr(t, "a directory into itself", os.Rename(m.path("d"), m.path("d", "e", "d")), unix.EINVAL)
	if err := os.Rename(m.path("d/h"), m.path("g")); err != nil {
		t.Fatal(err)
	}
	m.want("g", "one")
	if st, err := os.Stat(m.path("d/e/f")); err != nil || linksOf(st) != 1 {
		t.Errorf("nlink after one of two names was replaced: %d, %v", linksOf(st), err)
	}
	if err := os.RemoveAll(m.path("d")); err != nil {
		t.Fatal(err)
	}
	if got := m.names(""); !slices.Equal(got, []string{"g"}) {
		t.Errorf("the root lists %q", got)
	}
}

func TestUnlinkedFileLivesOn(t *testing.T) {
	m := newMount(t)
	f, err := os.Create(m.path("f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		t.Fatal(err)
	}
	m.write("f", "another")
	if _, err := f.WriteAt([]byte("still here"), 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Chmod(0o600), f.Truncate(5)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := f.ReadAt(got, 0); err != nil || string(got) != "still" {
		t.Errorf("%q, %v", got, err)
	}
	m.want("f", "another")
}

func TestReadDirWhileDeleting(t *testing.T) {
	m := newMount(t)
	const n = 3000
	for i := range n {
		m.write(fmt.Sprintf("a-rather-long-name-for-a-file-%05d", i), "")
	}
	d, err := os.Open(m.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	seen := map[string]bool{}
	for {
		names, err := d.Readdirnames(100)
		if len(names) == 0 {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if seen[name] {
				t.Fatalf("%s was listed twice", name)
			}
			seen[name] = true
			if err := os.Remove(m.path(name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(seen) != n {
		t.Fatalf("%d of %d were listed", len(seen), n)
	}
	if left := m.names(""); len(left) > 0 {
		t.Fatalf("%d are left", len(left))
	}
}

func TestSpace(t *testing.T) {
	m := newMount(t)
	f, err := os.Create(m.path("f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const mb = 1 << 20
	block := bytes.Repeat([]byte{7}, mb)
	if _, err := f.WriteAt(block, 4*mb); err != nil {
		t.Fatal(err)
	}
	fd := int(f.Fd())
	if off, err := unix.Seek(fd, 0, unix.SEEK_DATA); err != nil || off != 4*mb {
		t.Errorf("SEEK_DATA: %d, %v", off, err)
	}
	if off, err := unix.Seek(fd, 4*mb, unix.SEEK_HOLE); err != nil || off != 5*mb {
		t.Errorf("SEEK_HOLE: %d, %v", off, err)
	}
	if err := unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 4*mb, mb/2); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fallocate(fd, 0, 0, 6*mb); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 6*mb)
	if n, err := f.ReadAt(got, 0); n != 6*mb {
		t.Fatalf("%d bytes, %v", n, err)
	}
	want := make([]byte, 6*mb)
	copy(want[4*mb+mb/2:], block[:mb/2])
	if !bytes.Equal(got, want) {
		t.Error("the content is something else")
	}
	var st unix.Statfs_t
	if err := unix.Statfs(m.dir, &st); err != nil || st.Blocks == 0 || st.Bavail == 0 || st.Bavail > st.Blocks || st.Namelen != 255 {
		t.Errorf("statfs %+v, %v", st, err)
	}
}

func TestXattr(t *testing.T) {
	m := newMount(t)
	m.write("f", "")
	f := m.path("f")
	if err := unix.Setxattr(f, "user.a", []byte("value"), unix.XATTR_CREATE); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "XATTR_CREATE again", unix.Setxattr(f, "user.a", nil, unix.XATTR_CREATE), unix.EEXIST)
	wantErr(t, "XATTR_REPLACE of none", unix.Setxattr(f, "user.b", nil, unix.XATTR_REPLACE), unix.ENODATA)
	buf := make([]byte, 100)
	n, err := unix.Getxattr(f, "user.a", buf)
	if err != nil || string(buf[:n]) != "value" {
		t.Errorf("%q, %v", buf[:n], err)
	}
	if n, err := unix.Getxattr(f, "user.a", nil); err != nil || n != 5 {
		t.Errorf("size %d, %v", n, err)
	}
	_, err = unix.Getxattr(f, "user.a", buf[:2])
	wantErr(t, "a short buffer", err, unix.ERANGE)
	n, err = unix.Listxattr(f, buf)
	if err != nil || string(buf[:n]) != "user.a\x00" {
		t.Errorf("list %q, %v", buf[:n], err)
	}
	if err := unix.Removexattr(f, "user.a"); err != nil {
		t.Fatal(err)
	}
	_, err = unix.Getxattr(f, "user.a", buf)
	wantErr(t, "a removed one", err, unix.ENODATA)
	capability := make([]byte, 20)
	capability[3] = 2 // VFS_CAP_REVISION_2
	wantErr(t, "a capability", unix.Setxattr(f, "security.capability", capability, 0), unix.EOPNOTSUPP)
	wantErr(t, "our own", unix.Setxattr(f, "user.stepfs.state", []byte("x"), 0), unix.EPERM)
}
