package suites

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestInPlace writes HDF5 files and numpy memory maps in place and reads them
// in another process, live and from a snapshot.
func TestInPlace(t *testing.T) {
	rounds := "20"
	if long {
		rounds = "400"
	}
	d := mount(t)
	w := mkdir(t, d.Mnt+"/w")
	shell(t, python, "testdata/inplace.py", "write", w, rounds)
	shell(t, python, "testdata/inplace.py", "verify", w, rounds)
	again(t, d, "w", byCp)
	then := d.Mnt + "/snapshots/again/w"
	shell(t, python, "testdata/inplace.py", "verify", then, rounds)
	// What is written later does not show in the snapshot.
	shell(t, python, "testdata/inplace.py", "write", w, "3")
	shell(t, python, "testdata/inplace.py", "verify", then, rounds)
	shell(t, python, "testdata/inplace.py", "verify", w, "3")
	noHotCopies(t, d)
	shell(t, python, "testdata/inplace.py", "verify", then, rounds)
}

// TestCompileAll compiles a good part of Python's library on ext4 and on the
// mount: the same bytes, and they are used.
func TestCompileAll(t *testing.T) {
	d := mount(t)
	library := strings.TrimSpace(shell(t, python, "-c", "import os; print(os.path.dirname(os.__file__))"))
	there, here := native(t), mkdir(t, d.Mnt+"/w")
	for _, pkg := range []string{"json", "asyncio", "email", "http", "logging", "xml", "concurrent"} {
		for _, base := range []string{there, here} {
			shell(t, "rsync", "-a", "--exclude=__pycache__", filepath.Join(library, pkg), base)
		}
	}
	for _, base := range []string{there, here} {
		shell(t, "env", "-C", base, "SOURCE_DATE_EPOCH=1", python, "-m", "compileall", "-q", "-j", "2", "--invalidation-mode=checked-hash", ".")
	}
	shell(t, "diff", "-r", there, here)
	compiled, err := filepath.Glob(here + "/*/__pycache__/*.pyc")
	must(t, err)
	if len(compiled) < 50 {
		t.Errorf("%d files were compiled", len(compiled))
	}
	again(t, d, "w", byTar)
	for _, base := range []string{here, d.Mnt + "/snapshots/again/w"} {
		cached := shell(t, "env", "-C", base, "PYTHONPATH="+base, python, "-v", "-c", "import email.parser, json.decoder; print(json.__file__)")
		if !strings.HasPrefix(cached, base+"/json") {
			t.Errorf("imported %s", cached)
		}
	}
	must(t, os.RemoveAll(here))
}
