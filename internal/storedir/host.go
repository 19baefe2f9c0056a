package storedir

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// BootID names this boot of this kernel; "" where /proc does not say.
func BootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func hostName() string {
	if h, err := os.Hostname(); err == nil {
		return h
	}
	return "unknown"
}

// processStart is when the process began, in clock ticks after boot, and 0
// when there is none of that pid (or it is not visible from here).
func processStart(pid int) uint64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// Field 2 is the command in parentheses and may hold anything: count from its end.
	end := bytes.LastIndexByte(b, ')')
	fields := strings.Fields(string(b[end+1:]))
	const startField = 22 - 3
	if end < 0 || len(fields) <= startField {
		return 0
	}
	n, _ := strconv.ParseUint(fields[startField], 10, 64)
	return n
}

// maxSocketPath is what fits into sockaddr_un's sun_path with its final NUL.
const maxSocketPath = 107

// SocketPath is where the daemon of the store at path listens: STORE/stepfs.sock,
// or a name drawn from the path in a run directory when that is too long, or when
// the store is somebody else's, who could put a socket of their own there.
// Clients read it from the lease, so that another environment finds it too.
func SocketPath(path string) string {
	p := filepath.Join(path, SocketName)
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	trusted := err != nil || st.Uid == 0 || st.Uid == uint32(os.Geteuid())
	if len(p) <= maxSocketPath && trusted {
		return p
	}
	sum := sha256.Sum256([]byte(path))
	return filepath.Join(runDir(), fmt.Sprintf("%x.sock", sum[:12]))
}

func runDir() string {
	if os.Geteuid() == 0 {
		return "/run/stepfs"
	}
	if d := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(d) && len(d) <= 64 {
		return filepath.Join(d, "stepfs")
	}
	return filepath.Join("/tmp", fmt.Sprintf("stepfs-%d", os.Geteuid()))
}
