package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// childCommand makes the program one of its own helpers: another process that
// writes, or the loopback file system that serves as a peer.
const childCommand = "child"

func child(args []string) int {
	var err error
	switch {
	case len(args) == 3 && args[0] == "write":
		var mib int64
		if mib, err = strconv.ParseInt(args[2], 10, 64); err == nil {
			err = writeFile(args[1], uint64(time.Now().UnixNano()), mib, false)
		}
	case len(args) == 3 && args[0] == "loopback":
		err = serveLoopback(args[1], args[2])
	default:
		err = fmt.Errorf("unknown child %q", args)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench child:", err)
		return 1
	}
	return 0
}

// childWrite has another process write and close a file without syncing it.
func (b *bench) childWrite(path string, mib int64) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	out, err := exec.Command(self, childCommand, "write", path, strconv.FormatInt(mib, 10)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("the other process: %w: %s", err, out)
	}
	return nil
}

// loopback is a running peer.
type loopback struct {
	mnt string
	cmd *exec.Cmd
}

// startLoopback serves a directory on the same disk through go-fuse.
func (b *bench) startLoopback() (*loopback, error) {
	dir, err := b.root.MkdirTemp("loopback")
	if err != nil {
		return nil, err
	}
	l := &loopback{mnt: dir + "/mnt"}
	for _, d := range []string{dir + "/data", l.mnt} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return nil, err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	l.cmd = exec.Command(self, childCommand, "loopback", dir+"/data", l.mnt)
	l.cmd.Stderr = os.Stderr
	ready, err := l.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := l.cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := bufio.NewReader(ready).ReadString('\n'); err != nil {
		l.close()
		return nil, fmt.Errorf("loopback did not mount: %w", err)
	}
	return l, nil
}

func (l *loopback) close() error {
	l.cmd.Process.Signal(os.Interrupt)
	return l.cmd.Wait()
}

// serveLoopback mounts until it is interrupted. Passthrough, which would hand
// the kernel the files themselves, is off: it would not be the same work.
func serveLoopback(data, mnt string) error {
	root, err := fs.NewLoopbackRoot(data)
	if err != nil {
		return err
	}
	timeout := time.Second
	server, err := fs.Mount(mnt, root, &fs.Options{
		EntryTimeout: &timeout, AttrTimeout: &timeout,
		MountOptions: fuse.MountOptions{Name: "loopback", FsName: data, MaxWrite: 1 << 20, DisabledCapabilities: fuse.CAP_PASSTHROUGH},
	})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt)
	go func() {
		<-interrupted
		server.Unmount()
	}()
	server.Wait()
	return nil
}
