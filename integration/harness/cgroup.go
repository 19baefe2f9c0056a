package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// Cgroup is a memory cgroup of our own, of whichever version the machine has.
type Cgroup struct {
	dir string
}

// NewCgroup makes a cgroup with a limit on memory.
func NewCgroup(name string, limit int64) (*Cgroup, error) {
	const v1, v2 = "/sys/fs/cgroup/memory", "/sys/fs/cgroup"
	base, file := v1, "memory.limit_in_bytes"
	if controllers, err := os.ReadFile(v2 + "/cgroup.subtree_control"); err == nil {
		if !strings.Contains(string(controllers), "memory") {
			return nil, errors.New("cgroup v2 has no memory controller for children of its root")
		}
		base, file = v2, "memory.max"
	}
	c := &Cgroup{filepath.Join(base, fmt.Sprintf("%s-%d", name, os.Getpid()))}
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		return nil, fmt.Errorf("make a memory cgroup: %w", err)
	}
	if err := os.WriteFile(filepath.Join(c.dir, file), []byte(strconv.FormatInt(limit, 10)), 0o644); err != nil {
		c.Close()
		return nil, fmt.Errorf("limit a memory cgroup: %w", err)
	}
	return c, nil
}

// enter is the beginning of a command line whose rest runs in the cgroup.
func (c *Cgroup) enter() []string {
	return []string{"sh", "-c", `echo $$ >"$0/cgroup.procs" && exec "$@"`, c.dir}
}

// Command is a command that runs in the cgroup.
func (c *Cgroup) Command(name string, args ...string) *exec.Cmd {
	argv := append(append(c.enter(), name), args...)
	return exec.Command(argv[0], argv[1:]...)
}

// Close removes the cgroup, which nothing may run in any more.
func (c *Cgroup) Close() error { return os.Remove(c.dir) }
