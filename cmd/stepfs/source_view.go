package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"stepfs/fs/stage"
)

// viewSource reads a snapshot out of an open store.
type viewSource struct {
	view *stage.View
	root uint64 // inode of the snapshot's directory
}

// dirPage is how many entries are asked for at a time.
const dirPage = 1000

func (s *viewSource) Close() error { return nil } // the store is the service's to close

func (s *viewSource) Stat(path string) (node, error) {
	ino := s.root
	for name := range strings.SplitSeq(filepath.Clean(path), "/") {
		if name == "." || name == "" {
			continue
		}
		a, err := s.view.Lookup(ino, name)
		if errors.Is(err, stage.ErrNotExist) || errors.Is(err, stage.ErrNotDir) {
			return node{}, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
		}
		if err != nil {
			return node{}, fmt.Errorf("%s: %w", path, err)
		}
		ino = a.Ino
	}
	return s.node(path, ino)
}

func (s *viewSource) node(path string, ino uint64) (node, error) {
	a, err := s.view.GetAttr(ino)
	if err != nil {
		return node{}, fmt.Errorf("%s: %w", path, err)
	}
	return node{
		path: path, mode: a.Mode, uid: a.UID, gid: a.GID, rdev: a.Rdev, nlink: a.Nlink,
		size: a.Size, atime: a.Atime, mtime: a.Mtime, ino: ino,
	}, nil
}

func (s *viewSource) Children(ctx context.Context, dir node, fn func(node) error) error {
	for after := ""; ; {
		entries, err := s.view.ReadDir(dir.ino, after, dirPage)
		if err != nil {
			return fmt.Errorf("%s: %w", dir.path, err)
		}
		for _, e := range entries {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := s.node(filepath.Join(dir.path, e.Name), e.Ino)
			if err != nil {
				return err
			}
			if err := fn(n); err != nil {
				return err
			}
			after = e.Name
		}
		if len(entries) == 0 {
			return nil
		}
	}
}

func (s *viewSource) Readlink(n node) (string, error) { return s.view.Readlink(n.ino) }

func (s *viewSource) Xattrs(n node) (map[string][]byte, error) {
	names, err := s.view.ListXattr(n.ino)
	if err != nil {
		return nil, err
	}
	all := map[string][]byte{}
	for _, name := range names {
		if strings.HasPrefix(name, ownXattr) {
			continue
		}
		if all[name], err = s.view.GetXattr(n.ino, name); err != nil {
			return nil, fmt.Errorf("%s: xattr %s: %w", n.path, name, err)
		}
	}
	return all, nil
}

func (s *viewSource) Open(n node) (content, error) { return viewContent{s.view, n}, nil }

type viewContent struct {
	view *stage.View
	n    node
}

func (c viewContent) Close() error { return nil }

// ReadAt reads until p is full, as io.ReaderAt promises.
func (c viewContent) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := c.view.Read(c.n.ino, p[done:], off+int64(done))
		done += n
		if err != nil {
			return done, err
		}
		if n == 0 {
			return done, io.EOF
		}
	}
	return done, nil
}

func (c viewContent) Data(off int64) (start, end int64, err error) {
	start, err = c.view.Lseek(c.n.ino, off, unix.SEEK_DATA)
	if errors.Is(err, stage.ErrNXIO) {
		return 0, 0, io.EOF
	}
	if err == nil {
		end, err = c.view.Lseek(c.n.ino, start, unix.SEEK_HOLE)
	}
	return start, end, err
}
