package attach

import (
	"context"
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"stepfs/snapshot/published"
)

var (
	errStale    = errors.New("no such node")
	errNotExist = errors.New("no such name")
	errNotDir   = errors.New("not a directory")
	errIsDir    = errors.New("it is a directory")
	errInvalid  = errors.New("it makes no sense")
	errNoAttr   = errors.New("no such attribute")
	errNXIO     = errors.New("there is nothing behind that offset")
)

// errnos is the one table from errors to errno, by errors.Is, first match first.
// Whatever is not in it is EIO: bytes that can't be had, or are wrong.
var errnos = []struct {
	err   error
	errno unix.Errno
}{
	{published.ErrGone, unix.ESTALE}, // by a name: ENOENT, since the kernel looks again
	{published.ErrNotExist, unix.ENOENT},
	{errStale, unix.ESTALE},
	{errNotExist, unix.ENOENT},
	{errNotDir, unix.ENOTDIR},
	{errIsDir, unix.EISDIR},
	{errInvalid, unix.EINVAL},
	{errNoAttr, unix.ENODATA},
	{errNXIO, unix.ENXIO},
	{context.Canceled, unix.EINTR},
}

// told is the kernel's answer for err, and tells of what the caller can't know.
func (f *FileSystem) told(what string, err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	for _, e := range errnos {
		if errors.Is(err, e.err) {
			return fuse.Status(e.errno)
		}
	}
	f.opts.Fault(what, err)
	return fuse.EIO
}
