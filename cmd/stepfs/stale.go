package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	stepfsfs "stepfs/fs"
)

// clearStale unmounts what dead daemons of ours left at path, whoever still has
// something open there: it gets ENOTCONN as before. said hears of each.
func clearStale(path string, said func(string)) error {
	for isDead(path) {
		all, err := mounts()
		if err != nil {
			return err
		}
		m, ok := mountAt(all, path)
		if !ok || m.Type != fsType {
			return fmt.Errorf("%s is the mountpoint of a filesystem (%s) whose process has died; unmount it with: umount -l %s",
				path, orDash(m.Type), shellQuote(path))
		}
		if err := stepfsfs.Unmount(path, true); err != nil {
			return fmt.Errorf("%s was left mounted by a stepfs that died, and cannot be unmounted: %w; as root: umount -l %s",
				path, err, shellQuote(path))
		}
		said(fmt.Sprintf("%s was left mounted by a stepfs that died (of store %s); unmounted it", path, m.Source))
	}
	return nil
}

// remarkOnDead says of a mountpoint whose daemon has died that it is one: the
// commands work, on its store, but the job's every call there fails.
func remarkOnDead(t target) {
	if t.Mount != "" && isDead(t.Mount) {
		slog.Warn("the daemon of this mount has died: every call on it fails (transport endpoint is not connected)", "mountpoint", t.Mount,
			"mount it again", "stepfs mount -d "+shellQuote(t.Store)+" "+shellQuote(t.Mount), "or take it away", "stepfs umount "+shellQuote(t.Mount))
	}
}

// isDead says whether path is a mount whose process has died. stat(2) does not
// tell: the kernel may answer it from what it remembers. statfs(2) always asks,
// but must not set off an automount, which may be waiting for us; on a descriptor
// that only stands for the path it does not.
func isDead(path string) bool {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return errors.Is(err, unix.ENOTCONN)
	}
	defer unix.Close(fd)
	var st unix.Statfs_t
	return unix.Fstatfs(fd, &st) == unix.ENOTCONN
}

// realPath is path without links. Unlike filepath.EvalSymlinks it asks nothing
// of what is mounted at its end, which may be dead.
func realPath(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	return os.Readlink(filepath.Join("/proc/self/fd", strconv.Itoa(fd)))
}
