package fs

import (
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"

	"stepfs/fs/stage"
)

// OpenDir begins to read a directory. What the kernel has read of a directory
// in a snapshot it may keep.
func (f *FileSystem) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n := f.node(in.NodeId)
	if !n.isName() {
		if _, err := f.source(n); err != nil {
			return status(err)
		}
	}
	release, err := f.pin(n)
	if err != nil {
		return status(err)
	}
	if n.isSnapshot() {
		out.OpenFlags = fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE
	}
	s := f.newStream(n)
	s.release = release
	out.Fh = f.dirs.Add(s)
	return fuse.OK
}

// ReleaseDir ends it.
func (f *FileSystem) ReleaseDir(in *fuse.ReleaseIn) {
	if s, ok := f.dirs.Take(in.Fh); ok && s.release != nil {
		s.release()
	}
}

// ReadDir gives names.
func (f *FileSystem) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	const entry = 24 + 16 // struct fuse_dirent and a short name
	return status(f.stream(in).read(in.Offset, int(in.Size)/entry, func(e listed, off uint64) (bool, error) {
		return out.AddDirEntry(dirEntry(e, off)), nil
	}))
}

// ReadDirPlus gives names with what Lookup would say of each. Entries without
// a node are names alone: "." and "..", and the synthetic directories', where
// finding a snapshot's node costs a record.
func (f *FileSystem) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	const entry = 128 + 24 + 16 // struct fuse_entry_out besides
	s := f.stream(in)
	return status(s.read(in.Offset, int(in.Size)/entry, func(e listed, off uint64) (bool, error) {
		entry := out.AddDirLookupEntry(dirEntry(e, off))
		if entry == nil || e.dot || s.n.isName() {
			return entry != nil, nil
		}
		src, err := f.source(s.n)
		if err != nil {
			return false, err
		}
		a, err := src.GetAttr(e.node.ino())
		if errors.Is(err, stage.ErrNotExist) {
			return true, nil // deleted since it was listed: the name alone
		}
		if err != nil {
			return false, err
		}
		f.fillEntry(entry, e.node, a)
		out.FixMode(a.Mode)
		return true, nil
	}))
}

func dirEntry(e listed, off uint64) fuse.DirEntry {
	return fuse.DirEntry{Name: e.name, Mode: e.mode, Ino: uint64(e.node), Off: off}
}

// stream finds the stream of an open directory, or begins one for a handle of
// a predecessor.
func (f *FileSystem) stream(in *fuse.ReadIn) *dirStream {
	if s, ok := f.dirs.Get(in.Fh); ok {
		return s
	}
	return f.dirs.Adopt(in.Fh, f.newStream(f.node(in.NodeId)))
}

func (f *FileSystem) newStream(n nodeID) *dirStream {
	s := &dirStream{n: n, list: f.lister(n)}
	up, err := f.parent(n)
	if err != nil {
		up = n // removed while open
	}
	s.dots = []listed{
		{name: ".", mode: stage.ModeDir, node: nodeID(f.number(n)), dot: true},
		{name: "..", mode: stage.ModeDir, node: nodeID(f.number(up)), dot: true},
	}
	if n == stage.RootIno && f.opts.SnapDirVisible && !f.opts.SnapshotsOnly {
		s.dots = append(s.dots, listed{name: f.opts.SnapDirName, mode: stage.ModeDir, node: snapRoot, dot: true})
	}
	return s
}

// lister gives the func that lists a directory piecewise.
func (f *FileSystem) lister(n nodeID) lister {
	if n.isName() {
		return f.nameLister(n)
	}
	return func(after string, max int) ([]listed, error) {
		src, err := f.source(n)
		if err != nil {
			return nil, err
		}
		page, err := src.ReadDir(n.ino(), after, max)
		if errors.Is(err, stage.ErrNotExist) {
			return nil, nil // removed while open
		}
		out := make([]listed, 0, len(page))
		for _, e := range page {
			out = append(out, listed{name: e.Name, key: e.Name, mode: e.Type, node: n.sibling(e.Ino),
				hidden: f.isSnapDir(n, e.Name)})
		}
		return out, err
	}
}
