package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Main is a package's TestMain: it makes root, with the binary that STEPFS_BIN
// names or one that is built (STEPFS_RACE=1: under the race detector), runs
// prepare, which may be nil, and the tests, and gives the exit code. What they
// leave behind is a failure.
func Main(m *testing.M, root **Root, prepare func() error) int {
	if err := begin(root, prepare); err != nil {
		fmt.Fprintln(os.Stderr, err)
		if *root != nil {
			(*root).Close()
		}
		return 1
	}
	defer (*root).Close()
	code := m.Run()
	left, err := (*root).Leftovers()
	if err != nil || len(left) > 0 {
		fmt.Fprintf(os.Stderr, "left behind (%v): %q\n", err, left)
		return 1
	}
	return code
}

func begin(root **Root, prepare func() error) (err error) {
	if *root, err = NewRoot(""); err != nil {
		return err
	}
	if bin := os.Getenv("STEPFS_BIN"); bin != "" {
		(*root).Bin, err = filepath.Abs(bin)
	} else {
		err = (*root).Build(os.Getenv("STEPFS_RACE") == "1")
	}
	if err == nil && prepare != nil {
		err = prepare()
	}
	return err
}

// lastWords is the end of what a daemon said, as a failed test shows it. CI has
// it short, since of a test it shows the end, and the reason comes before.
func lastWords(output string) string {
	most := 200
	if os.Getenv("CI") != "" {
		most = 5
	}
	lines := strings.Split(strings.TrimSpace(output), "\n")
	return strings.Join(lines[max(0, len(lines)-most):], "\n")
}

// Prepare gives a daemon that has not been started; it is gone when the test
// ends.
func (r *Root) Prepare(t *testing.T, args ...string) *Daemon {
	t.Helper()
	d, err := r.NewDaemon(args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the daemon said:\n%s", lastWords(d.Output()))
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Dir(d.Mnt)); err != nil {
			t.Fatal(err)
		}
	})
	return d
}
