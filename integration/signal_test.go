package integration

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"stepfs/integration/harness"
)

// leaveLimit is how long a daemon without work may take to leave: far more
// than it needs, far less than the grace that it must not wait for.
const leaveLimit = 20 * time.Second

// TestSignals: SIGTERM and Ctrl-C unmount an idle mount, and nothing is lost.
func TestSignals(t *testing.T) {
	for sig, codes := range map[syscall.Signal][]int{syscall.SIGTERM: {0}, syscall.SIGINT: {0, 130}} {
		t.Run(sig.String(), func(t *testing.T) {
			d := mount(t)
			fill(t, d.Mnt, 50, 1)
			want, err := harness.ReadTree(d.Mnt)
			must(t, err)
			must(t, d.Signal(sig))
			code, err := d.Wait(leaveLimit)
			must(t, err)
			if !contains(codes, code) {
				t.Errorf("exit code %d, want one of %v\n%s", code, codes, d.Output())
			}
			gone(t, d)
			must(t, d.Start())
			got, err := harness.ReadTree(d.Mnt)
			must(t, err)
			if diff := want.Diff(got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func contains(codes []int, code int) bool {
	for _, c := range codes {
		if c == code {
			return true
		}
	}
	return false
}

func gone(t *testing.T, d *harness.Daemon) {
	t.Helper()
	if mounted, err := harness.Mounted(d.Mnt); err != nil || mounted {
		t.Errorf("still mounted: %v (%v)\n%s", mounted, err, d.Output())
	}
}

// TestGrace: the daemon serves on while a file is open for writing, and leaves
// once it is closed; what was written meanwhile is kept.
func TestGrace(t *testing.T) {
	d := mount(t, "--grace", "10m")
	f, err := os.Create(d.Mnt + "/last.pt")
	must(t, err)
	defer f.Close()
	_, err = f.WriteString("the last ")
	must(t, err)
	must(t, d.Signal(syscall.SIGTERM))
	time.Sleep(300 * time.Millisecond)
	_, err = f.WriteString("checkpoint")
	must(t, err)
	if !d.Running() {
		t.Fatalf("it left with a file open for writing\n%s", d.Output())
	}
	must(t, f.Close())
	code, err := d.Wait(leaveLimit)
	must(t, err)
	if code != 0 {
		t.Errorf("exit code %d\n%s", code, d.Output())
	}
	gone(t, d)
	must(t, d.Start())
	holds(t, d.Mnt+"/last.pt", []byte("the last checkpoint"), "after the grace")
}

// TestSecondSignal ends the grace at once.
func TestSecondSignal(t *testing.T) {
	d := mount(t, "--grace", "10m")
	f, err := os.Create(d.Mnt + "/open")
	must(t, err)
	defer f.Close()
	_, err = f.WriteString("acknowledged")
	must(t, err)
	must(t, d.Signal(syscall.SIGTERM))
	time.Sleep(300 * time.Millisecond)
	must(t, d.Signal(syscall.SIGTERM))
	_, err = d.Wait(leaveLimit)
	must(t, err)
	must(t, d.Kill())
	must(t, d.Start())
	holds(t, d.Mnt+"/open", []byte("acknowledged"), "after the second signal")
}

// TestBusy: a mount that somebody stands in says who.
func TestBusy(t *testing.T) {
	d := mount(t)
	mkdir(t, d.Mnt+"/inside")
	fd, err := unix.Open(d.Mnt+"/inside", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	res, err := root.Stepfs("umount", d.Mnt)
	must(t, err)
	refused(t, res, exitError, `busy.*`+filepath.Base(os.Args[0]))
	must(t, os.WriteFile(d.Mnt+"/inside/still", []byte("works"), 0o644))
	must(t, unix.Close(fd))
	_, err = root.Must("umount", d.Mnt)
	must(t, err)
	_, err = d.Wait(leaveLimit)
	must(t, err)
	gone(t, d)
}

// TestBackground: -d returns once the mount answers; umount ends it.
func TestBackground(t *testing.T) {
	d := prepare(t)
	out, err := root.Must("mount", "-d", d.Store, d.Mnt)
	must(t, err)
	must(t, os.WriteFile(d.Mnt+"/at-once", []byte("x"), 0o644))
	if mounted, err := harness.Mounted(d.Mnt); err != nil || !mounted {
		t.Fatalf("not mounted: %v\n%s", err, out)
	}
	_, err = root.Must("umount", d.Mnt)
	must(t, err)
	gone(t, d)
	eventually(t, "the daemon has left", func() bool {
		left, err := root.Leftovers()
		must(t, err)
		return !strings.Contains(strings.Join(left, "\n"), "process")
	})
}

// TestMountAfterKill: a mountpoint whose daemon died can be used again, at once
// or after `stepfs umount`.
func TestMountAfterKill(t *testing.T) {
	d := mount(t)
	must(t, os.WriteFile(d.Mnt+"/kept", []byte("kept"), 0o644))
	must(t, d.Signal(syscall.SIGKILL))
	_, err := d.Wait(leaveLimit)
	must(t, err)
	if err := d.Start(); err != nil {
		if !strings.Contains(err.Error(), "umount") {
			t.Fatalf("refused without advice: %v", err)
		}
		_, err = root.Must("umount", d.Mnt)
		must(t, err)
		must(t, d.Start())
	}
	holds(t, d.Mnt+"/kept", []byte("kept"), "after kill -9")
}
