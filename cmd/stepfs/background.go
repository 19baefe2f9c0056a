package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// readyEnv tells a re-executed mount the descriptor on which its parent waits
// for the ready line.
const readyEnv = "_STEPFS_READY_FD"

// maxLog is the size at which a start of the daemon moves its log aside.
const maxLog = 10 << 20

// startBackground runs this very command again in a session of its own and
// returns once that one says that its mount answers. Until then the child has
// our stderr, so that its reason not to start is told by itself; we only take
// its exit code.
func startBackground(ctx context.Context, o *mountOptions, out io.Writer) error {
	r, w, err := os.Pipe()
	if err != nil {
		return &systemError{fmt.Errorf("starting in the background: %w", err)}
	}
	defer r.Close()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), readyEnv+"=3")
	cmd.ExtraFiles = []*os.File{w}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return &systemError{fmt.Errorf("starting in the background: %w", err)}
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) }) // it may have ended
	defer stop()

	var ready readyLine
	line, err := bufio.NewReader(r).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &ready)
	}
	if err == nil {
		notifyReady(ready)
		return errors.Join(printReady(out, ready, o.json), cmd.Process.Release())
	}
	waited := cmd.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var exit *exec.ExitError
	if errors.As(waited, &exit) && exit.Exited() {
		return &codedError{code: exit.ExitCode(), err: errReported}
	}
	return fmt.Errorf("the mount in the background ended: %v", cmd.ProcessState)
}

// readyPipe is where a background mount reports; nil in the foreground.
func readyPipe() *os.File {
	fd, err := strconv.Atoi(os.Getenv(readyEnv))
	if err != nil || fd < 3 {
		return nil
	}
	os.Unsetenv(readyEnv)
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "ready")
}

// announce says that a mount is ready: in the background to the parent, once
// the terminal is given up, else where people and systemd look.
func announce(ready *os.File, o *mountOptions, log string, line readyLine, out io.Writer) error {
	if ready == nil {
		notifyReady(line)
		return printReady(out, line, o.json)
	}
	if o.logFile != "" {
		log = o.logFile
	}
	return detach(ready, log, line)
}

// detach gives up the terminal: log to a file from here on, then tell the parent.
func detach(ready *os.File, path string, line readyLine) error {
	defer ready.Close()
	log, err := openLog(path)
	if err != nil {
		return err
	}
	defer log.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("detaching: %w", err)
	}
	defer null.Close()
	for to, from := range map[int]*os.File{0: null, 1: log, 2: log} {
		if err := unix.Dup3(int(from.Fd()), to, 0); err != nil {
			return fmt.Errorf("detaching: %w", err)
		}
	}
	// A working directory would keep some other filesystem busy.
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("detaching: %w", err)
	}
	return printJSON(ready, line)
}

// openLog appends to the log; a large one is moved aside first, so that two of
// them is the most there is.
func openLog(path string) (*os.File, error) {
	if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && st.Size() > maxLog {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, fmt.Errorf("rotating the log: %w", err)
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the log: %w", err)
	}
	return f, nil
}
