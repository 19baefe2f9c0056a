package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// dirSink is a directory of the system; everything goes through an os.Root, so
// that a link in it leads nowhere outside of it.
type dirSink struct{ *os.Root }

func (s dirSink) Stat(path string) (node, error) {
	fi, err := s.Root.Lstat(path)
	if err != nil {
		return node{}, err
	}
	st := fi.Sys().(*syscall.Stat_t)
	return node{
		path: path, mode: st.Mode, uid: st.Uid, gid: st.Gid, rdev: uint32(st.Rdev), nlink: uint32(st.Nlink),
		size: st.Size, atime: st.Atim.Nano(), mtime: st.Mtim.Nano(), ino: st.Ino,
	}, nil
}

func (s dirSink) Mkdir(path string) error {
	err := s.Root.Mkdir(path, 0o700)
	if !errors.Is(err, os.ErrExist) {
		return err
	}
	st, err := s.Root.Lstat(path)
	switch {
	case err != nil:
		return err
	case !st.IsDir():
		return errInTheWay
	case st.Mode().Perm()&0o700 != 0o700:
		return s.Chmod(path, st.Mode().Perm()|0o700)
	}
	return nil
}

func (s dirSink) Create(path string) (sinkFile, error) {
	f, err := s.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	return dirFile{f}, err
}

func (s dirSink) Open(path string) (sinkFile, error) {
	f, err := s.Root.Open(path)
	return dirFile{f}, err
}

func (s dirSink) Special(path string, n node, target string) error {
	parent, err := s.Root.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer parent.Close()
	dirfd, base := int(parent.Fd()), filepath.Base(path)
	if target != "" {
		err = unix.Symlinkat(target, dirfd, base)
	} else {
		err = unix.Mknodat(dirfd, base, n.mode, int(n.rdev))
	}
	if err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		if err := unix.Fchownat(dirfd, base, int(n.uid), int(n.gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("owner: %w", err)
		}
	}
	if target == "" {
		if err := unix.Fchmodat(dirfd, base, n.mode&0o7777, 0); err != nil {
			return fmt.Errorf("mode: %w", err)
		}
	}
	return unix.UtimesNanoAt(dirfd, base, n.times(), unix.AT_SYMLINK_NOFOLLOW)
}

func (s dirSink) Link(file, name string) (made bool, err error) {
	to, err := s.Root.Lstat(file)
	if err != nil {
		return false, err
	}
	if st, err := s.Root.Lstat(name); err == nil {
		if os.SameFile(st, to) {
			return false, nil
		}
		if err := s.Remove(name); err != nil {
			return false, err
		}
	}
	return true, s.Root.Link(file, name)
}

// Sync makes the files durable, all at once.
func (s dirSink) Sync() error {
	d, err := s.Root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Syncfs(int(d.Fd()))
}

type dirFile struct{ *os.File }

// settleAbove is the size of writes that begin their way to the disk at once.
const settleAbove = 256 << 10

// WriteAt leaves Sync little to wait for: the disk writes what is large while more
// is read.
func (f dirFile) WriteAt(b []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(b, off)
	if err == nil && n >= settleAbove {
		// Where it can't be begun early, Sync does all of it, and says what is wrong.
		_ = unix.SyncFileRange(int(f.Fd()), off, int64(n), unix.SYNC_FILE_RANGE_WRITE)
	}
	return n, err
}

func (f dirFile) SetAttributes(n node, xattrs map[string][]byte) (warning, err error) {
	fd := int(f.Fd())
	if os.Geteuid() == 0 {
		if err := unix.Fchown(fd, int(n.uid), int(n.gid)); err != nil {
			return nil, fmt.Errorf("owner: %w", err)
		}
	}
	if err := unix.Fchmod(fd, n.mode&0o7777); err != nil {
		return nil, fmt.Errorf("mode: %w", err)
	}
	for name, value := range xattrs {
		err := unix.Fsetxattr(fd, name, value, 0)
		if err != nil && (strings.HasPrefix(name, "user.") || !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EOPNOTSUPP)) {
			warning = errors.Join(warning, fmt.Errorf("xattr %s: %w", name, err))
		}
	}
	// A path of /proc instead of utimensat(fd, NULL), which x/sys does not give.
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), n.times(), 0); err != nil {
		return warning, fmt.Errorf("times: %w", err)
	}
	return warning, nil
}

// times are atime and mtime as system calls take them.
func (n *node) times() []unix.Timespec {
	return []unix.Timespec{unix.NsecToTimespec(n.atime), unix.NsecToTimespec(n.mtime)}
}
