package fs

import (
	"errors"
	"math"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"stepfs/fs/stage"
)

// blockSize is st_blksize: the size of the requests that programs should make.
const blockSize = MaxWrite

// Lookup finds a name in a directory. That a name does not exist is an answer,
// too, which the kernel may keep.
func (f *FileSystem) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	parent := f.node(in.NodeId)
	switch {
	case len(name) > stage.MaxName:
		return fuse.Status(unix.ENAMETOOLONG)
	case name == ".":
		// A file handle (name_to_handle_at) whose node the kernel has dropped.
		return f.lookupNode(parent, out)
	case name == "..":
		up, err := f.parent(parent)
		if err != nil {
			return status(err)
		}
		return f.lookupNode(up, out)
	case f.isSnapDir(parent, name):
		return f.lookupNode(snapRoot, out)
	case parent.isName():
		n, err := f.lookupName(parent, name)
		if err != nil {
			return status(err)
		}
		return f.lookupNode(n, out)
	}
	src, err := f.source(parent)
	if err == nil {
		err = f.use(parent)
	}
	if err != nil {
		return status(err)
	}
	a, err := src.Lookup(parent.ino(), name)
	if errors.Is(err, stage.ErrNotExist) {
		out.SetEntryTimeout(forever) // and no node
		return fuse.OK
	}
	if err != nil {
		return status(err)
	}
	f.fillEntry(out, parent.sibling(a.Ino), a)
	return fuse.OK
}

// lookupNode answers with a node that was found by its number. The name that
// led there may mean something else next time.
func (f *FileSystem) lookupNode(n nodeID, out *fuse.EntryOut) fuse.Status {
	a, ttl, err := f.attr(n)
	if err != nil {
		return status(err)
	}
	f.fillEntry(out, n, a)
	out.SetEntryTimeout(0)
	out.SetAttrTimeout(ttl)
	return fuse.OK
}

// fillEntry answers with a node of the live tree or of a snapshot. Inode
// numbers are never used twice, so there is one generation of each.
func (f *FileSystem) fillEntry(out *fuse.EntryOut, n nodeID, a stage.Attr) {
	out.NodeId = f.number(n)
	out.Generation = 1
	out.SetEntryTimeout(forever)
	out.SetAttrTimeout(forever)
	f.fillAttr(&out.Attr, n, a)
}

func (f *FileSystem) fillAttr(out *fuse.Attr, n nodeID, a stage.Attr) {
	out.Ino = f.number(n)
	out.Size, out.Blocks = uint64(a.Size), uint64(a.Blocks)
	out.Atime, out.Atimensec = splitTime(a.Atime)
	out.Mtime, out.Mtimensec = splitTime(a.Mtime)
	out.Ctime, out.Ctimensec = splitTime(a.Ctime)
	out.Mode, out.Nlink = a.Mode, a.Nlink
	out.Uid, out.Gid, out.Rdev = a.UID, a.GID, a.Rdev
	out.Blksize = blockSize
}

// splitTime gives seconds and nanoseconds, the latter never negative.
func splitTime(ns int64) (uint64, uint32) {
	t := time.Unix(0, ns)
	return uint64(t.Unix()), uint32(t.Nanosecond())
}

// joinTime is the inverse; a time that ns do not reach becomes the nearest that
// they do (the years 1677 and 2262).
func joinTime(sec uint64, nsec uint32) int64 {
	const most = math.MaxInt64 / int64(time.Second)
	s := min(max(int64(sec), -most), most-1)
	return s*int64(time.Second) + int64(nsec)
}

// GetAttr gives a node's attributes.
func (f *FileSystem) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	n := f.node(in.NodeId)
	a, ttl, err := f.attrOpen(n)
	if err != nil {
		return status(err)
	}
	out.SetTimeout(ttl)
	f.fillAttr(&out.Attr, n, a)
	return fuse.OK
}

// Statx is GetAttr with the time of birth, which stat(2) has no place for.
func (f *FileSystem) Statx(_ <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	n := f.node(in.NodeId)
	a, ttl, err := f.attrOpen(n)
	if err != nil {
		return status(err)
	}
	out.SetTimeout(ttl)
	out.Statx = fuse.Statx{
		Mask:    unix.STATX_BASIC_STATS | unix.STATX_BTIME,
		Blksize: blockSize,
		Nlink:   a.Nlink, Uid: a.UID, Gid: a.GID, Mode: uint16(a.Mode),
		Ino: f.number(n), Size: uint64(a.Size), Blocks: uint64(a.Blocks),
		Atime: sxTime(a.Atime), Mtime: sxTime(a.Mtime), Ctime: sxTime(a.Ctime), Btime: sxTime(a.Btime),
		RdevMajor: unix.Major(uint64(a.Rdev)), RdevMinor: unix.Minor(uint64(a.Rdev)),
	}
	return fuse.OK
}

func sxTime(ns int64) fuse.SxTime {
	sec, nsec := splitTime(ns)
	return fuse.SxTime{Sec: sec, Nsec: nsec}
}

// attr gives the attributes of any node and how long they hold.
func (f *FileSystem) attr(n nodeID) (stage.Attr, time.Duration, error) {
	if n.isName() {
		a, err := f.nameAttr(n)
		return a, 0, err
	}
	src, err := f.source(n)
	if err != nil {
		return stage.Attr{}, 0, err
	}
	a, err := src.GetAttr(n.ino())
	if errors.Is(err, stage.ErrNotExist) {
		err = stage.ErrStale // the kernel's node is gone, its name may not be
	}
	return a, forever, err
}

// attrOpen is attr of what the kernel may have open though it was removed.
func (f *FileSystem) attrOpen(n nodeID) (stage.Attr, time.Duration, error) {
	a, ttl, err := f.attr(n)
	if errors.Is(err, stage.ErrStale) && n.isLive() && !f.opts.SnapshotsOnly {
		if ghost, ok := f.tree.Ghost(n.ino()); ok {
			return ghost, forever, nil
		}
	}
	return a, ttl, err
}

// parent gives a directory's "..".
func (f *FileSystem) parent(n nodeID) (nodeID, error) {
	switch {
	case n.isName():
		return f.nameParent(n), nil
	case n == stage.RootIno:
		return n, nil
	case n.isSnapshot():
		info, err := f.registry.BySlot(n.slot())
		if err != nil {
			return 0, err
		}
		if root, dir := f.snapshotRoot(n.view(), info); n.ino() == root {
			return dir, nil
		}
	}
	src, err := f.source(n)
	if err != nil {
		return 0, err
	}
	ino, err := src.Parent(n.ino())
	return n.sibling(ino), err
}
