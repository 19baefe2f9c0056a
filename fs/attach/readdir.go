package attach

import (
	"context"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"stepfs/internal/schema"
)

// listed is one name of a synthetic directory being read.
type listed struct {
	name string
	mode uint32
	node nodeID // 0 = not known: finding a snapshot's costs requests
}

// dots is how many entries are before the first: "." and "..".
const dots = 2

// OpenDir begins to read a directory. Of names what there is now is shown to the
// end; a directory of a snapshot never changes, so its offsets are places: the
// page's place in the directory, and the entry's in the page.
func (f *FileSystem) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n := nodeID(in.NodeId)
	if n.isSnapshot() {
		s, err := f.snapshotOf(n)
		if err == nil {
			_, err = f.directory(asking(cancel), s, n)
		}
		out.OpenFlags = fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE
		return f.told("open a directory", err)
	}
	all, err := f.listNames(n)
	if err == nil {
		out.Fh = f.dirs.Add(all)
	}
	return f.told("open a directory", err)
}

// ReleaseDir ends it.
func (f *FileSystem) ReleaseDir(in *fuse.ReleaseIn) { f.dirs.Take(in.Fh) }

// listNames lists a synthetic directory.
func (f *FileSystem) listNames(n nodeID) ([]listed, error) {
	of, err := f.nameOf(n)
	if err != nil {
		return nil, err
	}
	if of.kind == rootName {
		return []listed{{f.opts.SnapDirName, unix.S_IFDIR, f.nameNode(nameOf{kind: dirName})}}, nil
	}
	d, err := f.nameDir(of)
	if err != nil {
		return nil, err
	}
	var all []listed
	if d.Latest != "" {
		all = append(all, listed{latestName, unix.S_IFLNK, f.nameNode(nameOf{latestOf, of.path})})
	}
	for _, e := range d.Entries {
		l := listed{name: e.Name, mode: unix.S_IFDIR}
		if e.Step == nil {
			l.node = f.nameNode(nameOf{dirName, join(of.path, e.Name)})
		}
		all = append(all, l)
	}
	return all, nil
}

// emit takes one entry, which e is nil of for names alone; false: it does not fit.
type emit func(d fuse.DirEntry, n nodeID, e *schema.TreeEntry) bool

// ReadDir gives names.
func (f *FileSystem) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.told("read a directory", f.readDir(asking(cancel), in, func(d fuse.DirEntry, _ nodeID, _ *schema.TreeEntry) bool {
		return out.AddDirEntry(d)
	}))
}

// ReadDirPlus gives names with what Lookup would say of each, where that costs
// nothing: in snapshots.
func (f *FileSystem) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.told("read a directory", f.readDir(asking(cancel), in, func(d fuse.DirEntry, n nodeID, e *schema.TreeEntry) bool {
		entry := out.AddDirLookupEntry(d)
		if entry != nil && e != nil {
			f.fillEntry(entry, n, e)
			out.FixMode(e.Mode)
		}
		return entry != nil
	}))
}

func (f *FileSystem) readDir(ctx context.Context, in *fuse.ReadIn, add emit) error {
	n, off := nodeID(in.NodeId), in.Offset
	for ; off < dots; off++ {
		d := fuse.DirEntry{Name: ".", Mode: unix.S_IFDIR, Ino: uint64(n), Off: off + 1}
		if off == 1 {
			d.Name, d.Ino = "..", uint64(f.parent(n))
		}
		if !add(d, 0, nil) {
			return nil
		}
	}
	if n.isSnapshot() {
		return f.readPages(ctx, n, off-dots, add)
	}
	all, ok := f.dirs.Get(in.Fh)
	if !ok {
		return errStale
	}
	for k := off - dots; k < uint64(len(all)); k++ {
		l := all[k]
		if !add(fuse.DirEntry{Name: l.name, Mode: l.mode, Ino: uint64(l.node), Off: k + dots + 1}, l.node, nil) {
			return nil
		}
	}
	return nil
}

// readPages gives the entries of a snapshot's directory from a place on.
func (f *FileSystem) readPages(ctx context.Context, n nodeID, from uint64, add emit) error {
	s, err := f.snapshotOf(n)
	if err != nil {
		return err
	}
	d, err := f.directory(ctx, s, n)
	if err != nil {
		return err
	}
	at := from & maxPlace
	for k := from >> placeBits; k < uint64(len(d.Pages)); k, at = k+1, 0 {
		page, err := f.page(ctx, s, d, int(k))
		if err != nil {
			return err
		}
		for ; at < uint64(len(page)); at++ {
			e := &page[at]
			// The last place of a full page is the first of the next one.
			next := k<<placeBits + at + 1 + dots
			ent := fuse.DirEntry{Name: e.Name, Mode: e.Mode, Ino: inodeNumber(s.slot, e.Ino), Off: next}
			if !add(ent, snapshotNode(s.slot, d.first+int(k), int(at)), e) {
				return nil
			}
		}
	}
	return nil
}
