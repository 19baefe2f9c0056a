package fs

import (
	"context"
	"math"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"stepfs/fs/stage"
)

// CopyFileRange copies a range between live files, or out of a snapshot into
// one; what can be is shared (stage.CopyRange). So "cp --reflink=auto" out of a
// snapshot costs records alone: there is no FICLONE over FUSE, and cp then
// tries this.
//
// The kernel has cut the range off at the source's end and at RLIMIT_FSIZE, has
// refused what overlaps and what appends, and has written back what mappings
// hold of either range. Afterwards it drops the destination's cached pages.
// The tree looks at what matters to it again.
//
// COPY_FILE_RANGE_64, which Linux asks for first since 6.18, go-fuse answers
// with ENOSYS; then comes this one, up to 2 GiB at a time.
func (f *FileSystem) CopyFileRange(cancel <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	dst, err := f.live(in.NodeIdOut)
	if err != nil {
		return 0, status(err)
	}
	c := stage.Copy{Dst: dst, Fh: in.FhOut, SrcOff: int64(in.OffIn), DstOff: int64(in.OffOut),
		Len: int64(min(in.Len, math.MaxInt32)), Stop: cancel}
	switch node := f.node(in.NodeId); {
	case in.Flags != 0:
		return 0, fuse.EINVAL
	case node.isName():
		return 0, fuse.Status(unix.EOPNOTSUPP) // the kernel reads and writes then
	case node.isSnapshot():
		if c.From, err = f.snapshotOf(node); err != nil {
			return 0, status(err)
		}
		f.registry.Use(c.From.Seq())
		c.Src = node.ino()
	default:
		c.Src = node.ino()
	}
	n, err := f.tree.CopyRange(c)
	if err != nil {
		return 0, f.told("copy", err)
	}
	if n > 0 && in.Uid != 0 {
		// Linux leaves it to us, and does not say whether the caller may keep it.
		if err := f.dropSuid(dst); err != nil {
			return 0, status(err)
		}
	}
	if n > 0 && f.tree.Synchronous(dst, in.FhOut) {
		// No FSYNC follows, as it does a write.
		if _, err := f.manager.Barrier(context.Background(), "osync", dst); err != nil {
			return 0, status(err)
		}
	}
	return uint32(n), fuse.OK
}
