package fs

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// epollHackName is a file that go-fuse's protocol server shows in the root, in
// order to answer a POLL with "not implemented", once. Without it a Go program
// that opens files on a mount that it serves itself can block: its runtime
// polls the file while it holds the last of its threads.
const epollHackName = ".go-fuse-epoll-hack"

// readAheadKB is how far the kernel reads ahead on the mount. Its default of
// 128 KiB would be eight requests to the megabyte.
const readAheadKB = 4096

// WaitReady returns once the mount answers, and tunes the kernel's side of it
// as far as the caller's rights go. Serve must be running.
func (s *Server) WaitReady() error {
	fd, err := unix.Open(filepath.Join(s.conn.Mountpoint, epollHackName), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("the mount does not answer: %w", err)
	}
	defer unix.Close(fd)
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0) // the question alone matters
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
