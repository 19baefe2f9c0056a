package harness

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount is one line of /proc/self/mountinfo.
type Mount struct {
	Target, Type, Source string
}

// Mounts lists what is mounted, in the order of mounting.
func Mounts() ([]Mount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []Mount
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// id parent major:minor root target options [optional…] - type source options
		before, after, ok := strings.Cut(lines.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if ok && len(left) >= 5 && len(right) >= 2 {
			all = append(all, Mount{unescape(left[4]), right[0], unescape(right[1])})
		}
	}
	return all, lines.Err()
}

// MountsBelow lists what is mounted at or below dir.
func MountsBelow(dir string) ([]Mount, error) {
	all, err := Mounts()
	var below []Mount
	for _, m := range all {
		if m.Target == dir || strings.HasPrefix(m.Target, dir+"/") {
			below = append(below, m)
		}
	}
	return below, err
}

// Mounted says whether a FUSE file system is mounted at dir.
func Mounted(dir string) (bool, error) {
	below, err := MountsBelow(dir)
	for _, m := range below {
		if m.Target == dir && strings.HasPrefix(m.Type, "fuse") {
			return true, err
		}
	}
	return false, err
}

// unescape undoes mountinfo's octal escapes of blanks and backslashes.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// unmountLazily takes the mount at dir out of the tree whoever still uses it.
// It is not an error when nothing is mounted there.
func unmountLazily(dir string) error {
	err := unix.Unmount(dir, unix.MNT_DETACH)
	if errors.Is(err, unix.EPERM) {
		return runQuiet("fusermount3", "-u", "-z", dir)
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// forceUnmount has the kernel answer every request of the mount with an error.
func forceUnmount(dir string) error { return unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH) }

// processesOf lists the processes that run this binary.
func processesOf(bin string) ([]int, error) {
	if bin == "" {
		return nil, nil
	}
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	var pids []int
	for _, link := range links {
		exe, err := os.Readlink(link)
		if err != nil || strings.TrimSuffix(exe, " (deleted)") != bin {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, err
}
