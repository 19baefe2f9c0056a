package suites

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"testing"

	"stepfs/integration/harness"
)

// root is the directory of this run, with the binary in it.
var root *harness.Root

// long is for the soak: the same for longer.
var long = os.Getenv("STEPFS_SUITES") == "long"

// python has h5py and numpy; the tests do not look for another one.
const python = "/usr/bin/python3"

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(harness.Main(m, &root, nil))
}

// mount gives a running daemon on a new store; it is gone when the test ends.
func mount(t *testing.T, args ...string) *harness.Daemon {
	t.Helper()
	d := prepare(t, args...)
	must(t, d.Start())
	return d
}

// prepare is mount without the start.
func prepare(t *testing.T, args ...string) *harness.Daemon {
	t.Helper()
	return root.Prepare(t, args...)
}

// native is a directory on the disk of the stores.
func native(t *testing.T) string {
	t.Helper()
	dir, err := root.MkdirTemp("native")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	return dir
}

// mkdir makes a directory and gives its path.
func mkdir(t *testing.T, path string) string {
	t.Helper()
	must(t, os.Mkdir(path, 0o755))
	return path
}

// shell runs a command that has to end with 0 and gives what it printed.
func shell(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := command(name, args...)
	must(t, err)
	return out
}

func command(name string, args ...string) (string, error) {
	res, err := harness.Run(name, args...)
	if err == nil && res.Code != 0 {
		err = fmt.Errorf("exit code %d\n%.4000s", res.Code, res.Both())
	}
	if err != nil {
		err = fmt.Errorf("%s %q: %w", name, args, err)
	}
	return res.Stdout, err
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
