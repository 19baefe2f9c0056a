package fs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// HelperPath finds fusermount3: in PATH, or where distributions have it, since
// whoever mounts for a user may have no PATH.
func HelperPath() (string, error) {
	const name = "fusermount3"
	found, err := exec.LookPath(name)
	if err == nil {
		return found, nil
	}
	for _, dir := range []string{"/usr/bin/", "/bin/", "/usr/local/bin/"} {
		if found, err := exec.LookPath(dir + name); err == nil {
			return found, nil
		}
	}
	return "", fmt.Errorf("only root can mount and unmount without fusermount3 (package fuse3): %w", err)
}

// runHelper runs fusermount3; comm, when not nil, is the socket on which it
// passes the descriptor.
func runHelper(comm *os.File, args ...string) error {
	bin, err := HelperPath()
	if err != nil {
		return err
	}
	var said bytes.Buffer
	cmd := exec.Command(bin, args...)
	cmd.Stderr = &said
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if comm != nil {
		cmd.ExtraFiles = []*os.File{comm} // descriptor 3 of the child
		cmd.Env = append(cmd.Env, "_FUSE_COMMFD=3")
	}
	err = cmd.Run()
	// Its exit code is 1 whatever happens: only the text tells a busy mount.
	if bytes.HasSuffix(bytes.ToLower(bytes.TrimSpace(said.Bytes())), []byte(unix.EBUSY.Error())) {
		err = unix.EBUSY
	}
	if err != nil {
		return fmt.Errorf("%s: %w", bytes.TrimSpace(said.Bytes()), err)
	}
	return nil
}

// sendFds sends one message with descriptors on a unix socket.
func sendFds(sock int, msg []byte, fds ...int) error {
	return unix.Sendmsg(sock, msg, unix.UnixRights(fds...), nil, 0)
}

// recvFds receives one message; the descriptors come with close-on-exec set.
func recvFds(sock int, msg []byte) (n int, fds []int, err error) {
	oob := make([]byte, unix.CmsgSpace(4*4))
	n, oobn, _, _, err := unix.Recvmsg(sock, msg, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return 0, nil, fmt.Errorf("receive a descriptor: %w", err)
	}
	if n == 0 && oobn == 0 {
		return 0, nil, errors.New("receive a descriptor: the sender is gone")
	}
	cmsgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return 0, nil, fmt.Errorf("receive a descriptor: %w", err)
	}
	for _, m := range cmsgs {
		got, err := unix.ParseUnixRights(&m)
		if err != nil {
			return 0, nil, fmt.Errorf("receive a descriptor: %w", err)
		}
		fds = append(fds, got...)
	}
	return n, fds, nil
}
