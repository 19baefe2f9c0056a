package livetree

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"

	"stepfs/fs/stage"
	"stepfs/snapshot/include"
)

// What is included in steps is kept in hidden directories of the live tree.

func cred(a include.Attr) stage.Cred { return stage.Cred{UID: a.UID, GID: a.GID} }

// Mkdir makes a directory.
func (t liveTree) Mkdir(dir uint64, name string, a include.Attr) (uint64, error) {
	made, err := t.Tree.Mknod(dir, name, stage.ModeDir|a.Mode, 0, cred(a))
	if err != nil {
		return 0, err
	}
	return made.Ino, t.SetAttr(made.Ino, a)
}

// Symlink makes a symbolic link.
func (t liveTree) Symlink(dir uint64, name, target string, a include.Attr) error {
	made, err := t.Tree.Symlink(dir, name, target, cred(a))
	if err != nil {
		return err
	}
	return t.SetAttr(made.Ino, a)
}

// File makes a file of what fill writes.
func (t liveTree) File(dir uint64, name string, a include.Attr, fill func(w io.Writer) error) (err error) {
	made, fh, err := t.Tree.Create(dir, name, a.Mode, unix.O_WRONLY, cred(a))
	if err != nil {
		return err
	}
	err = fill(&writer{t: t.Tree, ino: made.Ino, fh: fh})
	if err == nil {
		err = t.Tree.Flush(made.Ino, fh, false)
	}
	t.Tree.Release(made.Ino, fh)
	if err == nil {
		err = t.SetAttr(made.Ino, a)
	}
	if err != nil {
		err = errors.Join(err, t.Tree.Unlink(dir, name))
	}
	return err
}

// writer appends to a file.
type writer struct {
	t       *stage.Tree
	ino, fh uint64
	off     int64
}

func (w *writer) Write(p []byte) (n int, err error) {
	for n < len(p) {
		k, err := w.t.Write(w.ino, w.fh, p[n:], w.off)
		if err != nil {
			return n, err
		}
		n, w.off = n+k, w.off+int64(k)
	}
	return n, nil
}

// SetAttr gives an inode what its original has.
func (t liveTree) SetAttr(ino uint64, a include.Attr) error {
	_, err := t.Tree.SetAttr(ino, stage.SetAttr{Mode: &a.Mode, UID: &a.UID, GID: &a.GID, Mtime: &a.Mtime})
	return err
}

// Remove removes an entry with all below it.
func (t liveTree) Remove(dir uint64, name string) error { return t.Tree.RemoveAll(dir, name) }
