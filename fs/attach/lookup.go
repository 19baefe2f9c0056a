package attach

import (
	"context"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"stepfs/internal/schema"
)

// Lookup finds a name in a directory. That a name does not exist is an answer,
// too, which the kernel may keep of what is in a snapshot.
func (f *FileSystem) Lookup(cancel <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	ctx, parent := asking(cancel), nodeID(in.NodeId)
	switch {
	case len(name) > maxName:
		return fuse.Status(unix.ENAMETOOLONG)
	case name == ".":
		// A file handle (name_to_handle_at) whose node the kernel has dropped.
		return f.lookupNode(ctx, parent, out)
	case name == "..":
		return f.lookupNode(ctx, f.parent(parent), out)
	case !parent.isSnapshot():
		of, err := f.nameOf(parent)
		if err != nil {
			return f.told("look up", err)
		}
		n, err := f.lookupName(of, name)
		if err != nil {
			return f.told("look up", err)
		}
		return f.lookupNode(ctx, n, out)
	}
	return f.told("look up", f.lookupIn(ctx, parent, name, out))
}

// lookupIn finds a name in a directory of a snapshot.
func (f *FileSystem) lookupIn(ctx context.Context, parent nodeID, name string, out *fuse.EntryOut) error {
	s, err := f.snapshotOf(parent)
	if err != nil {
		return err
	}
	d, err := f.directory(ctx, s, parent)
	if err != nil {
		return err
	}
	out.SetEntryTimeout(forever)
	if len(d.Pages) == 0 {
		return nil // no such name, and no node
	}
	k := d.PageOf(name)
	page, err := f.page(ctx, s, d, k)
	if err != nil {
		return err
	}
	if at, ok := page.Find(name); ok {
		f.fillEntry(out, snapshotNode(s.slot, d.first+k, at), &page[at])
	}
	return nil
}

// fillEntry answers with a node of a snapshot. Numbers are never used twice in a
// mount.
func (f *FileSystem) fillEntry(out *fuse.EntryOut, n nodeID, e *schema.TreeEntry) {
	out.NodeId, out.Generation = uint64(n), f.generation
	out.SetEntryTimeout(forever)
	out.SetAttrTimeout(forever)
	fillAttr(&out.Attr, n, e)
}

func fillAttr(out *fuse.Attr, n nodeID, e *schema.TreeEntry) {
	out.Ino = inodeNumber(n.slot(), e.Ino)
	out.Size, out.Blocks = uint64(e.Size), uint64(e.Alloc+511)/512
	out.Mtime, out.Mtimensec = splitTime(e.Mtime)
	out.Ctime, out.Ctimensec = splitTime(e.Ctime)
	out.Atime, out.Atimensec = out.Mtime, out.Mtimensec // it is not kept
	out.Mode, out.Nlink = e.Mode, e.Nlink
	out.Uid, out.Gid, out.Rdev = e.UID, e.GID, e.Rdev
	out.Blksize = blockSize
}

// splitTime gives seconds and nanoseconds, the latter never negative.
func splitTime(ns int64) (uint64, uint32) {
	t := time.Unix(0, ns)
	return uint64(t.Unix()), uint32(t.Nanosecond())
}

// lookupNode answers with a node that was found by its number. The name that led
// there may mean something else next time.
func (f *FileSystem) lookupNode(ctx context.Context, n nodeID, out *fuse.EntryOut) fuse.Status {
	ttl, err := f.attr(ctx, n, &out.Attr)
	if err != nil {
		return f.told("look up", err)
	}
	out.NodeId, out.Generation = uint64(n), f.generation
	out.SetEntryTimeout(0)
	out.SetAttrTimeout(ttl)
	return fuse.OK
}

// GetAttr gives a node's attributes.
func (f *FileSystem) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	ttl, err := f.attr(asking(cancel), nodeID(in.NodeId), &out.Attr)
	if err != nil {
		return f.told("stat", err)
	}
	out.SetTimeout(ttl)
	return fuse.OK
}

// attr gives the attributes of any node and how long they hold.
func (f *FileSystem) attr(ctx context.Context, n nodeID, out *fuse.Attr) (time.Duration, error) {
	if !n.isSnapshot() {
		return 0, f.nameAttr(n, out)
	}
	s, err := f.snapshotOf(n)
	if err != nil {
		return 0, err
	}
	_, e, err := f.entry(ctx, s, n)
	if err != nil {
		return 0, err
	}
	fillAttr(out, n, e)
	return forever, nil
}

// nameAttr shows a synthetic node.
func (f *FileSystem) nameAttr(n nodeID, out *fuse.Attr) error {
	of, err := f.nameOf(n)
	if err != nil {
		return err
	}
	out.Ino, out.Uid, out.Gid, out.Blksize = uint64(n), f.opts.UID, f.opts.GID, blockSize
	out.Mode, out.Nlink = unix.S_IFDIR|0o555, 2
	changed := f.begun.UnixNano()
	if of.kind != rootName {
		d, err := f.nameDir(nameOf{dirName, of.path})
		if err != nil {
			return err
		}
		if d.Newest != 0 {
			changed = d.Newest
		}
		if of.kind == latestOf {
			if d.Latest == "" {
				return errStale
			}
			out.Mode, out.Nlink, out.Size = unix.S_IFLNK|0o777, 1, uint64(len(d.Latest))
		}
	}
	out.Mtime, out.Mtimensec = splitTime(changed)
	out.Atime, out.Atimensec = out.Mtime, out.Mtimensec
	out.Ctime, out.Ctimensec = out.Mtime, out.Mtimensec
	return nil
}

// parent gives a directory's "..".
func (f *FileSystem) parent(n nodeID) nodeID {
	if !n.isSnapshot() {
		of, err := f.nameOf(n)
		if err != nil {
			return rootNode
		}
		return f.nameParent(of)
	}
	s := f.shown.get(n.slot())
	if s == nil {
		return rootNode
	}
	dir, isRoot := s.parentOf(n)
	if isRoot {
		return f.nameNode(nameOf{dirName, s.dir})
	}
	return dir
}

// Readlink gives a symbolic link's target.
func (f *FileSystem) Readlink(cancel <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	target, err := f.readlink(asking(cancel), nodeID(in.NodeId))
	return []byte(target), f.told("read a link", err)
}

func (f *FileSystem) readlink(ctx context.Context, n nodeID) (string, error) {
	if n.isSnapshot() {
		s, err := f.snapshotOf(n)
		if err != nil {
			return "", err
		}
		_, e, err := f.entry(ctx, s, n)
		if err == nil && !e.IsLink() {
			err = errInvalid
		}
		if err != nil {
			return "", err
		}
		return e.Target, nil
	}
	of, err := f.nameOf(n)
	if err != nil {
		return "", err
	}
	if of.kind != latestOf {
		return "", errInvalid
	}
	d, err := f.nameDir(nameOf{dirName, of.path})
	if err != nil {
		return "", err
	}
	if d.Latest == "" {
		return "", errStale
	}
	return d.Latest, nil
}

// StatFs shows a full disk of the size of what is published.
func (f *FileSystem) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	count, logical := f.opts.Catalog.Names().Steps()
	out.Bsize, out.Frsize, out.NameLen = blockSize, blockSize, maxName
	out.Blocks, out.Files = uint64(logical+blockSize-1)/blockSize, uint64(count)
	return fuse.OK
}
