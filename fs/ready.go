package fs

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// readAheadKB is how far the kernel reads ahead on the mount. Its default of
// 128 KiB would be eight requests to the megabyte.
const readAheadKB = 4096

// WaitReady returns once the mount answers, and tunes the kernel's side of it
// as far as the caller's rights go. Serve must be running.
func (s *Server) WaitReady() error {
	// The daemon asks its own mount, so it must not hold a file of it open: if
	// it were killed then, the kernel would wait, while it closes that file, for
	// an answer that never comes.
	var st unix.Statfs_t
	if err := unix.Statfs(s.conn.Mountpoint, &st); err != nil && err != unix.ENOSYS {
		return fmt.Errorf("the mount does not answer: %w", err)
	}
	if dev, err := mountDevice(s.conn.Mountpoint); err == nil {
		// Needs root; without it reads are slower, that is all.
		_ = os.WriteFile("/sys/class/bdi/"+dev+"/read_ahead_kb", []byte(strconv.Itoa(readAheadKB)), 0o644)
	}
	return nil
}

// mountDevice gives the "major:minor" of what is mounted on dir, without
// touching it.
func mountDevice(dir string) (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer f.Close()
	dev := ""
	for sc := bufio.NewScanner(f); sc.Scan(); {
		// id parent major:minor root mountpoint options …
		if w := strings.Fields(sc.Text()); len(w) > 4 && unescapeMount(w[4]) == dir {
			dev = w[2] // the last one is on top
		}
	}
	if dev == "" {
		return "", fmt.Errorf("%s is not a mountpoint", dir)
	}
	return dev, nil
}

// unescapeMount undoes the octal escapes of mountinfo.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
