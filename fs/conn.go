package fs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// MaxWrite is the largest READ and WRITE request, 256 pages of 4 KiB: the
// most that a kernel gives without a changed sysctl.
const MaxWrite = 1 << 20

// fsType is what mount(8) and df show: fuse.stepfs.
const fsType = "stepfs"

// MountOptions says how a directory is mounted.
type MountOptions struct {
	// Source is what mount(8) shows as the device; default "stepfs".
	Source string
	// AllowOther lets other users in; permissions are checked by the kernel
	// either way. An ordinary user needs user_allow_other in /etc/fuse.conf.
	AllowOther bool
	// ReadOnly mounts with "ro".
	ReadOnly bool
	// Flags are what the kernel itself does and leaves.
	Flags MountFlags
}

// Conn is a connection to the kernel's side of a mount: the descriptor on
// /dev/fuse and, once a Server has answered it, the INIT exchange. The kernel
// sends INIT only once, so whoever takes the descriptor over needs both.
type Conn struct {
	// Mountpoint is the absolute path of the mount.
	Mountpoint string

	initRequest, initReply []byte

	// mu guards fd against being closed, and its number given to another
	// file, under a notification. The readers need no lock: the descriptor is
	// closed after the last of them is gone.
	mu sync.RWMutex
	fd int // -1 once closed
}

// Mount mounts dir and returns the connection, on which nobody answers yet.
// Root mounts by mount(2), others by fusermount3.
func Mount(dir string, o MountOptions) (*Conn, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("mountpoint: %w", err)
	}
	if o.Source == "" {
		o.Source = fsType
	}
	mount := mountDirect
	if os.Geteuid() != 0 {
		mount = mountHelper
	}
	fd, err := mount(dir, o)
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	return &Conn{Mountpoint: dir, fd: fd}, nil
}

// mountDirect mounts by mount(2). The descriptor is a blocking one on purpose:
// see Server.Detach.
func mountDirect(dir string, o MountOptions) (int, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return -1, err
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open /dev/fuse: %w", err)
	}
	opts := append(commonOptions(o),
		fmt.Sprintf("fd=%d", fd),
		fmt.Sprintf("rootmode=%o", st.Mode&unix.S_IFMT),
		fmt.Sprintf("user_id=%d", os.Geteuid()),
		fmt.Sprintf("group_id=%d", os.Getegid()))
	if err := unix.Mount(o.Source, dir, "fuse."+fsType, o.kernelFlags(), strings.Join(opts, ",")); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// commonOptions are the options that mount(2) and fusermount3 share.
func commonOptions(o MountOptions) []string {
	opts := []string{"default_permissions", fmt.Sprintf("max_read=%d", MaxWrite)}
	if o.AllowOther {
		opts = append(opts, "allow_other")
	}
	return opts
}

// mountHelper mounts by the setuid helper fusermount3, which opens /dev/fuse
// and passes the descriptor back over a socket.
func mountHelper(dir string, o MountOptions) (int, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socketpair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "fuse-ours"), os.NewFile(uintptr(pair[1]), "fuse-helper")
	defer ours.Close()
	defer theirs.Close()

	opts := append(commonOptions(o), "subtype="+fsType, "fsname="+escapeOption(o.Source))
	opts = append(opts, o.flagNames()...)
	if err := runHelper(theirs, "-o", strings.Join(opts, ","), "--", dir); err != nil {
		return -1, err
	}
	_, fds, err := recvFds(int(ours.Fd()), make([]byte, 8))
	if err != nil {
		return -1, fmt.Errorf("fusermount3: %w", err)
	}
	if len(fds) != 1 {
		return -1, fmt.Errorf("fusermount3 passed %d descriptors, want 1", len(fds))
	}
	return fds[0], nil
}

// escapeOption protects what separates mount options.
func escapeOption(s string) string {
	return strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(s)
}

// Unmount unmounts dir. A busy mount gives EBUSY; lazily it is unmounted when
// its last user leaves.
func Unmount(dir string, lazy bool) error {
	if os.Geteuid() != 0 {
		args := []string{"-u", "--", dir}
		if lazy {
			args = []string{"-u", "-z", "--", dir}
		}
		return runHelper(nil, args...)
	}
	flags := unix.UMOUNT_NOFOLLOW
	if lazy {
		flags |= unix.MNT_DETACH
	}
	if err := unix.Unmount(dir, flags); err != nil {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}

// Close closes the descriptor. If no other process holds it too, the mount is
// dead from then on: every call on it gives ENOTCONN until it is unmounted.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return nil
	}
	fd := c.fd
	c.fd = -1
	return unix.Close(fd)
}

// writev sends one message to the kernel.
func (c *Conn) writev(parts ...[]byte) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.fd < 0 {
		return unix.EBADF
	}
	for {
		_, err := unix.Writev(c.fd, parts)
		if err != unix.EINTR {
			return err
		}
	}
}
