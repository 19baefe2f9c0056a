package stage

import (
	"context"
	"encoding/binary"
	"errors"
	"path"
	"slices"
	"strings"

	"stepfs/internal/schema"
)

// What differs between snapshots a < b is found from the index of deaths. An
// inode that both show, and not alike, has a version from a or before that was
// superseded in (a, b]. Its death is listed there, and stays there: when a
// snapshot between the two goes, the death moves behind the next older one that
// is kept, which is a itself at the least; and one listed behind b never comes
// down past b. (Both are pinned meanwhile.) A new name has no death, but the
// directory that it came to has one.
//
// So the walk goes down from the two roots to the inodes that were touched, by
// the names that they know themselves by, and lists only directories that were
// touched, and trees that only one of the two shows. An inode with several names
// knows one of them: if others may have been missed, the walk lists everything.

// Attrs are the ways in which an entry can differ.
type Attrs uint8

// What differs. A file whose content differs is not said to differ in its
// mtime, nor is a directory whose names differ.
const (
	AttrContent Attrs = 1 << iota // or the target of a symbolic link
	AttrType
	AttrMode
	AttrOwner
	AttrMtime
	AttrXattr
	AttrName // it was renamed itself, not a directory above it
)

// Change is one entry that differs. An added one has no OldMode, a removed one
// no NewMode. What lies in a renamed directory moves with it and is not listed
// unless it differs.
type Change struct {
	Old, New         string // paths below the two directories, which are "" themselves
	OldMode, NewMode uint32 // with the type; 0: absent
	OldSize, NewSize int64
	Attrs            Attrs
	// Bytes is how much of the content was added, removed, or is another
	// generation's and not the same chunk at the same place.
	Bytes int64
}

// Path is what the change is listed under.
func (c *Change) Path() string {
	if c.NewMode == 0 {
		return c.Old
	}
	return c.New
}

// Diff is what differs between two directories of two snapshots.
type Diff struct {
	Changes []Change // by path
	Bytes   int64    // sum; content that has several names counts once
	Looked  int      // at how many names and deaths
}

// Diff compares directory oldDir of snapshot old with newDir of snapshot new.
// Nothing may prune either meanwhile. It holds in memory what differs.
func (t *Tree) Diff(ctx context.Context, old, oldDir, new, newDir uint64) (*Diff, error) {
	d := &differ{t: t, ctx: ctx, views: [2]*View{t.At(old), t.At(new)}}
	if err := d.findTouched(min(old, new), max(old, new)); err != nil {
		return nil, err
	}
	err := d.walk(oldDir, newDir)
	if err == nil && !d.all && d.missed() {
		d.all = true
		err = d.walk(oldDir, newDir)
	}
	if err != nil {
		return nil, err
	}
	slices.SortFunc(d.out.Changes, func(a, b Change) int { return strings.Compare(a.Path(), b.Path()) })
	return &d.out, nil
}

// differ is one comparison. Index 0 is the old side, 1 the new one.
type differ struct {
	t     *Tree
	ctx   context.Context
	views [2]*View

	touched map[uint64]bool            // inodes of which the two show different versions
	via     map[uint64]map[string]bool // directory -> names that lead to them
	all     bool                       // list every directory

	names   [2]map[uint64]uint32 // touched inodes -> how many of their names were seen
	only    [2][]single          // what one side alone has
	counted map[[2]uint64]bool   // contents that are in the sum
	links   map[uint64][2]uint32 // touched inodes -> how many names they have, where it is more than one
	out     Diff
}

// single is an entry that one side alone has under that path.
type single struct {
	path     string
	ino      uint64
	typ      uint32
	expanded bool // its entries are listed, too
	matched  bool // it was renamed
}

// findTouched goes through the deaths between the two snapshots.
func (d *differ) findTouched(a, b uint64) error {
	d.touched, d.via, d.links = map[uint64]bool{}, map[uint64]map[string]bool{}, map[uint64][2]uint32{}
	it, err := d.t.db.NewIter(schema.Numbered(schema.PrefixDeath, a+1), schema.Numbered(schema.PrefixDeath, b+1))
	if err != nil {
		return wrapDisk(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		d.out.Looked++
		v, err := versionOf(it.Key())
		if err = errors.Join(wrapDisk(err), d.ctx.Err()); err != nil {
			return err
		}
		if v > a {
			continue // neither shows it
		}
		ino := binary.BigEndian.Uint64(it.Key()[10:])
		if d.touched[ino] {
			continue
		}
		d.touched[ino] = true
		if err := d.lead(ino); err != nil {
			return err
		}
	}
	return wrapDisk(it.Error())
}

// lead notes the way to a touched inode on either side.
func (d *differ) lead(ino uint64) error {
	for side, v := range d.views {
		rec, err := v.inode(ino)
		if errors.Is(err, ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if !isDir(rec) && rec.Nlink > 1 {
			n := d.links[ino]
			n[side] = rec.Nlink
			d.links[ino] = n
		}
		if err := d.climb(v, ino, rec); err != nil {
			return err
		}
	}
	return nil
}

// climb notes the names that lead to an inode, up to where they are known.
func (d *differ) climb(v *View, ino uint64, rec *schema.Inode) error {
	for ino != RootIno && rec.Nlink > 0 {
		e, err := d.t.findDentry(rec.Parent, rec.Name, v.seq)
		if err != nil {
			return err
		}
		if e.Hidden {
			return nil
		}
		if e.Ino != ino { // that name of several is gone, or it is out of sight
			d.all = d.all || !isDir(rec)
			return nil
		}
		names := d.via[rec.Parent]
		if names == nil {
			names = map[string]bool{}
			d.via[rec.Parent] = names
		}
		if names[rec.Name] {
			return nil
		}
		names[rec.Name] = true
		ino = rec.Parent
		if rec, err = v.inode(ino); err != nil {
			return err
		}
	}
	return nil
}

// missed says whether a touched inode may have names that the walk did not see.
func (d *differ) missed() bool {
	for ino, want := range d.links {
		if d.names[0][ino] < want[0] || d.names[1][ino] < want[1] {
			return true
		}
	}
	return false
}

// walk compares two directories and all below them.
func (d *differ) walk(oldDir, newDir uint64) error {
	d.only, d.counted = [2][]single{}, map[[2]uint64]bool{}
	d.names = [2]map[uint64]uint32{{}, {}}
	d.out.Changes, d.out.Bytes = nil, 0
	if err := d.dirs([2]string{}, [2]uint64{oldDir, newDir}, false); err != nil {
		return err
	}
	if err := d.pairUp(); err != nil {
		return err
	}
	for side, list := range d.only {
		for _, s := range list {
			if s.matched {
				continue
			}
			if err := d.lone(side, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// dirs compares a directory of either side, and its entries.
func (d *differ) dirs(dirs [2]string, inos [2]uint64, renamed bool) error {
	other := false
	err := d.entries(inos, func(name string, e [2]Dirent) error {
		d.out.Looked++
		if err := d.see(&e); err != nil {
			return err
		}
		other = other || e[0].Ino != e[1].Ino
		paths := [2]string{path.Join(dirs[0], name), path.Join(dirs[1], name)}
		if e[0].Ino != 0 && e[1].Ino != 0 {
			return d.both(paths, e)
		}
		for side := range e {
			if e[side].Ino != 0 {
				d.only[side] = append(d.only[side], single{path: paths[side], ino: e[side].Ino, typ: e[side].Type})
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return d.compare(dirs, inos, other, renamed)
}

// entries calls fn for the names in a pair of directories, in order: those that
// lead somewhere are enough where the directory itself is the same.
func (d *differ) entries(dirs [2]uint64, fn func(name string, e [2]Dirent) error) error {
	if dirs[0] != dirs[1] || d.all || d.touched[dirs[0]] {
		return d.merge(dirs, fn)
	}
	for name := range d.via[dirs[0]] {
		var e [2]Dirent
		for side, v := range d.views {
			found, err := d.t.findDentry(dirs[side], name, v.seq)
			if err != nil {
				return err
			}
			if found.seen() {
				e[side] = Dirent{Name: name, Ino: found.Ino, Type: found.Type}
			}
		}
		if err := fn(name, e); err != nil {
			return err
		}
	}
	return nil
}

// merge lists both directories.
func (d *differ) merge(dirs [2]uint64, fn func(name string, e [2]Dirent) error) error {
	lists := [2]lister{{v: d.views[0], dir: dirs[0]}, {v: d.views[1], dir: dirs[1]}}
	for {
		var heads [2]*Dirent
		for side := range lists {
			var err error
			if heads[side], err = lists[side].head(); err != nil {
				return err
			}
		}
		var name string
		switch {
		case heads[0] == nil && heads[1] == nil:
			return d.ctx.Err()
		case heads[0] == nil || heads[1] != nil && heads[1].Name < heads[0].Name:
			name = heads[1].Name
		default:
			name = heads[0].Name
		}
		var e [2]Dirent
		for side, h := range heads {
			if h != nil && h.Name == name {
				e[side] = *h
				lists[side].page = lists[side].page[1:]
			}
		}
		if err := errors.Join(fn(name, e), d.ctx.Err()); err != nil {
			return err
		}
	}
}

// lister gives the names in a view's directory one by one, also of files that
// the view does not show.
type lister struct {
	v     *View
	dir   uint64
	page  []Dirent
	after string
	ended bool
}

const listerPage = 256

func (l *lister) head() (*Dirent, error) {
	for len(l.page) == 0 && !l.ended {
		var err error
		if l.page, err = l.v.t.readDir(l.dir, l.v.seq, l.after, listerPage); err != nil {
			return nil, err
		}
		if l.ended = len(l.page) < listerPage; !l.ended {
			l.after = l.page[len(l.page)-1].Name
		}
		l.page = slices.DeleteFunc(l.page, func(e Dirent) bool { return e.Hidden })
	}
	if len(l.page) == 0 {
		return nil, nil
	}
	return &l.page[0], nil
}

// see takes away entries that a side does not show, and counts names of what
// was touched. Of an inode that was not, both sides show the same.
func (d *differ) see(e *[2]Dirent) error {
	if e[0].Ino == e[1].Ino && !d.touched[e[0].Ino] {
		return nil
	}
	for side := range e {
		ino := e[side].Ino
		if ino == 0 {
			continue
		}
		if _, err := d.views[side].inode(ino); errors.Is(err, ErrNotExist) {
			e[side] = Dirent{}
			continue
		} else if err != nil {
			return err
		}
		d.names[side][ino]++
	}
	return nil
}

// both compares what stands under one name on either side.
func (d *differ) both(paths [2]string, e [2]Dirent) error {
	inos := [2]uint64{e[0].Ino, e[1].Ino}
	dirs := [2]bool{e[0].Type == ModeDir, e[1].Type == ModeDir}
	if inos[0] == inos[1] && !d.touched[inos[0]] && (!dirs[0] || !d.all && d.via[inos[0]] == nil) {
		return nil
	}
	if dirs[0] && dirs[1] {
		return d.dirs(paths, inos, false)
	}
	for side := range e {
		if dirs[side] { // a file took its place, or it took a file's
			if err := d.expand(side, paths[side], inos[side]); err != nil {
				return err
			}
		}
	}
	return d.compare(paths, inos, false, false)
}

// expand lists what is in a directory that one side alone has.
func (d *differ) expand(side int, dir string, ino uint64) error {
	l := lister{v: d.views[side], dir: ino}
	for {
		h, err := l.head()
		if err = errors.Join(err, d.ctx.Err()); err != nil || h == nil {
			return err
		}
		var e [2]Dirent
		e[side] = *h
		l.page = l.page[1:]
		d.out.Looked++
		if err := d.see(&e); err != nil {
			return err
		}
		if e[side].Ino != 0 {
			d.only[side] = append(d.only[side], single{path: path.Join(dir, h.Name), ino: h.Ino, typ: h.Type})
		}
	}
}
