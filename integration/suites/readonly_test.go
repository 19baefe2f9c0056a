package suites

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// TestReadOnlySide tries every call that changes something on what a snapshot
// holds: EROFS, each time, and nothing is changed in the end. (access(2) alone
// goes by the mode bits: with default_permissions the kernel does not ask us,
// and only of a whole mount does it know that it is read-only.)
func TestReadOnlySide(t *testing.T) {
	d := mount(t)
	makeTree(t, mkdir(t, d.Mnt+"/w"))
	x := snap(t, d, "x")
	before := readTree(t, x, exact)

	live, err := os.Create(d.Mnt + "/live")
	must(t, err)
	defer live.Close()
	_, err = live.Write([]byte("live"))
	must(t, err)
	file, err := os.Open(x + "/w/big")
	must(t, err)
	defer file.Close()
	w, fd, ro := x+"/w", int(file.Fd()), unix.AT_FDCWD
	open := func(path string, flags int) error {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o644)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
	// A mount that has no such files at all says so first.
	if err := open(w, unix.O_WRONLY|unix.O_TMPFILE); !errors.Is(err, unix.EROFS) && !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("O_TMPFILE: %v", err)
	}
	now := []unix.Timespec{{Sec: 1}, {Sec: 1}}
	calls := []struct {
		name string
		err  error
	}{
		{"open for writing", open(w+"/big", unix.O_WRONLY)},
		{"open for reading and writing", open(w+"/big", unix.O_RDWR)},
		{"open to append", open(w+"/big", unix.O_WRONLY|unix.O_APPEND)},
		{"open to truncate", open(w+"/big", unix.O_RDONLY|unix.O_TRUNC)},
		{"create", open(w+"/new", unix.O_WRONLY|unix.O_CREAT)},
		{"create at the top", open(x+"/new", unix.O_WRONLY|unix.O_CREAT)},
		{"truncate", unix.Truncate(w+"/big", 1)},
		{"unlink", unix.Unlink(w + "/big")},
		{"rmdir", unix.Rmdir(w + "/empty")},
		{"mkdir", unix.Mkdir(w+"/new", 0o755)},
		{"mkdir at the top", unix.Mkdir(x+"/new", 0o755)},
		{"mknod", unix.Mknod(w+"/new", unix.S_IFREG|0o644, 0)},
		{"mkfifo", unix.Mkfifo(w+"/new", 0o644)},
		{"symlink", unix.Symlink("to", w+"/new")},
		{"link", unix.Link(w+"/big", w+"/new")},
		{"rename", unix.Rename(w+"/big", w+"/new")},
		{"rename over another", unix.Rename(w+"/big", w+"/suid")},
		{"exchange", unix.Renameat2(ro, w+"/big", ro, w+"/suid", unix.RENAME_EXCHANGE)},
		{"chmod", unix.Chmod(w+"/big", 0o600)},
		{"fchmod", unix.Fchmod(fd, 0o600)},
		{"chown", unix.Lchown(w+"/big", 1, 1)},
		{"fchown", unix.Fchown(fd, 1, 1)},
		{"utimensat", unix.UtimesNanoAt(ro, w+"/big", now, 0)},
		{"utimensat of a symbolic link", unix.UtimesNanoAt(ro, w+"/dangling", now, unix.AT_SYMLINK_NOFOLLOW)},
		{"setxattr", unix.Setxattr(w+"/big", "user.new", []byte("x"), 0)},
		{"setxattr of a trusted attribute", unix.Setxattr(w+"/big", "trusted.new", []byte("x"), 0)},
		{"removexattr", unix.Removexattr(w+"/big", "user.note")},
		{"chmod of a directory", unix.Chmod(w, 0o700)},
		{"chmod of the top", unix.Chmod(x, 0o700)},
		{"rmdir of a directory in it, not empty", unix.Rmdir(w)},
	}
	for _, c := range calls {
		if !errors.Is(c.err, unix.EROFS) {
			t.Errorf("%s: %v, want EROFS", c.name, c.err)
		}
	}

	// Between the trees it is as between two mounts, so that mv copies.
	for _, c := range []struct {
		name string
		err  error
	}{
		{"rename into it", unix.Rename(d.Mnt+"/live", w+"/new")},
		{"rename out of it", unix.Rename(w+"/big", d.Mnt+"/new")},
		{"link into it", unix.Link(d.Mnt+"/live", w+"/new")},
		{"link out of it", unix.Link(w+"/big", d.Mnt+"/new")},
	} {
		if !errors.Is(c.err, unix.EXDEV) {
			t.Errorf("%s: %v, want EXDEV", c.name, c.err)
		}
	}

	// These need a descriptor that may write, which nobody gets.
	_, pwrite := unix.Pwrite(fd, []byte("x"), 0)
	_, copyInto := unix.CopyFileRange(int(live.Fd()), nil, fd, nil, 4, 0)
	_, shared := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	for name, c := range map[string]struct{ err, want error }{
		"write":                    {pwrite, unix.EBADF},
		"ftruncate":                {unix.Ftruncate(fd, 1), unix.EINVAL},
		"fallocate":                {unix.Fallocate(fd, 0, 0, 4096), unix.EBADF},
		"fallocate, punch":         {unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096), unix.EBADF},
		"copy_file_range into it":  {copyInto, unix.EBADF},
		"shared, writable mapping": {shared, unix.EACCES},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, want %v", name, c.err, c.want)
		}
	}
	if diff := before.Diff(readTree(t, x, exact)); diff != "" {
		t.Errorf("something was changed:\n%s", diff)
	}
}

// TestReadOnlyUse does what reading allows: private mappings, also writable
// ones, copying out by copy_file_range, executing, fsync.
func TestReadOnlyUse(t *testing.T) {
	d := mount(t)
	shell(t, "cp", "/bin/true", d.Mnt+"/program")
	must(t, os.WriteFile(d.Mnt+"/script", []byte("#!/bin/sh\necho ran\n"), 0o755))
	must(t, os.WriteFile(d.Mnt+"/data", make([]byte, 8192), 0o644))
	x := snap(t, d, "x")
	must(t, os.WriteFile(d.Mnt+"/script", []byte("#!/bin/sh\nexit 1\n"), 0o755))

	for _, name := range []string{"program", "script"} {
		out, err := exec.Command(x + "/" + name).CombinedOutput()
		if err != nil || name == "script" && string(out) != "ran\n" {
			t.Errorf("%s: %v, %q", name, err, out)
		}
	}
	f, err := os.Open(x + "/data")
	must(t, err)
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	must(t, err)
	m[5000] = 1
	b := make([]byte, 1)
	_, err = f.ReadAt(b, 5000)
	must(t, err, unix.Munmap(m))
	if b[0] != 0 {
		t.Error("a private mapping wrote to the file")
	}
	r, err := unix.Mmap(int(f.Fd()), 0, 8192, unix.PROT_READ, unix.MAP_SHARED)
	must(t, err, unix.Munmap(r))
	out, err := os.Create(d.Mnt + "/out")
	must(t, err)
	n, err := unix.CopyFileRange(int(f.Fd()), nil, int(out.Fd()), nil, 8192, 0)
	if err != nil || n != 8192 {
		t.Errorf("copy_file_range out: %d, %v", n, err)
	}
	must(t, out.Close())
	shell(t, "cmp", x+"/data", d.Mnt+"/out")
	if err := f.Sync(); err != nil {
		t.Error(fmt.Errorf("fsync of what is in a snapshot: %w", err))
	}
}
