package stage

import (
	"errors"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"stepfs/internal/schema"
)

// A directory of a tree that is rebuilt: see rebuild.go.

// RebuiltDir is a directory whose entries are being said.
type RebuiltDir struct {
	r   *Rebuilder
	dir uint64
	it  *pebble.Iterator // over what the state before had there
	old oldEntry         // its next entry; without a name: there is none left
	err error
}

// oldEntry is the newest version of an entry, perhaps a tombstone.
type oldEntry struct {
	name string
	dentry
}

// Dir begins to say what is in a directory: Put in byte order, then Done, or
// Close. Until Know it is not as any object says.
func (r *Rebuilder) Dir(dir uint64) (*RebuiltDir, error) {
	delete(r.known, dir)
	if _, dirty := r.dirs[dir]; dirty {
		if err := r.flush(); err != nil {
			return nil, err
		}
	}
	prefix := schema.DirPrefix(dir)
	it, err := r.db.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return nil, wrapDisk(err)
	}
	d := &RebuiltDir{r: r, dir: dir, it: it}
	it.First()
	d.next()
	return d, nil
}

// next goes on to the next entry of before.
func (d *RebuiltDir) next() {
	if d.old.name != "" {
		skipVersions(d.it, schema.DentryPrefix(d.dir, d.old.name))
	}
	d.old = oldEntry{}
	if !d.it.Valid() || d.err != nil {
		return
	}
	e, err := parseDentry(d.it.Key(), d.it.Value())
	if d.err = err; err == nil {
		d.old.dentry = e
		d.old.name, _, d.err = schema.ParseDentryKey(d.it.Key())
	}
}

// Close ends a directory that is not said to its end.
func (d *RebuiltDir) Close() error { return wrapDisk(errors.Join(d.err, d.it.Error(), d.it.Close())) }

// Put says that there is an entry, and what it holds if it is a regular file. It gives the inode's number, which may not be the entry's.
func (d *RebuiltDir) Put(e *schema.TreeEntry, c schema.TreeContent) (uint64, error) {
	d.pass(func(name string) bool { return name < e.Name })
	var cur dentry
	if d.old.name == e.Name {
		cur = d.old.dentry
		d.next()
	}
	if d.err != nil {
		return 0, wrapDisk(d.err)
	}
	return d.r.place(d.dir, e, cur, c)
}

// place makes an entry lead to the inode that e says.
func (r *Rebuilder) place(dir uint64, e *schema.TreeEntry, cur dentry, c schema.TreeContent) (uint64, error) {
	ino, old, err := r.inode(dir, e, c)
	if err != nil {
		return 0, err
	}
	if old != nil && (old.Parent != dir || old.Name != e.Name) {
		if err := r.leave(ino, old, e); err != nil {
			return 0, err
		}
	}
	if err := r.count(ino, old, dir, e, cur.live() && cur.Ino == ino); err != nil {
		return 0, err
	}
	if !cur.live() || cur.Ino != ino {
		r.setEntry(dir, e.Name, cur, schema.Dentry{Ino: ino, Type: e.Mode & ModeType})
	}
	return ino, r.flushFull()
}

// leave takes an inode that has come from elsewhere off the place where it was: that
// may be in a scope of which this state says nothing. A directory, or a file of one
// name, is in one place.
func (r *Rebuilder) leave(ino uint64, old *schema.Inode, e *schema.TreeEntry) error {
	if err := r.forgetUp(old.Parent); err != nil || !e.IsDir() && e.Nlink > 1 {
		return err
	}
	cur, err := r.entry(old.Parent, old.Name)
	if err == nil && cur.live() && cur.Ino == ino {
		r.setEntry(old.Parent, old.Name, cur, noEntry)
		// Should that directory still be said in this state, it has the entry.
		r.left[string(schema.DentryPrefix(old.Parent, old.Name))] = struct{}{}
	}
	return err
}

// count counts the names of a file of which there are several; old is its version
// of before, or nil, and had says that this name led to it.
func (r *Rebuilder) count(ino uint64, old *schema.Inode, dir uint64, e *schema.TreeEntry, had bool) error {
	n, known := r.names[ino]
	if e.IsDir() || e.Nlink < 2 && !known {
		return nil
	}
	if !known && old != nil && (old.Parent != dir || old.Name != e.Name) { // it may have had one
		d, err := r.entry(old.Parent, old.Name)
		if err != nil {
			return err
		}
		if d.live() && d.Ino == ino {
			n++
		}
	}
	if !known || !had {
		n++
	}
	r.names[ino] = n
	return nil
}

// Done ends a directory: what was not put is not there.
func (d *RebuiltDir) Done() error {
	d.pass(func(string) bool { return true })
	return errors.Join(d.Close(), d.r.flushFull())
}

// pass takes away the entries of before that come next and are gone.
func (d *RebuiltDir) pass(gone func(name string) bool) {
	for d.old.name != "" && gone(d.old.name) {
		if d.old.live() {
			d.r.setEntry(d.dir, d.old.name, d.old.dentry, noEntry)
			d.err = d.r.flushFull()
		}
		d.next()
	}
}

// Scope says that e is the directory at a path below the root. It makes the
// directories above it, where no step has shown them.
func (r *Rebuilder) Scope(parts []string, e *schema.TreeEntry) (uint64, error) {
	if len(parts) == 0 {
		ino, _, err := r.inode(RootIno, e, schema.TreeContent{})
		return ino, err
	}
	if err := r.root(); err != nil {
		return 0, err
	}
	dir := uint64(RootIno)
	for k, name := range parts {
		cur, err := r.entry(dir, name)
		if err != nil {
			return 0, err
		}
		at := *e
		if at.Name = name; k < len(parts)-1 {
			if cur.live() && cur.Type == ModeDir {
				dir = cur.Ino
				continue
			}
			r.ino++
			at = r.plainEntry(name, r.ino)
		}
		if !cur.live() || cur.Type != ModeDir {
			if err := r.widen(dir); err != nil {
				return 0, err
			}
		}
		if err := r.forgetUp(dir); err != nil {
			return 0, err
		}
		if dir, err = r.place(dir, &at, cur, schema.TreeContent{}); err != nil {
			return 0, err
		}
	}
	return dir, nil
}

// root makes the root, where no step has shown it.
func (r *Rebuilder) root() error {
	root, err := r.newest(RootIno)
	if err == nil && root.rec == nil {
		r.write(RootIno, root, r.plainDir(RootIno, ""))
	}
	return err
}

// widen counts one more directory in one that no step shows.
func (r *Rebuilder) widen(dir uint64) error {
	cur, err := r.newest(dir)
	if err != nil || cur.rec == nil {
		return err
	}
	rec := *cur.rec
	rec.Nlink++
	r.write(dir, cur, &rec)
	return nil
}

func (r *Rebuilder) plainEntry(name string, ino uint64) schema.TreeEntry {
	return schema.TreeEntry{Name: name, Ino: ino, Mode: ModeDir | 0o755, Nlink: 2, UID: r.uid, GID: r.gid, Mtime: r.now, Ctime: r.now}
}

func (r *Rebuilder) plainDir(parent uint64, name string) *schema.Inode {
	rec := &schema.Inode{Mode: ModeDir | 0o755, Nlink: 2, UID: r.uid, GID: r.gid, Atime: r.now, Ctime: r.now, Btime: r.now, Parent: parent, Name: name}
	rec.Live.Mtime = r.now
	return rec
}

// Remove takes a name off a directory, with all below it.
func (r *Rebuilder) Remove(dir uint64, name string) error {
	cur, err := r.entry(dir, name)
	if err != nil || !cur.live() {
		return err
	}
	delete(r.known, dir)
	r.setEntry(dir, name, cur, noEntry)
	return nil
}

// sameXattrs says whether an inode has the attributes that an entry says.
func sameXattrs(have map[string]xattr, want []schema.NamedValue) bool {
	live := 0
	for _, x := range have {
		if x.live() {
			live++
		}
	}
	return live == len(want) && !slices.ContainsFunc(want, func(w schema.NamedValue) bool {
		x := have[w.Name]
		return !x.live() || string(x.Value) != string(w.Value)
	})
}
