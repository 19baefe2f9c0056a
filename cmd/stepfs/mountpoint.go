package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	stepfsfs "stepfs/fs"
)

// fuseDevice is what every FUSE mount needs.
const fuseDevice = "/dev/fuse"

// checkMountpoint returns the mountpoint, absolute and without links, or says
// what is in the way. A mount of ours whose daemon has died is taken away, and
// said hears of it.
func checkMountpoint(arg, store string, said func(string)) (string, error) {
	abs, err := filepath.Abs(arg)
	if err != nil {
		return "", fmt.Errorf("resolving the mountpoint: %w", err)
	}
	if err := clearStale(abs, said); err != nil {
		return "", err
	}
	point, err := filepath.EvalSymlinks(abs)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("the mountpoint %s does not exist; make it with: mkdir -p %s", abs, shellQuote(abs))
	case err != nil:
		return "", fmt.Errorf("looking at the mountpoint: %w", err)
	}
	if point != abs {
		if err := clearStale(point, said); err != nil {
			return "", err
		}
	}
	if err := checkPlaces(point, store); err != nil {
		return "", err
	}
	return point, checkEmpty(point, store)
}

// clearStale unmounts what a dead daemon of ours left at path.
func clearStale(path string, said func(string)) error {
	if !isDead(path) {
		return nil
	}
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
		return fmt.Errorf("%s was left mounted by a stepfs that died, and cannot be unmounted: %w", path, err)
	}
	said(fmt.Sprintf("%s was left mounted by a stepfs that died (of store %s); unmounted it", path, m.Source))
	return nil
}

// isDead says whether path is a mount whose process has died. stat(2) does not
// tell: the kernel may answer it from what it remembers. statfs(2) always asks.
func isDead(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == unix.ENOTCONN
}

// checkPlaces refuses a mountpoint that would hide the store, or be in it.
func checkPlaces(point, store string) error {
	all, err := mounts()
	if err != nil {
		return err
	}
	switch {
	case point == store:
		return fmt.Errorf("the mountpoint and the store are the same directory, %s", point)
	case isWithin(point, store):
		return fmt.Errorf("the mountpoint %s is inside the store %s", point, store)
	case isWithin(store, point):
		return fmt.Errorf("the store %s is inside the mountpoint %s and would be hidden by it", store, point)
	}
	if m, ok := mountAt(all, point); ok {
		if m.Type == fsType {
			return fmt.Errorf("%s is already mounted: it is the stepfs of store %s; end it with: stepfs umount %s", point, m.Source, shellQuote(point))
		}
		return fmt.Errorf("%s is already mounted: it holds a %s (%s); mount on a directory in it", point, m.Type, m.Source)
	}
	if m, ok := mountOver(all, store); ok && m.Type == fsType {
		return fmt.Errorf("the store %s would be on the stepfs mount %s; a store goes on a disk", store, m.Point)
	}
	return nil
}

// checkEmpty: what is in the directory would be hidden for as long as stepfs is
// mounted, and a job that looks for its last checkpoint would not find it.
func checkEmpty(point, store string) error {
	d, err := os.Open(point)
	if err != nil {
		return fmt.Errorf("opening the mountpoint: %w", err)
	}
	defer d.Close()
	st, err := d.Stat()
	if err != nil {
		return fmt.Errorf("looking at the mountpoint: %w", err)
	}
	if !st.IsDir() {
		return fmt.Errorf("the mountpoint %s is not a directory", point)
	}
	names, err := d.Readdirnames(1)
	if len(names) == 0 {
		if errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("reading the mountpoint: %w", err)
		}
		return nil
	}
	// Import first: the originals are where they were until all of it is in the
	// store. -T, lest a directory that is there swallows them.
	at, old := shellQuote(point), shellQuote(point+".before")
	return fmt.Errorf("the mountpoint %s is not empty (%s); bring what is there in, while no job writes to it, with:\n  stepfs import --create %s %s &&\n  mv -T %s %s && mkdir %s &&\n  stepfs mount -d %s %s",
		point, names[0], shellQuote(store), at, at, old, at, shellQuote(store), at)
}

// checkFuse says what a FUSE mount lacks here.
func checkFuse(allowOther bool) error {
	f, err := os.OpenFile(fuseDevice, os.O_RDWR, 0)
	if err == nil {
		err = f.Close()
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return fmt.Errorf("there is no %s: load the module with: modprobe fuse; in a container, start it with: --device %s --cap-add SYS_ADMIN",
			fuseDevice, fuseDevice)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s is not for uid %d: %w; in a container, start it with: --device %s --cap-add SYS_ADMIN",
			fuseDevice, os.Geteuid(), err, fuseDevice)
	case err != nil:
		return fmt.Errorf("opening %s: %w", fuseDevice, err)
	}
	if os.Geteuid() == 0 {
		return nil
	}
	if _, err := exec.LookPath("fusermount3"); err != nil {
		return errors.New("fusermount3 is missing, and only root can mount without it: install the package fuse3")
	}
	if allowOther && !userAllowOther() {
		return errors.New("--allow-other needs the line user_allow_other in /etc/fuse.conf")
	}
	return nil
}

func userAllowOther() bool {
	b, err := os.ReadFile("/etc/fuse.conf")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if strings.TrimSpace(line) == "user_allow_other" {
			return true
		}
	}
	return false
}

// shellQuote makes a path safe to paste into a shell.
func shellQuote(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !strings.ContainsRune("/._-+:@%=,", r) && !('a' <= r && r <= 'z') && !('A' <= r && r <= 'Z') && !('0' <= r && r <= '9')
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
