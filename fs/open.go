package fs

import (
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"stepfs/fs/stage"
)

func writable(flags uint32) bool { return flags&unix.O_ACCMODE != unix.O_RDONLY }

func credOf(in *fuse.InHeader, umask uint32) stage.Cred {
	return stage.Cred{UID: in.Uid, GID: in.Gid, PID: in.Pid, Umask: umask}
}

// Open opens a file that exists, with O_TRUNC as one operation.
func (f *FileSystem) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n := f.node(in.NodeId)
	if n.isLive() && !f.opts.SnapshotsOnly {
		fh, err := f.openLive(n.ino(), in)
		if err != nil {
			return status(err)
		}
		if writable(in.Flags) {
			f.writers.wrote(fh, in.Pid)
		}
		out.Fh, out.OpenFlags = fh, f.openFlags(in.Flags)
		return fuse.OK
	}
	if writable(in.Flags) || in.Flags&unix.O_TRUNC != 0 {
		return fuse.EROFS
	}
	if n.isName() {
		return f.openText(n, out)
	}
	if !n.isSnapshot() {
		return status(stage.ErrStale)
	}
	release, err := f.pin(n)
	if err != nil {
		return status(err)
	}
	out.Fh, out.OpenFlags = f.pins.Add(release), f.openFlags(in.Flags)
	return fuse.OK
}

func (f *FileSystem) openLive(ino uint64, in *fuse.OpenIn) (uint64, error) {
	fh, err := f.tree.Open(ino, in.Flags, credOf(&in.InHeader, 0))
	if err != nil {
		return 0, err
	}
	if in.Mode&fuse.OPEN_KILL_SUIDGID != 0 && in.Flags&unix.O_TRUNC != 0 {
		if err := f.dropSuid(ino); err != nil {
			f.tree.Release(ino, fh)
			return 0, err
		}
	}
	return fh, nil
}

// openFlags says how the kernel treats an open file. A write-only one goes
// round the page cache, which nobody would read: one copy less, and requests
// as large as the writes. (It cannot be mapped, and on the kernels where we
// do it, pages that others have cached are dropped.) The cache of all others
// is kept from one open to the next. A read-only one has nothing to flush.
func (f *FileSystem) openFlags(flags uint32) uint32 {
	switch flags & unix.O_ACCMODE {
	case unix.O_WRONLY:
		if f.directWrites {
			return fuse.FOPEN_DIRECT_IO
		}
	case unix.O_RDONLY:
		return fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH
	}
	return fuse.FOPEN_KEEP_CACHE
}

// Create makes a file and opens it. The kernel sends it for a name that it
// believes to be free; should it exist after all, it is opened, unless O_EXCL
// says otherwise.
func (f *FileSystem) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	parent, err := f.placeFor(in.NodeId, name)
	if err != nil {
		return status(err)
	}
	cred := credOf(&in.InHeader, in.Umask)
	a, fh, err := f.tree.Create(parent, name, in.Mode, in.Flags, cred)
	if errors.Is(err, stage.ErrExist) && in.Flags&unix.O_EXCL == 0 {
		a, fh, err = f.openExisting(parent, name, in.Flags, cred)
	}
	if err != nil {
		return status(err)
	}
	f.fillEntry(&out.EntryOut, nodeID(a.Ino), a)
	f.writers.wrote(fh, in.Pid)
	out.Fh, out.OpenFlags = fh, f.openFlags(in.Flags)
	return fuse.OK
}

// Tmpfile makes a file without a name and opens it.
func (f *FileSystem) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	parent, err := f.live(in.NodeId)
	if err != nil {
		return status(err)
	}
	a, fh, err := f.tree.Tmpfile(parent, in.Mode, in.Flags, credOf(&in.InHeader, in.Umask))
	if err != nil {
		return status(err)
	}
	f.fillEntry(&out.EntryOut, nodeID(a.Ino), a)
	f.writers.wrote(fh, in.Pid)
	out.Fh, out.OpenFlags = fh, f.openFlags(in.Flags)
	return fuse.OK
}

func (f *FileSystem) openExisting(parent uint64, name string, flags uint32, cred stage.Cred) (stage.Attr, uint64, error) {
	a, err := f.tree.Lookup(parent, name)
	if err != nil {
		return a, 0, err
	}
	if a.Mode&stage.ModeType != stage.ModeReg {
		// The kernel must look again: it may be a link to follow.
		return a, 0, stage.ErrStale
	}
	fh, err := f.tree.Open(a.Ino, flags, cred)
	if err != nil {
		return a, 0, err
	}
	if a, err = f.tree.GetAttr(a.Ino); err != nil { // O_TRUNC changed it
		f.tree.Release(a.Ino, fh)
	}
	return a, fh, err
}

// Flush is one close(2); it comes for each duplicate of a descriptor.
func (f *FileSystem) Flush(_ <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	n := f.node(in.NodeId)
	if !n.isLive() || f.opts.SnapshotsOnly {
		return fuse.OK
	}
	foreign := f.writers.foreign(in.Fh, in.Pid)
	return status(f.tree.Flush(n.ino(), in.Fh, foreign || f.closers.dying(in.Pid)))
}

// Release ends an open file; nobody waits for the answer.
func (f *FileSystem) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	switch n := f.node(in.NodeId); {
	case n.isName():
		f.texts.Take(in.Fh)
	case n.isLive() && !f.opts.SnapshotsOnly:
		if f.writers.release(in.Fh) {
			if err := f.tree.Flush(n.ino(), in.Fh, false); err != nil {
				_ = f.told("close", err) // nobody waits for the answer
			}
		}
		f.tree.Release(n.ino(), in.Fh)
	case n.isSnapshot():
		if release, ok := f.pins.Take(in.Fh); ok { // else opened with a predecessor
			release()
		}
	}
}
