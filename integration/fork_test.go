package integration

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"testing"
)

// TestForkInMidWrite: a process that starts another one while it writes has not
// closed its file: no snapshot shows half of it. Once it has, all do.
func TestForkInMidWrite(t *testing.T) {
	d := mount(t)
	f, err := os.Create(d.Mnt + "/model")
	must(t, err)
	defer f.Close()
	_, err = f.Write(make([]byte, 100_000))
	must(t, err)
	_, err = f.WriteAt([]byte("in place"), 5000) // or an explicit snapshot takes it as growing
	must(t, err)
	must(t, exec.Command("true").Run())                     // closed at the exec
	must(t, exec.Command("sh", "-c", "true; (true)").Run()) // and again
	inherits := exec.Command("sh", "-c", "exec 3>&-")
	inherits.ExtraFiles = []*os.File{f}
	must(t, inherits.Run())
	snap := snapshotNow(t, d, "half")
	if _, err := os.Stat(snap + "/model"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half a file is in a snapshot: %v", err)
	}
	// A child that writes for us has the last word on what it wrote.
	writes := exec.Command("sh", "-c", "echo more >&3")
	writes.ExtraFiles = []*os.File{f}
	must(t, writes.Run())
	// What was changed by its path is not finished either while it is open.
	g, err := os.OpenFile(d.Mnt+"/by-path", os.O_CREATE|os.O_RDWR, 0o644)
	must(t, err)
	defer g.Close()
	must(t, os.Truncate(d.Mnt+"/by-path", 77))
	must(t, exec.Command("true").Run())
	if _, err := os.Stat(snapshotNow(t, d, "by-path") + "/by-path"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is open, and was never closed, is in a snapshot: %v", err)
	}
	must(t, f.Close())
	want, err := os.ReadFile(d.Mnt + "/model")
	must(t, err)
	holds(t, snapshotNow(t, d, "whole")+"/model", want, "closed")

	// The descriptor outlives its writer: passed to somebody who writes nothing.
	shell(t, "sh", "-c", `(echo done; exec 3>&1) >"$0"/passed; sleep 0`, d.Mnt)
	shell(t, "sh", "-c", `exec 3>"$0"/left; sh -c 'echo left >&3'; exec 3>&-`, d.Mnt)
	snap = snapshotNow(t, d, "passed")
	holds(t, snap+"/passed", []byte("done\n"), "closed by a shell")
	holds(t, snap+"/left", []byte("left\n"), "closed by a shell, written by its child")
}
