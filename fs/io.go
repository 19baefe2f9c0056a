package fs

import (
	"context"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Read fills buf, which is the reply's own memory, from a file.
func (f *FileSystem) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	var n int
	var err error
	switch node := f.node(in.NodeId); {
	case node.isName():
		n, err = f.readText(node, in, buf)
	case node.isSnapshot():
		if src, e := f.snapshotOf(node); e != nil {
			err = e
		} else {
			f.registry.Use(src.Seq()) // opened with a predecessor, it is not pinned
			n, err = src.Read(node.ino(), buf, int64(in.Offset))
		}
	case f.opts.SnapshotsOnly:
		return nil, fuse.Status(unix.ESTALE)
	default:
		n, err = f.tree.Read(node.ino(), in.Fh, buf, int64(in.Offset))
	}
	if err != nil {
		return nil, f.told("read", err)
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

// positional is the handle of a write that goes where its offset says.
const positional = 0

// Write writes data to a live file.
func (f *FileSystem) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	ino, err := f.live(in.NodeId)
	if err != nil {
		return 0, status(err)
	}
	fh := in.Fh
	if in.WriteFlags&fuse.WRITE_CACHE != 0 {
		// Pages of a shared mapping. The handle is any that can write, maybe
		// one for appending, and has no say in where they go.
		fh = positional
	}
	if fh == in.Fh {
		f.writers.wrote(fh, in.Pid)
	}
	n, err := f.tree.Write(ino, fh, data, int64(in.Offset))
	if err != nil {
		return uint32(n), f.told("write", err)
	}
	if in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0 {
		if err := f.dropSuid(ino); err != nil {
			return 0, status(err)
		}
	}
	if f.syncsItself(in) {
		if _, err := f.manager.Barrier(context.Background(), "osync", ino); err != nil {
			return 0, status(err)
		}
	}
	return uint32(n), fuse.OK
}

// syncsItself says whether a synchronous write (O_SYNC, O_DSYNC, RWF_DSYNC)
// has to take its barrier here. On the cached way the kernel sends an FSYNC
// after the WRITE; round the cache it sends the WRITE alone, with the flag.
func (f *FileSystem) syncsItself(in *fuse.WriteIn) bool {
	return f.directWrites && in.Flags&unix.O_ACCMODE == unix.O_WRONLY && in.Flags&unix.O_DSYNC != 0 &&
		in.WriteFlags&fuse.WRITE_CACHE == 0
}
