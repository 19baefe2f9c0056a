package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// dirSource reads a directory: a snapshot on a mount.
type dirSource struct{ root string }

func newDirSource(root string) (*dirSource, error) {
	if _, err := os.Lstat(root); err != nil {
		return nil, err
	}
	return &dirSource{root}, nil
}

func (s *dirSource) Close() error { return nil }

func (s *dirSource) at(path string) string { return filepath.Join(s.root, path) }

func (s *dirSource) Stat(path string) (node, error) {
	var st unix.Stat_t
	if err := unix.Lstat(s.at(path), &st); err != nil {
		return node{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return node{
		path: path, mode: st.Mode, uid: st.Uid, gid: st.Gid, rdev: uint32(st.Rdev), nlink: uint32(st.Nlink),
		size: st.Size, atime: st.Atim.Nano(), mtime: st.Mtim.Nano(), ino: st.Ino,
	}, nil
}

func (s *dirSource) Children(ctx context.Context, dir node, fn func(node) error) error {
	entries, err := os.ReadDir(s.at(dir.path))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := s.Stat(filepath.Join(dir.path, e.Name()))
		if err != nil {
			return err
		}
		if err := fn(n); err != nil {
			return err
		}
	}
	return nil
}

func (s *dirSource) Readlink(n node) (string, error) { return os.Readlink(s.at(n.path)) }

func (s *dirSource) Xattrs(n node) (map[string][]byte, error) {
	path := s.at(n.path)
	list, err := growing(func(b []byte) (int, error) { return unix.Llistxattr(path, b) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "listxattr", Path: n.path, Err: err}
	}
	all := map[string][]byte{}
	for name := range strings.SplitSeq(string(list), "\x00") {
		if name == "" || strings.HasPrefix(name, ownXattr) {
			continue
		}
		all[name], err = growing(func(b []byte) (int, error) { return unix.Lgetxattr(path, name, b) })
		if err != nil {
			return nil, &os.PathError{Op: "getxattr " + name, Path: n.path, Err: err}
		}
	}
	return all, nil
}

// growing asks with ever larger buffers for something of unknown size.
func growing(ask func([]byte) (int, error)) ([]byte, error) {
	for size := 1 << 10; ; size *= 4 {
		b := make([]byte, size)
		n, err := ask(b)
		if err == nil {
			return b[:n], nil
		}
		if !errors.Is(err, unix.ERANGE) || size > 1<<20 {
			return nil, err
		}
	}
}

func (s *dirSource) Open(n node) (content, error) {
	f, err := os.OpenFile(s.at(n.path), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return dirContent{f}, nil
}

type dirContent struct{ *os.File }

// Data asks the kernel; the file position it moves is used by nobody.
func (c dirContent) Data(off int64) (start, end int64, err error) {
	start, err = unix.Seek(int(c.Fd()), off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return 0, 0, io.EOF
	}
	if err == nil {
		end, err = unix.Seek(int(c.Fd()), start, unix.SEEK_HOLE)
	}
	return start, end, err
}
