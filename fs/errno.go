package fs

import (
	"context"
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"stepfs/fs/stage"
	"stepfs/snapshot"
)

// errnos is the one table from errors to errno, by errors.Is, first match
// first: an error that wraps two of them is what the earlier one says.
// Whatever is not in it is EIO.
var errnos = []struct {
	err   error
	errno unix.Errno
}{
	{stage.ErrNoSpace, unix.ENOSPC},
	{stage.ErrTooManyFiles, unix.ENFILE},
	{stage.ErrReadOnly, unix.EROFS},
	{stage.ErrIO, unix.EIO},
	{stage.ErrNotExist, unix.ENOENT},
	{stage.ErrExist, unix.EEXIST},
	{stage.ErrNotEmpty, unix.ENOTEMPTY},
	{stage.ErrNotDir, unix.ENOTDIR},
	{stage.ErrIsDir, unix.EISDIR},
	{stage.ErrInvalid, unix.EINVAL},
	{stage.ErrNameTooLong, unix.ENAMETOOLONG},
	{stage.ErrTooManyLinks, unix.EMLINK},
	{stage.ErrLoop, unix.ELOOP},
	{stage.ErrTooBig, unix.EFBIG},
	{stage.ErrPerm, unix.EPERM},
	{stage.ErrStale, unix.ESTALE},
	{stage.ErrBadHandle, unix.EBADF},
	{stage.ErrNotSupported, unix.EOPNOTSUPP},
	{stage.ErrNoAttr, unix.ENODATA},
	{stage.ErrRange, unix.ERANGE},
	{stage.ErrNXIO, unix.ENXIO},
	{snapshot.ErrNotExist, unix.ENOENT},
	{snapshot.ErrExist, unix.EEXIST},
	{snapshot.ErrReadOnly, unix.EROFS},
	{snapshot.ErrPerm, unix.EPERM},
	{snapshot.ErrBadName, unix.EINVAL},
	{snapshot.ErrBusy, unix.EBUSY},
	{snapshot.ErrHeld, unix.EBUSY},
	{errCrossTree, unix.EXDEV},
	{context.Canceled, unix.EINTR},
}

// errCrossTree: a rename or link between the live tree and a snapshot, which
// is what one between two file systems is.
var errCrossTree = errors.New("the live tree and its snapshots are different trees")

// status is the kernel's answer for err.
func status(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	return fuse.Status(Errno(err))
}

// Errno is what a caller on the mount would be told of err.
func Errno(err error) unix.Errno {
	for _, e := range errnos {
		if errors.Is(err, e.err) {
			return e.errno
		}
	}
	return unix.EIO
}
