package fs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// runHelper runs fusermount3; comm, when not nil, is the socket on which it
// passes the descriptor.
func runHelper(comm *os.File, args ...string) error {
	bin, err := exec.LookPath("fusermount3")
	if err != nil {
		return fmt.Errorf("mounting as an ordinary user needs fusermount3 (package fuse3): %w", err)
	}
	var said bytes.Buffer
	cmd := exec.Command(bin, args...)
	cmd.Stderr = &said
	if comm != nil {
		cmd.ExtraFiles = []*os.File{comm} // descriptor 3 of the child
		cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	}
	if err := cmd.Run(); err != nil {
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
