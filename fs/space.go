package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"

	"stepfs/fs/stage"
)

// Fallocate promises, punches or zeroes a range of a live file.
func (f *FileSystem) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	ino, err := f.live(in.NodeId)
	if err != nil {
		return status(err)
	}
	return status(f.tree.Fallocate(ino, in.Fh, int64(in.Offset), int64(in.Length), in.Mode))
}

// Lseek answers SEEK_DATA and SEEK_HOLE; the kernel does the rest itself.
func (f *FileSystem) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	n := f.node(in.NodeId)
	if n.isName() {
		return status(stage.ErrInvalid)
	}
	src, err := f.source(n)
	if err != nil {
		return status(err)
	}
	off, err := src.Lseek(n.ino(), int64(in.Offset), in.Whence)
	out.Offset = uint64(off)
	return status(err)
}

// StatFs gives the store's true numbers: what is free for new data.
func (f *FileSystem) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	s, err := f.tree.StatFS()
	if err != nil {
		return status(err)
	}
	out.Blocks, out.Bfree, out.Bavail = s.Blocks, s.Bfree, s.Bavail
	out.Files, out.Ffree = s.Files, s.Ffree
	out.Bsize, out.Frsize = s.Bsize, s.Bsize
	out.NameLen = stage.MaxName
	return fuse.OK
}
