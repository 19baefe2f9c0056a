package fs

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// readAheadKB is how far the kernel reads ahead on the mount. Its default of
// 128 KiB would be eight requests to the megabyte.
const readAheadKB = 4096

// Tune sets the kernel's side of the mount as far as the caller's rights go.
//
// The mount answers as soon as Serve runs: INIT was answered by NewServer, and
// the kernel keeps requests until they are read. Nobody asks it to be sure: a
// daemon that is killed while it waits for an answer of its own mount does not
// die of it, since the thread that waits keeps the connection open.
func (s *Server) Tune() {
	if dev, err := mountDevice(s.conn.Mountpoint); err == nil {
		// Needs root; without it reads are slower, that is all.
		_ = os.WriteFile("/sys/class/bdi/"+dev+"/read_ahead_kb", []byte(strconv.Itoa(readAheadKB)), 0o644)
	}
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
