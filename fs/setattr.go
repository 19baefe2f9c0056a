package fs

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"stepfs/fs/stage"
)

// SetAttr changes attributes; a size is a truncate.
func (f *FileSystem) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	ino, err := f.live(in.NodeId)
	if err != nil {
		return status(err)
	}
	set, err := f.wanted(ino, in, time.Now().UnixNano())
	if err != nil {
		return status(err)
	}
	a, err := f.tree.SetAttr(ino, set)
	if err != nil {
		return status(err)
	}
	out.SetTimeout(forever)
	f.fillAttr(&out.Attr, nodeID(ino), a)
	return fuse.OK
}

// wanted translates a SETATTR.
func (f *FileSystem) wanted(ino uint64, in *fuse.SetAttrIn, now int64) (stage.SetAttr, error) {
	var set stage.SetAttr
	has := func(bit uint32) bool { return in.Valid&bit != 0 }
	timeOf := func(bit, nowBit uint32, sec uint64, nsec uint32) *int64 {
		switch {
		case has(nowBit):
			return &now
		case has(bit):
			t := joinTime(sec, nsec)
			return &t
		}
		return nil
	}
	if has(fuse.FATTR_MODE) {
		mode := in.Mode & 0o7777
		set.Mode = &mode
	}
	if has(fuse.FATTR_UID) {
		set.UID = &in.Uid
	}
	if has(fuse.FATTR_GID) {
		set.GID = &in.Gid
	}
	if has(fuse.FATTR_SIZE) {
		size := int64(in.Size)
		if size < 0 {
			return set, stage.ErrTooBig
		}
		set.Size = &size
		if has(fuse.FATTR_FH) {
			set.Handle = in.Fh
		}
	}
	set.Atime = timeOf(fuse.FATTR_ATIME, fuse.FATTR_ATIME_NOW, in.Atime, in.Atimensec)
	set.Mtime = timeOf(fuse.FATTR_MTIME, fuse.FATTR_MTIME_NOW, in.Mtime, in.Mtimensec)
	set.Ctime = timeOf(fuse.FATTR_CTIME, 0, in.Ctime, in.Ctimensec)

	// CAP_HANDLE_KILLPRIV_V2 makes this ours: a change of owner always, a
	// truncate when the kernel says so. A request that names nothing is what is
	// left of chown(path, -1, -1), or of the kernel's own taking these bits away
	// (before an fallocate, say).
	nothing := in.Valid&^(fuse.FATTR_FH|fuse.FATTR_LOCKOWNER|fuse.FATTR_KILL_SUIDGID) == 0
	if set.Mode == nil && (nothing || set.UID != nil || set.GID != nil || has(fuse.FATTR_KILL_SUIDGID)) {
		mode, err := f.withoutSuid(ino)
		if err != nil {
			return set, err
		}
		set.Mode = mode
	}
	return set, nil
}

// withoutSuid gives the mode of a file without set-user-id, and without
// set-group-id where that means a program (and not mandatory locking); nil
// when there is nothing to take away. File capabilities are not stored at all,
// see xattr.go.
func (f *FileSystem) withoutSuid(ino uint64) (*uint32, error) {
	a, _, err := f.attrOpen(nodeID(ino))
	if err != nil || a.Mode&stage.ModeType == stage.ModeDir {
		return nil, err
	}
	mode := a.Mode & 0o7777 &^ unix.S_ISUID
	if mode&unix.S_IXGRP != 0 {
		mode &^= unix.S_ISGID
	}
	if mode == a.Mode&0o7777 {
		return nil, nil
	}
	return &mode, nil
}

// dropSuid takes set-user-id away after a write by somebody without the right
// to keep it.
func (f *FileSystem) dropSuid(ino uint64) error {
	mode, err := f.withoutSuid(ino)
	if err != nil || mode == nil {
		return err
	}
	_, err = f.tree.SetAttr(ino, stage.SetAttr{Mode: mode})
	return err
}
