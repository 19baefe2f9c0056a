package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"stepfs/internal/storedir"
	"stepfs/snapshot"
)

// A restore that was cut off goes on where it was: a file of the right name, size and
// time is taken for whole. That is so until the machine goes down. Then name, size and
// time may be on the disk, and bytes not. So from before the first file until all are
// synced a note lies beside them, with the boot in which it began: where there is one of
// another boot, no file is taken for whole. Such a note goes when the same is restored
// again: a restore of something else mends only what is its own. (Within a boot it goes
// with any: what is synced then is all.)

// maxNote bounds what is read of a note.
const maxNote = 4 << 10

// unsynced is the note of a restore.
type unsynced struct {
	path string
	ours bool // no earlier restore has left it
	stay bool // what it tells of is not what is restored now, and not mended by that
}

// beginNote finds out whether files that are there can be taken for whole, and leaves a
// note that what comes is not synced yet.
func (r *restorer) beginNote(name string) (unsynced, error) {
	note, boot := unsynced{path: notePath(name)}, storedir.BootID()
	doubts := func(path string) (there, mine bool, err error) {
		text, err := r.readNote(path)
		if errors.Is(err, fs.ErrNotExist) {
			return false, false, nil
		}
		began, what, _ := strings.Cut(text, "\n")
		r.doubt = r.doubt || boot == "" || began != boot
		return true, what == r.what, err
	}
	there, mine, err := doubts(note.path)
	note.stay = r.doubt && !mine
	if err == nil && name != "." { // one of the whole directory tells of each file in it, too
		_, _, err = doubts(filepath.Join(filepath.Dir(name), notePath(".")))
	}
	if err != nil {
		return note, fmt.Errorf("reading the note of a restore that was cut off: %w", err)
	}
	if there {
		return note, nil // of the first of several
	}
	note.ours, note.stay = true, false
	if err := r.writeNote(note.path, boot+"\n"+r.what); err != nil {
		if end := ending(err); end != nil {
			err = end
		}
		return note, errors.Join(fmt.Errorf("writing %s: %w", note.path, err), note.end(r))
	}
	return note, nil
}

// notePath is where the note of what is restored as name lies.
func notePath(name string) string {
	if name == "." {
		return snapshot.RestorePrefix + "unsynced"
	}
	return tempName(snapshot.RestorePrefix+"unsynced-", name)
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
func (r *restorer) writeNote(note, text string) error {
	f, err := r.to.Create(note)
	if err != nil {
		return err
	}
	if _, err = f.WriteAt([]byte(text), 0); err == nil {
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
	if n.stay {
		return nil
	}
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
