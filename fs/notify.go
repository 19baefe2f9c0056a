package fs

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The daemon is the only one that changes what is mounted, so the kernel may
// cache names, attributes and pages for ever; what the daemon changes on its
// own account (a rollback, an import) it tells the kernel here.
//
// Never call these while answering a request, nor under a lock that answering
// one takes: the kernel may hold the inode's lock until that request is
// answered, and a notification waits for that lock.

// NotifyInode drops the kernel's attributes of a node and its cached pages in
// [off, off+length); length 0 means to the end, off < 0 attributes alone.
func (s *Server) NotifyInode(node uint64, off, length int64) error {
	var body [24]byte // struct fuse_notify_inval_inode_out
	binary.NativeEndian.PutUint64(body[0:], node)
	binary.NativeEndian.PutUint64(body[8:], uint64(off))
	binary.NativeEndian.PutUint64(body[16:], uint64(length))
	return s.notify(fuse.NOTIFY_INVAL_INODE, body[:])
}

// NotifyEntry makes the kernel forget that name exists, or does not exist, in
// the directory parent.
func (s *Server) NotifyEntry(parent uint64, name string) error {
	var body [16]byte // struct fuse_notify_inval_entry_out
	binary.NativeEndian.PutUint64(body[0:], parent)
	binary.NativeEndian.PutUint32(body[8:], uint32(len(name)))
	return s.notify(fuse.NOTIFY_INVAL_ENTRY, body[:], []byte(name), []byte{0})
}

// notify sends one message that answers no request. That the kernel does not
// know the node or the name is what was wanted.
func (s *Server) notify(code int32, parts ...[]byte) error {
	var header [outHeaderSize]byte
	size := len(header)
	for _, p := range parts {
		size += len(p)
	}
	binary.NativeEndian.PutUint32(header[0:], uint32(size))
	// A notification has no unique number, and its code in place of an errno.
	binary.NativeEndian.PutUint32(header[4:], uint32(-code))
	err := s.conn.writev(append([][]byte{header[:]}, parts...)...)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("notify the kernel: %w", err)
	}
	return nil
}
