package posix

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary, started with this variable set, is a worker.
const workerEnv = "_STEPFS_POSIX_WORKER"

// serveCalls is the life of a worker: a line is a call, made in both trees one
// after the other, and the answer is a line, too.
func serveCalls(in io.Reader, out io.Writer) error {
	var sides [2]*side
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var reply string
		if dirs, ok := strings.CutPrefix(lines.Text(), "roots "); ok {
			unix.Umask(0o022)
			for i, dir := range strings.Split(dirs, "\t") {
				if sides[i] != nil {
					sides[i].leave()
				}
				var err error
				if sides[i], err = enter(dir); err != nil {
					return err
				}
			}
		} else {
			o, err := parseOp(lines.Text())
			if err != nil {
				return err
			}
			reply = answer(o, sides)
		}
		if _, err := fmt.Fprintln(out, reply); err != nil {
			return err
		}
	}
	return lines.Err()
}

// enter takes a directory as the root of a side; "" is none.
func enter(dir string) (*side, error) {
	if dir == "" {
		return nil, nil
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("enter %s: %w", dir, err)
	}
	return &side{root: fd, fds: map[string]*desc{}}, nil
}

// leave closes all that is open.
func (s *side) leave() {
	for _, d := range s.fds {
		unix.Close(d.fd)
	}
	unix.Close(s.root)
}

// answer makes a call in both trees: of each, quoted, what came of it, and the
// number of the descriptor that it made.
func answer(o op, sides [2]*side) string {
	var words []string
	for i, s := range sides {
		result := ""
		s.last = -1
		if kinds[o.kind].how&wantsPeerOff == 0 || i != peer {
			text, err := kinds[o.kind].call(s, o.args)
			if result = errnoName(err); err == nil {
				result += " " + text
			}
		}
		words = append(words, strconv.Quote(result), strconv.Itoa(s.last))
	}
	return strings.Join(words, "\t")
}

// worker is the harness's side of one.
type worker struct {
	name  string
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string
	fds   map[string][2]int // by slot, its number in each tree
}

// startWorker starts a worker for one of the people.
func startWorker(bin, name string, uid, gid uint32) (*worker, error) {
	w := &worker{name: name, cmd: exec.Command(bin), lines: make(chan string, 1), fds: map[string][2]int{}}
	// Signals that the scheduler sends its own threads would interrupt calls.
	w.cmd.Env = append(os.Environ(), workerEnv+"=1", "GODEBUG=asyncpreemptoff=1", "GOMAXPROCS=1")
	w.cmd.Stderr = os.Stderr
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	if uid != 0 {
		w.cmd.SysProcAttr.Credential.Groups = []uint32{sharedGroup}
	}
	var err error
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := w.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		defer close(w.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			w.lines <- s.Text()
		}
	}()
	return w, nil
}

// hangs bounds one call: a guard, far above what any takes.
const hangs = 60 * time.Second

func (w *worker) ask(line string) (string, error) {
	if _, err := fmt.Fprintln(w.in, line); err != nil {
		return "", fmt.Errorf("%s is gone: %w", w.name, err)
	}
	select {
	case reply, ok := <-w.lines:
		if !ok {
			return "", fmt.Errorf("%s has died of %q", w.name, line)
		}
		return reply, nil
	case <-time.After(hangs):
		return "", fmt.Errorf("%s hangs in %q", w.name, line)
	}
}

// enter has the worker work in these directories, with nothing open; "" leaves
// a tree.
func (w *worker) enter(dirs [2]string) error {
	clear(w.fds)
	_, err := w.ask("roots " + dirs[0] + "\t" + dirs[1])
	return err
}

// do has the worker make a call in both trees.
func (w *worker) do(o op) (results [2]string, err error) {
	reply, err := w.ask(o.String())
	if err != nil {
		return results, err
	}
	words := strings.Split(reply, "\t")
	if len(words) != 4 {
		return results, fmt.Errorf("%s says %q", w.name, reply)
	}
	var made [2]int
	for i := range results {
		var err1, err2 error
		results[i], err1 = strconv.Unquote(words[2*i])
		made[i], err2 = strconv.Atoi(words[2*i+1])
		if err := errors.Join(err1, err2); err != nil {
			return results, err
		}
	}
	switch {
	case o.kind == "close":
		delete(w.fds, o.args[0])
	case made[0] >= 0 && made[1] >= 0:
		slot := o.args[0]
		if o.kind == "dup" {
			slot = o.args[1]
		}
		w.fds[slot] = made
	}
	return results, nil
}

// file is the path by which the harness reaches what a worker has open.
func (w *worker) file(slot string, tree int) string {
	return fmt.Sprintf("/proc/%d/fd/%d", w.cmd.Process.Pid, w.fds[slot][tree])
}

// stop ends the worker. Its end closes what it has open, as any process's.
func (w *worker) stop() error {
	return errors.Join(w.in.Close(), w.cmd.Wait())
}
