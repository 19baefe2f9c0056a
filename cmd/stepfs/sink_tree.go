package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	stepfsfs "stepfs/fs"
	"stepfs/fs/stage"
)

// treeSink is a directory of the live tree of a store that this process has
// open. Its calls are those that the kernel would make of the same work on a
// mount, in the same order, so that sealing sees the same; it needs no FUSE.
type treeSink struct {
	store *local
	tree  *stage.Tree
	top   string // the directory, below the root
	cred  stage.Cred
}

// newTreeSink makes the directory if it is not there.
func newTreeSink(l *local, top string) (*treeSink, error) {
	s := &treeSink{l, l.parts.tree, "", stage.Cred{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}}
	for at := ""; at != top; {
		next, _, _ := strings.Cut(strings.TrimPrefix(top[len(at):], "/"), "/")
		at = filepath.Join(at, next)
		if err := s.mkdir(at, 0o755); err != nil {
			return nil, err
		}
	}
	s.top = top
	return s, nil
}

// treeError is an error of the live tree that also is what a mount would say.
type treeError struct {
	op, path string
	err      error
}

func treeErr(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &treeError{op, path, err}
}

func (e *treeError) Error() string   { return e.op + " " + e.path + ": " + e.err.Error() }
func (e *treeError) Unwrap() []error { return []error{stepfsfs.Errno(e.err), e.err} }

func (s *treeSink) find(path string) (stage.Attr, error) {
	return s.tree.Find(filepath.Join("/", s.top, path))
}

// place finds the directory of a path.
func (s *treeSink) place(path string) (dir uint64, name string, err error) {
	a, err := s.find(filepath.Dir(path))
	return a.Ino, filepath.Base(path), err
}

func (s *treeSink) Stat(path string) (node, error) {
	a, err := s.find(path)
	return node{
		path: path, mode: a.Mode, uid: a.UID, gid: a.GID, rdev: a.Rdev, nlink: a.Nlink,
		size: a.Size, atime: a.Atime, mtime: a.Mtime, ino: a.Ino,
	}, treeErr("stat", path, err)
}

func (s *treeSink) Readlink(path string) (target string, err error) {
	a, err := s.find(path)
	if err == nil {
		target, err = s.tree.Readlink(a.Ino)
	}
	return target, treeErr("readlink", path, err)
}

func (s *treeSink) Mkdir(path string) error { return s.mkdir(path, 0o700) }

func (s *treeSink) mkdir(path string, mode uint32) error {
	dir, name, err := s.place(path)
	if err == nil {
		_, err = s.tree.Mknod(dir, name, stage.ModeDir|mode, 0, s.cred)
	}
	if !errors.Is(err, stage.ErrExist) {
		return treeErr("mkdir", path, err)
	}
	a, err := s.tree.Lookup(dir, name)
	if err == nil && a.Mode&stage.ModeType != stage.ModeDir {
		return errInTheWay
	}
	return treeErr("mkdir", path, err) // nobody asks for its permissions here
}

func (s *treeSink) Create(path string) (sinkFile, error) {
	dir, name, err := s.place(path)
	if err != nil {
		return nil, treeErr("create", path, err)
	}
	a, fh, err := s.tree.Create(dir, name, 0o600, unix.O_RDWR, s.cred)
	return &treeFile{s.store, s.tree, path, a.Ino, fh}, treeErr("create", path, err)
}

func (s *treeSink) Open(path string) (sinkFile, error) {
	a, err := s.find(path)
	if err != nil {
		return nil, treeErr("open", path, err)
	}
	fh, err := s.tree.Open(a.Ino, unix.O_RDONLY, s.cred)
	return &treeFile{s.store, s.tree, path, a.Ino, fh}, treeErr("open", path, err)
}

func (s *treeSink) Special(path string, n node, target string) error {
	dir, name, err := s.place(path)
	if err != nil {
		return treeErr("make", path, err)
	}
	var a stage.Attr
	if target != "" {
		a, err = s.tree.Symlink(dir, name, target, s.cred)
	} else {
		a, err = s.tree.Mknod(dir, name, n.mode, n.rdev, s.cred)
	}
	if err != nil {
		return treeErr("make", path, err)
	}
	if target != "" {
		n.mode = a.Mode // of a link it can't be changed
	}
	_, err = setAttributes(s.tree, a.Ino, n, nil)
	return treeErr("set attributes of", path, err)
}

func (s *treeSink) Link(file, name string) (made bool, err error) {
	to, err := s.find(file)
	if err != nil {
		return false, treeErr("link", file, err)
	}
	dir, base, err := s.place(name)
	if err != nil {
		return false, treeErr("link", name, err)
	}
	if there, err := s.tree.Lookup(dir, base); err == nil {
		if there.Ino == to.Ino {
			return false, nil
		}
		if err := s.Remove(name); err != nil {
			return false, err
		}
	}
	_, err = s.tree.Link(to.Ino, dir, base)
	return err == nil, treeErr("link", name, err)
}

func (s *treeSink) Rename(from, to string) error {
	fromDir, fromName, err := s.place(from)
	if err == nil {
		var toDir uint64
		var toName string
		if toDir, toName, err = s.place(to); err == nil {
			err = s.tree.Rename(fromDir, fromName, toDir, toName, 0)
		}
	}
	return treeErr("rename", from, err)
}

func (s *treeSink) Remove(path string) error {
	dir, name, err := s.place(path)
	if err == nil {
		if err = s.tree.Unlink(dir, name); errors.Is(err, stage.ErrIsDir) {
			err = s.tree.Rmdir(dir, name)
		}
	}
	return treeErr("remove", path, err)
}

func (s *treeSink) Sync() error  { return s.store.syncAll(context.Background()) }
func (s *treeSink) Close() error { return nil } // the store is the service's

// treeFile is an open file or directory of the live tree.
type treeFile struct {
	store *local
	tree  *stage.Tree
	path  string
	ino   uint64
	fh    uint64
}

func (f *treeFile) ReadAt(b []byte, off int64) (n int, err error) {
	n, err = f.tree.Read(f.ino, f.fh, b, off)
	if err == nil && n < len(b) {
		return n, io.EOF
	}
	return n, treeErr("read", f.path, err)
}

func (f *treeFile) WriteAt(b []byte, off int64) (done int, err error) {
	for done < len(b) {
		n, err := f.tree.Write(f.ino, f.fh, b[done:], off+int64(done))
		if err != nil {
			return done, treeErr("write", f.path, err)
		}
		done += n
	}
	return done, nil
}

func (f *treeFile) Truncate(size int64) error {
	_, err := f.tree.SetAttr(f.ino, stage.SetAttr{Size: &size, Handle: f.fh})
	return treeErr("truncate", f.path, err)
}

func (f *treeFile) SetAttributes(n node, xattrs map[string][]byte) (warning, err error) {
	warning, err = setAttributes(f.tree, f.ino, n, xattrs)
	return warning, treeErr("set attributes of", f.path, err)
}

func (f *treeFile) Sync() error { return f.store.syncAll(context.Background()) }

// Close is what tells the tree that a file is whole.
func (f *treeFile) Close() error {
	err := f.tree.Flush(f.ino, f.fh, false)
	f.tree.Release(f.ino, f.fh)
	return treeErr("close", f.path, err)
}

// setAttributes sets the attributes of n, the times last. What a mount does not
// keep is left out, as it would be there.
func setAttributes(tree *stage.Tree, ino uint64, n node, xattrs map[string][]byte) (warning, err error) {
	mode := n.mode & 0o7777
	set := stage.SetAttr{Mode: &mode}
	if os.Geteuid() == 0 {
		set.UID, set.GID = &n.uid, &n.gid
	}
	if _, err := tree.SetAttr(ino, set); err != nil {
		return nil, err
	}
	for name, value := range xattrs {
		if !stepfsfs.KeepsXattr(name) {
			continue
		}
		if err := tree.SetXattr(ino, name, value, 0); err != nil {
			warning = errors.Join(warning, fmt.Errorf("xattr %s: %w", name, err))
		}
	}
	_, err = tree.SetAttr(ino, stage.SetAttr{Atime: &n.atime, Mtime: &n.mtime})
	return warning, err
}
