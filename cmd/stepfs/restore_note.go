package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"

	"stepfs/internal/storedir"
	"stepfs/snapshot"
)

// A restore that was cut off goes on where it was: a file of the right name, size and
// time is taken for whole. That is so until the machine goes down. Then name, size and
// time may be on the disk, and bytes not. So from before the first file until all are
// synced a note lies beside them, with the boot in which it began: where there is one of
// another boot, no file is taken for whole.

// maxNote bounds what is read of a note.
const maxNote = 256

// unsynced is the note of a restore.
type unsynced struct {
	path string
	ours bool // no earlier restore has left it
}

// beginNote finds out whether files that are there can be taken for whole, and leaves a
// note that what comes is not synced yet.
func (r *restorer) beginNote(name string) (unsynced, error) {
	note := unsynced{path: notePath(name)}
	boot := storedir.BootID()
	switch text, err := r.readNote(note.path); {
	case err == nil:
		r.doubt = boot == "" || text != boot
		return note, nil // of the first of several that were cut off
	case !errors.Is(err, fs.ErrNotExist):
		return note, fmt.Errorf("reading %s: %w", note.path, err)
	}
	note.ours = true
	if err := r.writeNote(note.path, boot); err != nil {
		if end := ending(err); end != nil {
			err = end
		}
		return note, errors.Join(fmt.Errorf("writing %s: %w", note.path, err), note.end(r))
	}
	return note, nil
}

// notePath is where the note of what is restored as name lies.
func notePath(name string) string {
	return filepath.Join(filepath.Dir(name), snapshot.RestorePrefix+"unsynced")
}

func (r *restorer) readNote(note string) (string, error) {
	if _, err := r.to.Stat(note); err != nil {
		return "", err
	}
	f, err := r.to.Open(note)
	if err != nil {
		return "", err
	}
	b := make([]byte, maxNote)
	n, err := f.ReadAt(b, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return string(b[:n]), errors.Join(err, f.Close())
}

// writeNote returns once the note is durable.
func (r *restorer) writeNote(note, boot string) error {
	f, err := r.to.Create(note)
	if err != nil {
		return err
	}
	if _, err = f.WriteAt([]byte(boot), 0); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	dir, err := r.to.Open(filepath.Dir(note))
	if err != nil {
		return err
	}
	if err = dir.Sync(); errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		err = nil // there are filesystems that sync no directories
	}
	return errors.Join(err, dir.Close())
}

// end says that all is synced.
func (n unsynced) end(r *restorer) error {
	if err := r.to.Remove(n.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing %s: %w", n.path, err)
	}
	return nil
}

// leave is for a restore that is cut off: nothing of it is there, or the note stays.
func (n unsynced) leave(r *restorer) error {
	if !n.ours || r.files.Load() > 0 {
		return nil
	}
	return n.end(r)
}
