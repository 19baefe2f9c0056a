package fs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The takeover test runs the test binary twice more: "first" mounts and
// serves, "second" takes the connection over from it. Each has a socket to the
// other as descriptor 3, says a line when it serves, and first hands over when
// it is told a line.
const (
	successorEnv  = "STEPFS_TEST_ROLE"
	backingEnv    = "STEPFS_TEST_BACKING"
	mountpointEnv = "STEPFS_TEST_MOUNTPOINT"
)

func successor() int {
	roles := map[string]func(*net.UnixConn, *oneFile) error{"first": serveFirst, "second": serveSecond}
	err := func() error {
		backing, err := os.OpenFile(os.Getenv(backingEnv), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		one := &oneFile{RawFileSystem: fuse.NewDefaultRawFileSystem(), backing: backing}
		role := os.Getenv(successorEnv)
		if role == "alone" {
			return serveAlone(one)
		}
		nc, err := net.FileConn(os.NewFile(3, "socket"))
		if err != nil {
			return err
		}
		return roles[role](nc.(*net.UnixConn), one)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, os.Getenv(successorEnv), "process:", err)
		return 1
	}
	return 0
}

func serveFirst(sock *net.UnixConn, one *oneFile) error {
	conn, err := Mount(os.Getenv(mountpointEnv), MountOptions{})
	if err != nil {
		return err
	}
	s, err := NewServer(conn, one, ServerOptions{})
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()
	fmt.Println("serving")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	if conn, err = s.Detach(); err != nil {
		return err
	}
	if err := <-done; !errors.Is(err, ErrDetached) {
		return fmt.Errorf("Serve after Detach: %v", err)
	}
	return conn.Send(sock)
}

func serveSecond(sock *net.UnixConn, one *oneFile) error {
	conn, err := Receive(sock)
	if err != nil {
		return err
	}
	s, err := NewServer(conn, one, ServerOptions{})
	if err != nil {
		return err
	}
	fmt.Println("serving")
	return s.Serve()
}

// role is one of the two other processes.
type role struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startRole(t *testing.T, name, mnt, backing string, sock *os.File) *role {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), successorEnv+"="+name, backingEnv+"="+backing, mountpointEnv+"="+mnt)
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{sock}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return &role{cmd: cmd, in: in, out: bufio.NewReader(out)}
}

func (r *role) waitServing(t *testing.T) {
	t.Helper()
	if line, err := r.out.ReadString('\n'); err != nil || line != "serving\n" {
		t.Fatalf("the process said %q, %v", line, err)
	}
}

// TestTakeover: a file that is open stays open, readable and writable while
// the process that serves the mount is replaced by another, under traffic.
func TestTakeover(t *testing.T) {
	mnt, backing := mountDir(t), filepath.Join(t.TempDir(), "backing")
	if err := os.WriteFile(backing, []byte("written before the mount\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "first"), os.NewFile(uintptr(pair[1]), "second")
	first := startRole(t, "first", mnt, backing, ours)
	second := startRole(t, "second", mnt, backing, theirs)
	ours.Close()
	theirs.Close()
	first.waitServing(t)
	t.Cleanup(func() { _ = Unmount(mnt, true) })

	f, err := os.OpenFile(filepath.Join(mnt, "f"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()

	// One writer goes on all the time, so that requests are in flight.
	const block = 64 << 10
	stop, wrote := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for ; ; n++ {
			select {
			case <-stop:
				wrote <- n
				return
			default:
			}
			if _, err := f.WriteAt(bytes.Repeat([]byte{byte(n)}, block), int64(n%64)*block); err != nil {
				t.Errorf("write %d: %v", n, err)
				wrote <- n
				return
			}
		}
	}()
	if _, err := io.WriteString(first.in, "hand over\n"); err != nil {
		t.Fatal(err)
	}
	second.waitServing(t)
	if err := first.cmd.Wait(); err != nil {
		t.Fatalf("first process: %v", err)
	}
	// The first process is gone: all this is answered by the second.
	if _, err := f.WriteAt([]byte("by the second"), 64*block); err != nil {
		t.Fatalf("write after the takeover: %v", err)
	}
	close(stop)
	n := <-wrote
	checkTakenOver(t, f, mnt, backing, n, block)

	f.Close()
	if err := Unmount(mnt, false); err != nil {
		t.Fatal(err)
	}
	if err := second.cmd.Wait(); err != nil {
		t.Fatalf("second process after the unmount: %v", err)
	}
}

// checkTakenOver compares what the open file, a new open and the backing file
// hold with what n blocks, written round 64 places, must have left.
func checkTakenOver(t *testing.T, f *os.File, mnt, backing string, n, block int) {
	t.Helper()
	viaMount, err := os.ReadFile(filepath.Join(mnt, "f"))
	if err != nil {
		t.Fatalf("open and read after the takeover: %v", err)
	}
	onDisk, err := os.ReadFile(backing)
	if err != nil {
		t.Fatal(err)
	}
	open := make([]byte, len(onDisk))
	if _, err := f.ReadAt(open, 0); err != nil {
		t.Fatalf("read from the open file: %v", err)
	}
	if !bytes.Equal(viaMount, onDisk) || !bytes.Equal(open, onDisk) {
		t.Fatal("the mount shows something else than the disk")
	}
	if n == 0 || !bytes.HasSuffix(onDisk, []byte("by the second")) {
		t.Fatalf("%d writes, and the file ends in %q", n, onDisk[max(0, len(onDisk)-16):])
	}
	for i := max(0, n-64); i < n; i++ {
		at := i % 64 * block
		if want := bytes.Repeat([]byte{byte(i)}, block); !bytes.Equal(onDisk[at:at+block], want) {
			t.Fatalf("write %d of %d is lost", i, n)
		}
	}
}
