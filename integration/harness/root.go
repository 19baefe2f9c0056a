package harness

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
)

// Root is the directory of one run: the binary, the stores, the mountpoints.
type Root struct {
	Dir string
	Bin string // the binary under test

	mu      sync.Mutex
	daemons []*Daemon // all that were ever started
}

// NewRoot makes the directory of a run below parent ("" is the system's
// temporary directory) and has it cleaned up on SIGINT and SIGTERM.
func NewRoot(parent string) (*Root, error) {
	// The number of the process tells tools/sweep.sh whether the run goes on.
	dir, err := os.MkdirTemp(parent, fmt.Sprintf("stepfs-run-%d-", os.Getpid()))
	if err != nil {
		return nil, err
	}
	r := &Root{Dir: dir}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-signals
		r.Close()
		os.Exit(130)
	}()
	return r, nil
}

// Build builds the binary into the root, with the race detector when asked.
func (r *Root) Build(race bool) error {
	module, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("find the module: %w", err)
	}
	r.Bin = filepath.Join(r.Dir, "stepfs")
	args := []string{"build", "-o", r.Bin}
	if race {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "./cmd/stepfs")...)
	cmd.Dir = string(module[:len(module)-1])
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build stepfs: %w\n%s", err, out)
	}
	return nil
}

// MkdirTemp makes a new directory in the root.
func (r *Root) MkdirTemp(name string) (string, error) {
	return os.MkdirTemp(r.Dir, name+"-")
}

// Close kills every daemon, unmounts everything below the root and removes it.
func (r *Root) Close() error {
	r.mu.Lock()
	daemons := r.daemons
	r.mu.Unlock()
	var errs []error
	for _, d := range daemons {
		errs = append(errs, d.Close())
	}
	mounts, err := MountsBelow(r.Dir)
	errs = append(errs, err)
	for i := len(mounts) - 1; i >= 0; i-- { // the innermost first
		errs = append(errs, unmountLazily(mounts[i].Target))
	}
	if err := errors.Join(errs...); err != nil {
		return err // never remove what may still be mounted
	}
	return os.RemoveAll(r.Dir)
}

// Leftovers tells of every mount, process and loop device of this run that is
// still there. A run that ends well has none.
func (r *Root) Leftovers() ([]string, error) {
	var left []string
	mounts, err := MountsBelow(r.Dir)
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		if m.Target == r.Dir {
			continue // the root itself, see Share
		}
		left = append(left, "mount "+m.Target+" ("+m.Type+")")
	}
	pids, err := processesOf(r.Bin)
	if err != nil {
		return nil, err
	}
	for _, pid := range pids {
		left = append(left, fmt.Sprintf("process %d of %s", pid, r.Bin))
	}
	loops, err := loopsBelow(r.Dir)
	return append(left, loops...), err
}
