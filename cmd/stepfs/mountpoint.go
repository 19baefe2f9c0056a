package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	stepfsfs "stepfs/fs"
)

// fuseDevice is what every FUSE mount needs.
const fuseDevice = "/dev/fuse"

// autofsType is what systemd mounts where an x-systemd.automount is.
const autofsType = "autofs"

// checkMountpoint returns the mountpoint, absolute and without links, or says
// what is in the way. What daemons of ours that have died left there is taken
// away, and said hears of it.
func checkMountpoint(arg, store string, said func(string)) (string, error) {
	point, err := cleared(arg, said)
	if err != nil {
		return "", err
	}
	auto, err := checkPlaces(point, store)
	if err != nil || auto {
		return point, err
	}
	// Import first: the originals are where they were until all of it is in the
	// store. -T, lest a directory that is there swallows them.
	at, old := shellQuote(point), shellQuote(point+".before")
	return point, checkEmpty(point, fmt.Sprintf("; bring what is there in, while no job writes to it, with:\n  stepfs import --create %s %s &&\n  mv -T %s %s && mkdir %s &&\n  stepfs mount -d %s %s",
		shellQuote(store), at, at, old, at, shellQuote(store), at))
}

// cleared is the directory of a mountpoint, with what has died there taken away.
func cleared(arg string, said func(string)) (string, error) {
	abs, err := filepath.Abs(arg)
	if err != nil {
		return "", fmt.Errorf("resolving the mountpoint: %w", err)
	}
	point, err := realPath(abs)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("the mountpoint %s does not exist; make it with: mkdir -p %s", abs, shellQuote(abs))
	case errors.Is(err, unix.ENOTCONN):
		return "", fmt.Errorf("the mountpoint %s is on a filesystem whose process has died: %w", abs, err)
	case err != nil:
		return "", fmt.Errorf("looking at the mountpoint: %w", err)
	}
	if err := clearStale(point, said); err != nil {
		return "", err
	}
	return point, nil
}

// checkPlaces refuses a mountpoint that would hide the store, or be in it. It
// says whether an automount waits there for somebody to mount: whoever opens that
// directory, to look whether it is empty, waits for himself.
func checkPlaces(point, store string) (auto bool, err error) {
	all, err := mounts()
	if err != nil {
		return false, err
	}
	switch {
	case point == store:
		return false, fmt.Errorf("the mountpoint and the store are the same directory, %s", point)
	case isWithin(point, store):
		return false, fmt.Errorf("the mountpoint %s is inside the store %s", point, store)
	case isWithin(store, point):
		return false, fmt.Errorf("the store %s is inside the mountpoint %s and would be hidden by it", store, point)
	}
	if m, ok := mountAt(all, point); ok {
		switch m.Type {
		case autofsType:
			auto = true
		case fsType:
			return false, fmt.Errorf("%s is already mounted: it is the stepfs of store %s; end it with: stepfs umount %s", point, m.Source, shellQuote(point))
		default:
			return false, fmt.Errorf("%s is already mounted: it holds a %s (%s); mount on a directory in it", point, m.Type, m.Source)
		}
	}
	if m, ok := mountOver(all, store); ok && m.Type == fsType {
		return false, fmt.Errorf("the store %s would be on the stepfs mount %s; a store goes on a disk", store, m.Point)
	}
	return auto, nil
}

// checkEmpty: what is in the directory would be hidden for as long as stepfs is
// mounted, and a job that looks for its last checkpoint would not find it.
func checkEmpty(point, wayOut string) error {
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
	return fmt.Errorf("the mountpoint %s is not empty (%s)%s", point, names[0], wayOut)
}

// checkFuse says what a FUSE mount lacks here.
func checkFuse(o *mountOptions) error {
	f, err := os.OpenFile(fuseDevice, os.O_RDWR, 0)
	if err == nil {
		err = f.Close()
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return &systemError{fmt.Errorf("there is no %s: load the module with: modprobe fuse; in a container, start it with: --device %s --cap-add SYS_ADMIN",
			fuseDevice, fuseDevice)}
	case errors.Is(err, fs.ErrPermission):
		return &systemError{fmt.Errorf("%s is not for uid %d: %w; in a container, start it with: --device %s --cap-add SYS_ADMIN",
			fuseDevice, os.Geteuid(), err, fuseDevice)}
	case err != nil:
		return &systemError{fmt.Errorf("opening %s: %w", fuseDevice, err)}
	}
	if os.Geteuid() == 0 {
		return nil
	}
	if _, err := stepfsfs.HelperPath(); err != nil {
		return &systemError{err}
	}
	switch {
	case o.allowOther && !userAllowOther():
		return errors.New("--allow-other needs the line user_allow_other in /etc/fuse.conf")
	case o.kernel.Suid || o.kernel.Dev:
		return errors.New("only root can mount with the options suid and dev")
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
