package fs

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// handover is what goes with the descriptor from a daemon to its successor.
type handover struct {
	Mountpoint  string
	InitRequest []byte
	InitReply   []byte
}

// ErrNotServed: a connection without its INIT exchange cannot be handed over.
var ErrNotServed = errors.New("nobody has answered on this connection yet")

// Send passes the connection to a successor. The caller has stopped its own
// server (Server.Detach) and closed what the successor will open; afterwards
// it closes c. While both hold the descriptor, calls on the mount wait.
func (c *Conn) Send(sock *net.UnixConn) error {
	if c.initReply == nil {
		return ErrNotServed
	}
	msg, err := json.Marshal(handover{c.Mountpoint, c.initRequest, c.initReply})
	if err != nil {
		return err
	}
	return onSocket(sock, "hand over the mount", func(fd int) error {
		return sendFds(fd, msg, c.fd)
	})
}

// Receive takes over a connection from a predecessor. A Server made from it
// goes on where the predecessor stopped.
func Receive(sock *net.UnixConn) (*Conn, error) {
	var c *Conn
	err := onSocket(sock, "take over the mount", func(fd int) error {
		buf := make([]byte, 64<<10)
		n, fds, err := recvFds(fd, buf)
		if err != nil {
			return err
		}
		if len(fds) != 1 {
			return fmt.Errorf("%d descriptors came, want 1", len(fds))
		}
		var h handover
		if err := json.Unmarshal(buf[:n], &h); err != nil {
			return errors.Join(err, unix.Close(fds[0]))
		}
		// The predecessor made it non-blocking to stop its readers.
		if err := unix.SetNonblock(fds[0], false); err != nil {
			return errors.Join(err, unix.Close(fds[0]))
		}
		c = &Conn{Mountpoint: h.Mountpoint, initRequest: h.InitRequest, initReply: h.InitReply, fd: fds[0]}
		return nil
	})
	return c, err
}

// onSocket runs fn with the socket's descriptor in blocking mode.
func onSocket(sock *net.UnixConn, what string, fn func(fd int) error) error {
	f, err := sock.File()
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer f.Close()
	if err := fn(int(f.Fd())); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
