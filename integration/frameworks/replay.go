package frameworks

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// replayer does the operations of a script with plain system calls.
type replayer struct {
	contents map[string][]byte
	open     map[string]*os.File
}

// replay does the first n operations of a script in the current directory, and
// if they are not all, kills this process. N in the script is the step.
func replay(script, step string, n int, contents map[string][]byte) error {
	r := &replayer{contents, map[string]*os.File{}}
	for k, line := range operations(script) {
		if k == n {
			die()
			runtime.KeepAlive(r) // its files are open until then
		}
		f := strings.Fields(strings.ReplaceAll(line, "N", step))
		if len(f) == 2 {
			f = append(f, "")
		}
		if err := r.do(f[0], f[1], f[2]); err != nil {
			return fmt.Errorf("%s: %w", line, err)
		}
	}
	return nil
}

// operations gives the lines of a script.
func operations(script string) (ops []string) {
	for line := range strings.Lines(script) {
		if line = strings.TrimSpace(line); line != "" {
			ops = append(ops, line)
		}
	}
	return ops
}

func (r *replayer) do(op, path, arg string) (err error) {
	switch op {
	case "mkdir":
		if err = os.Mkdir(path, 0o755); os.IsExist(err) {
			err = nil
		}
	case "open":
		r.open[path], err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	case "write":
		_, err = r.open[path].Write(r.content(arg))
	case "truncate":
		err = r.open[path].Truncate(int64(len(r.content(arg))))
	case "fsync":
		err = r.open[path].Sync()
	case "close":
		err = r.open[path].Close()
	case "put":
		err = os.WriteFile(path, r.content(arg), 0o644)
	case "rename":
		err = os.Rename(path, arg)
	case "unlink":
		err = os.Remove(path)
	case "chmod":
		err = os.Chmod(path, 0o600)
	case "symlink":
		_ = os.Remove(arg) // of the step before
		err = os.Symlink(path, arg)
	default:
		err = fmt.Errorf("there is no operation %q", op)
	}
	return err
}

// content is one of the files that real PyTorch wrote, half of one, or the
// words themselves.
func (r *replayer) content(arg string) []byte {
	name, half, _ := strings.Cut(arg, "/")
	b, ok := r.contents[name]
	switch {
	case !ok:
		return []byte(arg)
	case half == "1":
		return b[:len(b)/2]
	case half == "2":
		return b[len(b)/2:]
	}
	return b
}

// readContents reads the files of a directory.
func readContents(dir string) (map[string][]byte, error) {
	all := map[string][]byte{}
	es, err := os.ReadDir(dir)
	for _, e := range es {
		if all[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			break
		}
	}
	return all, err
}

// die ends this process as kill -9 does.
func die() {
	for {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
}
