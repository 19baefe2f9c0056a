package fs

import (
	"context"

	"github.com/hanwen/go-fuse/v2/fuse"
)

const fsyncDatasync = 1 // FUSE_FSYNC_FDATASYNC

// Fsync is fsync(2), fdatasync(2), msync(2) and, on the cached way, the second
// half of a synchronous write: a barrier over the file.
//
// An interrupt does not end it. The Go runtime interrupts its threads all the
// time, and Python's or C's fsync is rarely called in a loop: an EINTR would
// be taken for a failed disk, or overlooked, while the barrier happens anyway.
// No local file system interrupts its fsync, either.
func (f *FileSystem) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	reason := "fsync"
	if in.FsyncFlags&fsyncDatasync != 0 {
		reason = "fdatasync"
	}
	return f.barrier(in.NodeId, reason)
}

// FsyncDir is fsync(2) of a directory.
func (f *FileSystem) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return f.barrier(in.NodeId, "fsyncdir")
}

func (f *FileSystem) barrier(id uint64, reason string) fuse.Status {
	n := f.node(id)
	if !n.isLive() || f.opts.SnapshotsOnly {
		return fuse.OK // what never changes is synced
	}
	_, err := f.manager.Barrier(context.Background(), reason, n.ino())
	return f.told(reason, err)
}

// told is the status of err for operations whose failures matter later, when
// somebody asks why: what becomes EIO is also said to the owner of the mount.
func (f *FileSystem) told(what string, err error) fuse.Status {
	st := status(err)
	if st == fuse.EIO {
		f.opts.Fault(what, err)
	}
	return st
}
