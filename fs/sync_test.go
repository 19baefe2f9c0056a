package fs

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"stepfs/fs/stage"
)

// TestEverySyncIsABarrier counts the barriers of each way to ask for one.
func TestEverySyncIsABarrier(t *testing.T) {
	m := newMount(t)
	m.mkdir("d")
	open := func(flags int) *os.File {
		f, err := os.OpenFile(m.path("d", "f"), flags|os.O_CREATE, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	dir, err := os.Open(m.path("d"))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	f := open(os.O_RDWR)
	write := func(f *os.File) func() error {
		return func() error { _, err := f.WriteString("some"); return err }
	}
	for name, sync := range map[string]func() error{
		"fsync":                   f.Sync,
		"fdatasync":               func() error { return unix.Fdatasync(int(f.Fd())) },
		"fsync of a directory":    dir.Sync,
		"O_SYNC, cached":          write(open(os.O_RDWR | os.O_SYNC)),
		"O_DSYNC, cached":         write(open(os.O_RDWR | unix.O_DSYNC)),
		"O_SYNC, write-only":      write(open(os.O_WRONLY | os.O_SYNC)),
		"O_DSYNC, write-only":     write(open(os.O_WRONLY | unix.O_DSYNC)),
		"RWF_DSYNC, write-only":   func() error { return pwritev2(open(os.O_WRONLY), "x", unix.RWF_DSYNC) },
		"RWF_DSYNC, cached":       func() error { return pwritev2(open(os.O_RDWR), "x", unix.RWF_DSYNC) },
		"O_SYNC, direct, aligned": func() error { return pwritev2(open(os.O_RDWR|os.O_SYNC|unix.O_DIRECT), string(make([]byte, 4096)), 0) },
	} {
		before := m.cuts.total()
		if err := sync(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if n := m.cuts.total() - before; n != 1 {
			t.Errorf("%s took %d barriers", name, n)
		}
	}
	before := m.cuts.total()
	if err := write(open(os.O_WRONLY))(); err != nil || m.cuts.total() != before {
		t.Errorf("an ordinary write took %d barriers, %v", m.cuts.total()-before, err)
	}
}

func pwritev2(f *os.File, data string, flags int) error {
	_, err := unix.Pwritev2(int(f.Fd()), [][]byte{[]byte(data)}, 0, flags)
	return err
}

// TestFailedBarrierReachesTheCaller: with the errno of what went wrong.
func TestFailedBarrierReachesTheCaller(t *testing.T) {
	m := newMount(t)
	f, err := os.Create(m.path("f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m.cuts.failFor(inoOf(t, f.Name()), stage.ErrIO)
	wantErr(t, "fsync", f.Sync(), unix.EIO)
	m.cuts.failFor(inoOf(t, f.Name()), errors.Join(stage.ErrNoSpace, stage.ErrIO))
	wantErr(t, "fsync", f.Sync(), unix.ENOSPC)
}

// TestInterruptedFsyncIsNotLost: a signal while fsync waits neither ends it
// nor makes it fail, and holds up nobody else.
func TestInterruptedFsyncIsNotLost(t *testing.T) {
	m := newMount(t)
	f, err := os.Create(m.path("f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m.write("other", "o")
	hold := make(chan struct{})
	m.cuts.holdBarriers(hold)

	tid, result := make(chan int), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		tid <- unix.Gettid()
		result <- unix.Fsync(int(f.Fd()))
	}()
	thread := <-tid
	<-m.cuts.entered
	for range 20 {
		if err := unix.Tgkill(os.Getpid(), thread, unix.SIGURG); err != nil {
			t.Fatal(err)
		}
		m.want("other", "o")
	}
	select {
	case err := <-result:
		t.Fatalf("fsync came back early: %v", err)
	default:
	}
	close(hold)
	if err := <-result; err != nil {
		t.Errorf("fsync: %v", err)
	}
}

// TestManyWaitingFsyncs: more than there are readers wait at once, and the
// mount goes on answering.
func TestManyWaitingFsyncs(t *testing.T) {
	m := newMount(t)
	hold := make(chan struct{})
	m.cuts.holdBarriers(hold)
	const n = 50
	result := make(chan error, n)
	for range n {
		f, err := os.CreateTemp(m.dir, "f")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		go func() { result <- f.Sync() }()
	}
	for range n {
		<-m.cuts.entered
	}
	m.write("g", "meanwhile")
	m.want("g", "meanwhile")
	close(hold)
	for range n {
		if err := <-result; err != nil {
			t.Error(err)
		}
	}
}

// TestDyingProcessCommitsNothing: what a process leaves that is killed by a
// signal is no finished file and is in no snapshot; what one leaves that exits
// without closing is.
func TestDyingProcessCommitsNothing(t *testing.T) {
	m := newMount(t)
	for how, want := range map[string]bool{"exit": true, "KILL": false, "TERM": false} {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), leaveEnv+"="+how, mountpointEnv+"="+m.path(how))
		err := cmd.Run()
		if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() == want {
			t.Fatalf("%s ended by %v", how, err)
		}
		// RELEASE comes later than the end of the process, and a log that is still
		// open would be taken as far as it goes.
		for ino := inoOf(t, m.path(how)); m.tree.Writers(ino) > 0; {
			runtime.Gosched()
		}
		if _, err := m.cuts.SnapshotAs(t.Context(), "", "after-"+how, "test", 0, nil); err != nil {
			t.Fatal(err)
		}
		_, err = os.Stat(m.path("snapshots", "after-"+how, how))
		if (err == nil) != want {
			t.Errorf("a file left by %s in the snapshot: %v", how, err)
		}
		m.want(how, "half")
	}
}

const leaveEnv = "STEPFS_TEST_LEAVE"

// leave writes to a file and ends without closing it.
func leave(how, path string) int {
	f, err := os.Create(path)
	if err != nil {
		return 2
	}
	if _, err := f.WriteString("half"); err != nil {
		return 2
	}
	switch how {
	case "KILL":
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	case "TERM":
		_ = unix.Kill(os.Getpid(), unix.SIGTERM)
	default:
		os.Exit(0)
	}
	select {}
}

var _ Manager = (*cuts)(nil)
var _ Registry = (*cuts)(nil)
