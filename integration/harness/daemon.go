package harness

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// readyTimeout bounds the wait for a mount. It is a guard against hanging, far
// above what a mount takes, not a promise.
const readyTimeout = 60 * time.Second

// dieTimeout bounds the end of a process after SIGKILL, likewise.
const dieTimeout = 15 * time.Second

// Daemon is one `stepfs mount STORE MNT` in the foreground. It can be started
// again after it has ended, on the same store.
type Daemon struct {
	Root       *Root
	Store, Mnt string
	Args       []string // flags of mount
	Env        []string // added to the environment
	Cgroup     *Cgroup  // where it runs, nil: where we run
	CPUs       string   // a taskset list, "" for all
	Wrap       []string // a command that it is run by, like prlimit
	BootID     string   // what it takes for the kernel's boot id, "" for the real one

	cmd  *exec.Cmd
	done chan struct{} // closed once the process has been waited for
	out  output
}

// NewDaemon makes a store and a mountpoint below the root; Start mounts.
func (r *Root) NewDaemon(args ...string) (*Daemon, error) {
	dir, err := r.MkdirTemp("fs")
	if err != nil {
		return nil, err
	}
	d := &Daemon{Root: r, Store: dir + "/store", Mnt: dir + "/mnt", Args: args}
	if err := os.Mkdir(d.Mnt, 0o755); err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.daemons = append(r.daemons, d)
	r.mu.Unlock()
	return d, nil
}

// Start mounts, and returns once the daemon says so and the mount answers.
func (d *Daemon) Start() error {
	if err := d.Launch(); err != nil {
		return err
	}
	return d.waitReady()
}

// Launch starts the daemon and does not wait for anything.
func (d *Daemon) Launch() error {
	argv := append([]string{d.Root.Bin, "mount"}, d.Args...)
	argv = append(argv, d.Store, d.Mnt)
	argv = append(slices.Clone(d.Wrap), argv...)
	if d.CPUs != "" {
		argv = append([]string{"taskset", "-c", d.CPUs}, argv...)
	}
	if d.BootID != "" {
		prefix, err := d.otherBoot()
		if err != nil {
			return err
		}
		argv = append(prefix, argv...)
	}
	if d.Cgroup != nil {
		argv = append(d.Cgroup.enter(), argv...)
	}
	d.out.Reset()
	d.cmd = exec.Command(argv[0], argv[1:]...)
	d.cmd.Env = append(os.Environ(), d.Env...)
	d.cmd.Stdout, d.cmd.Stderr = &d.out, &d.out
	// Its own group: a Ctrl-C at our terminal is ours to handle, see NewRoot.
	d.cmd.WaitDelay = time.Second // what holds its output open is not waited for
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		return err
	}
	d.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		cmd.Wait()
		close(done)
	}(d.cmd, d.done)
	return nil
}

func (d *Daemon) waitReady() error {
	deadline := time.After(readyTimeout)
	for {
		// In this order: a dead mount is named in the output once it is gone.
		if strings.Contains(d.Output(), d.Mnt) {
			_, unanswered := os.Stat(d.Mnt)
			mounted, err := Mounted(d.Mnt)
			if err != nil {
				return err
			}
			if mounted && unanswered == nil {
				return nil
			}
		}
		select {
		case <-d.done:
			return fmt.Errorf("stepfs mount ended: %v\n%s", d.cmd.ProcessState, d.Output())
		case <-deadline:
			return fmt.Errorf("stepfs mount is not ready after %v\n%s", readyTimeout, d.Output())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// Pid is the daemon's process id.
func (d *Daemon) Pid() int { return d.cmd.Process.Pid }

// Running says whether the daemon has been started and has not ended.
func (d *Daemon) Running() bool {
	if d.done == nil {
		return false
	}
	select {
	case <-d.done:
		return false
	default:
		return true
	}
}

// Output is what the daemon printed since its start.
func (d *Daemon) Output() string { return d.out.String() }

// Kill is Die, and takes the dead mount away.
func (d *Daemon) Kill() error {
	return errors.Join(d.Die(), unmountLazily(d.Mnt))
}

// Die kills the daemon as `kill -9` does and leaves the dead mount to the next
// start. A daemon that does not die of it waits for itself: it is freed by
// force, and that is an error.
func (d *Daemon) Die() error {
	if d.Running() {
		d.cmd.Process.Kill()
		if _, err := d.Wait(dieTimeout); err != nil {
			forceUnmount(d.Mnt)
			<-d.done
			return errors.New("kill -9 did not end the daemon: it waits for an answer of its own mount")
		}
	}
	return nil
}

// Signal sends a signal to the daemon.
func (d *Daemon) Signal(s os.Signal) error { return d.cmd.Process.Signal(s) }

// Wait waits for the daemon to end and gives its exit code; a time-out is an error.
func (d *Daemon) Wait(limit time.Duration) (code int, err error) {
	select {
	case <-d.done:
		return d.cmd.ProcessState.ExitCode(), nil
	case <-time.After(limit):
		return -1, fmt.Errorf("stepfs mount goes on after %v\n%s", limit, d.Output())
	}
}

// Stop ends the daemon with SIGTERM. It must leave with 0 and unmount.
func (d *Daemon) Stop() error {
	if !d.Running() {
		return errors.New("stop: the daemon does not run")
	}
	if err := d.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	code, err := d.Wait(readyTimeout)
	if err != nil {
		return err
	}
	if code != 0 {
		return fmt.Errorf("stop: exit code %d\n%s", code, d.Output())
	}
	if mounted, err := Mounted(d.Mnt); err != nil || mounted {
		return fmt.Errorf("stop: still mounted: %v (%v)\n%s", mounted, err, d.Output())
	}
	return nil
}

// Close leaves nothing running or mounted, whatever state the daemon is in.
func (d *Daemon) Close() error { return d.Kill() }

// output collects what a process prints.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func (o *output) Reset() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf.Reset()
}
