package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"

	"stepfs/fs/stage"
)

// placeFor gives the live directory in which name is about to be made. Nothing
// in the live root may be called like the directory of snapshots: it would
// never be seen.
func (f *FileSystem) placeFor(parent uint64, name string) (uint64, error) {
	ino, err := f.live(parent)
	if err == nil && f.isSnapDir(f.node(parent), name) {
		err = stage.ErrExist
	}
	return ino, err
}

// placeOf gives the live directory from which name is about to go.
func (f *FileSystem) placeOf(parent uint64, name string) (uint64, error) {
	ino, err := f.live(parent)
	if err == nil && f.isSnapDir(f.node(parent), name) {
		err = stage.ErrReadOnly
	}
	return ino, err
}

// made answers with a new live node.
func (f *FileSystem) made(a stage.Attr, err error, out *fuse.EntryOut) fuse.Status {
	if err == nil {
		f.fillEntry(out, nodeID(a.Ino), a)
	}
	return status(err)
}

// Mknod makes a file, a FIFO, a socket or a device.
func (f *FileSystem) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	parent, err := f.placeFor(in.NodeId, name)
	if err != nil {
		return status(err)
	}
	a, err := f.tree.Mknod(parent, name, in.Mode, in.Rdev, credOf(&in.InHeader, in.Umask))
	return f.made(a, err, out)
}

// Mkdir makes a directory; among the snapshots it takes one.
func (f *FileSystem) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	if n := f.node(in.NodeId); n.isName() {
		return f.mkdirSnapshot(n, name, in.Uid, out)
	}
	parent, err := f.placeFor(in.NodeId, name)
	if err != nil {
		return status(err)
	}
	mode := stage.ModeDir | in.Mode&0o7777
	a, err := f.tree.Mknod(parent, name, mode, 0, credOf(&in.InHeader, in.Umask))
	return f.made(a, err, out)
}

// Symlink makes a symbolic link.
func (f *FileSystem) Symlink(_ <-chan struct{}, in *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	parent, err := f.placeFor(in.NodeId, name)
	if err != nil {
		return status(err)
	}
	a, err := f.tree.Symlink(parent, name, target, credOf(in, 0))
	return f.made(a, err, out)
}

// Readlink gives a symbolic link's target.
func (f *FileSystem) Readlink(_ <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	n := f.node(in.NodeId)
	if n.isName() {
		target, err := f.readlinkName(n)
		return []byte(target), status(err)
	}
	src, err := f.source(n)
	if err != nil {
		return nil, status(err)
	}
	target, err := src.Readlink(n.ino())
	return []byte(target), status(err)
}

// Link gives a live file one more name.
func (f *FileSystem) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	if err := f.sameTree(in.Oldnodeid, in.NodeId); err != nil {
		return status(err)
	}
	parent, err := f.placeFor(in.NodeId, name)
	if err != nil {
		return status(err)
	}
	a, err := f.tree.Link(f.node(in.Oldnodeid).ino(), parent, name)
	return f.made(a, err, out)
}

// Unlink removes a name that is not a directory.
func (f *FileSystem) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	parent, err := f.placeOf(in.NodeId, name)
	if err != nil {
		return status(err)
	}
	return status(f.tree.Unlink(parent, name))
}

// Rmdir removes an empty directory; among the snapshots, one that was made
// under that name.
func (f *FileSystem) Rmdir(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	if n := f.node(in.NodeId); n.isName() {
		return f.rmdirSnapshot(n, name, in.Uid)
	}
	parent, err := f.placeOf(in.NodeId, name)
	if err != nil {
		return status(err)
	}
	return status(f.tree.Rmdir(parent, name))
}

// Rename moves a name; the flags are RENAME_NOREPLACE and RENAME_EXCHANGE.
func (f *FileSystem) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	if err := f.sameTree(in.NodeId, in.Newdir); err != nil {
		return status(err)
	}
	from, err := f.placeOf(in.NodeId, oldName)
	if err != nil {
		return status(err)
	}
	to, err := f.placeFor(in.Newdir, newName)
	if err != nil {
		return status(err)
	}
	return status(f.tree.Rename(from, oldName, to, newName, in.Flags))
}

// sameTree refuses what would tie the live tree to a snapshot, the way the
// kernel does between two mounts, so that mv falls back to a copy.
func (f *FileSystem) sameTree(a, b uint64) error {
	if f.node(a).isLive() != f.node(b).isLive() {
		return errCrossTree
	}
	return nil
}
