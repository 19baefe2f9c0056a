package fs

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// waitReady waits for a mount that this very process serves. A Go program can
// block when it opens files on such a mount: its runtime polls the file while
// it holds the last of its threads. go-fuse's protocol server shows a file on
// which the kernel learns, by one POLL, not to ask again.
func waitReady(t testing.TB, s *Server) {
	t.Helper()
	s.Tune()
	if err := tellEpoll(s.conn.Mountpoint); err != nil {
		t.Fatal(err)
	}
}

// tellEpoll has the kernel ask that one POLL.
func tellEpoll(mnt string) error {
	fd, err := unix.Open(filepath.Join(mnt, ".go-fuse-epoll-hack"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0) // the question alone matters
	return nil
}

// asNobody runs a shell command as an ordinary user.
func asNobody(t testing.TB, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

func linksOf(st os.FileInfo) uint64 { return uint64(st.Sys().(*syscall.Stat_t).Nlink) }

func inoOf(t testing.TB, path string) uint64 {
	t.Helper()
	st, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Sys().(*syscall.Stat_t).Ino
}
