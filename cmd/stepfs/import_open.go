package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"stepfs/internal/storedir"
)

// checkImported gives the directory that is to be imported, without links. One
// that holds the store or a mount of it, or lies in it, would grow while it is
// read.
func checkImported(dir, store string) (from string, err error) {
	if from, err = filepath.Abs(dir); err == nil {
		from, err = filepath.EvalSymlinks(from)
	}
	if err != nil {
		return "", fmt.Errorf("opening what is to be imported: %w", err)
	}
	if st, err := os.Stat(from); err != nil || !st.IsDir() {
		return "", errors.Join(fmt.Errorf("%s is not a directory", from), err)
	}
	t, err := resolve(store)
	if err == nil {
		store, err = plannedPath(t.Store)
	}
	if err != nil {
		return "", err
	}
	places := [][2]string{{"the store", store}}
	all, err := mounts()
	for _, m := range all {
		if m.Type == fsType && m.Source == store {
			places = append(places, [2]string{"the mountpoint", m.Point})
		}
	}
	for _, p := range places {
		switch what, path := p[0], p[1]; {
		case from == path:
			return "", fmt.Errorf("%s is %s itself", from, what)
		case isWithin(from, path):
			return "", fmt.Errorf("%s is inside %s %s", from, what, path)
		case isWithin(path, from):
			return "", fmt.Errorf("%s %s is inside %s; import the directories beside it one by one, with --scope", what, path, from)
		}
	}
	return from, err
}

// openForImport opens the store, and creates it when nothing is there. A
// directory that is empty may be a mountpoint whose store is not mounted: that
// one becomes a store only when somebody says so. To list what would be done
// there need not be a store: nil.
func openForImport(ctx context.Context, store string, o importOptions) (service, error) {
	entries, err := os.ReadDir(store)
	missing, empty := errors.Is(err, os.ErrNotExist), err == nil && len(entries) == 0
	if empty {
		if t, err := resolve(store); err != nil || t.Mount != "" {
			empty = false // an empty mount
		}
	}
	switch {
	case empty && !o.create:
		return nil, fmt.Errorf("%s: %w, but an empty directory; to make a store of it, add --create (if it is a mountpoint whose store is not mounted, name the store)",
			store, storedir.ErrNoStore)
	case (missing || empty) && o.dryRun:
		return nil, nil
	case o.dryRun:
		return openService(ctx, store, importVerb+" --dry-run")
	}
	return openServiceAs(ctx, store, storedir.Options{Command: importVerb, Create: missing || empty})
}

// open opens what the import writes to: the mount, or the live tree itself.
func (im *importer) open(ctx context.Context) error {
	l, isLocal := im.service.(*local)
	point, reserved := "", ""
	if isLocal {
		reserved = l.snapDirName
	} else {
		st, err := im.service.Status(ctx)
		if err != nil {
			return err
		}
		point, reserved = st.Mountpoint, filepath.Base(st.SnapDir)
	}
	if err := im.checkNames(reserved); err != nil {
		return err
	}
	where, err := point, error(nil)
	if isLocal {
		where = l.dir.Path()
		im.to, err = newTreeSink(l, im.opts.scope)
	} else {
		im.to, err = newMountSink(point, im.opts.scope)
	}
	if err != nil {
		return fmt.Errorf("opening %s: %w", filepath.Join(where, im.opts.scope), err)
	}
	return nil
}

// mountSink is a directory on a mount, for one import at a time: two would take
// the unfinished files of each other for leftovers. A store that is opened here
// has its own lock.
type mountSink struct {
	dirSink
	lock *os.File
}

func (s *mountSink) Close() error { return errors.Join(s.dirSink.Close(), s.lock.Close()) }

// newMountSink makes the directory if it is not there.
func newMountSink(point, scope string) (_ sink, err error) {
	s := &mountSink{}
	if s.lock, err = os.Open(point); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.lock.Close())
		}
	}()
	if err := unix.Flock(int(s.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return nil, &codedError{exitInUse, errors.New("another import is under way there")}
	} else if err != nil {
		return nil, fmt.Errorf("locking %s: %w", point, err)
	}
	root, err := os.OpenRoot(point)
	if err != nil {
		return nil, err
	}
	if s.Root = root; scope == "" {
		return s, nil
	}
	defer root.Close()
	if err := root.MkdirAll(scope, 0o755); err != nil {
		return nil, err
	}
	s.Root, err = root.OpenRoot(scope)
	return s, err
}

// checkNames refuses what would go where the mount shows its snapshots.
func (im *importer) checkNames(reserved string) error {
	if first, _, _ := strings.Cut(im.opts.scope, "/"); first == reserved {
		return fmt.Errorf("--scope: %s is where the snapshots are", reserved)
	}
	if im.opts.scope != "" {
		return nil
	}
	entries, err := os.ReadDir(im.from) // what a look-up finds may be that of another stepfs
	if err != nil {
		return fmt.Errorf("looking through %s: %w", im.from, err)
	}
	for _, e := range entries {
		if e.Name() == reserved {
			return fmt.Errorf("%s has an entry called %s, which is where the mount shows its snapshots; rename it, import with --scope into a directory of the mount, or mount with --snapdir-name and --save-settings first",
				im.from, reserved)
		}
	}
	return nil
}
