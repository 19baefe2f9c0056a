package stage

import (
	"fmt"

	"stepfs/internal/schema"
)

// maxLinks is ext4's limit.
const maxLinks = 65000

// Lookup finds an entry of a directory.
func (t *Tree) Lookup(parent uint64, name string) (Attr, error) {
	if len(name) > MaxName {
		return Attr{}, ErrNameTooLong
	}
	d, err := t.findDentry(parent, name, newest)
	if err != nil {
		return Attr{}, err
	}
	if !d.live() {
		return Attr{}, ErrNotExist
	}
	return t.GetAttr(d.Ino)
}

// GetAttr gives what stat(2) shows.
func (t *Tree) GetAttr(ino uint64) (Attr, error) {
	n, err := t.get(ino)
	if err != nil {
		return Attr{}, err
	}
	defer t.put(n)
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.attr(), nil
}

func (n *inode) attr() Attr { return attrOf(n.ino, n.rec, &n.rec.Live) }

// Parent gives the directory that holds dir, or the last known one of a file.
func (t *Tree) Parent(ino uint64) (uint64, error) {
	n, err := t.get(ino)
	if err != nil {
		return 0, err
	}
	defer t.put(n)
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.rec.Parent, nil
}

// ReadDir gives up to max entries whose names come after `after` ("" = from
// the start), in byte order, without "." and "..".
func (t *Tree) ReadDir(dir uint64, after string, max int) ([]Dirent, error) {
	return t.readDir(dir, newest, after, max)
}

// getDir is get for a directory that takes new entries.
func (t *Tree) getDir(ino uint64) (*inode, error) {
	n, err := t.get(ino)
	if err != nil {
		return nil, err
	}
	if !n.dir {
		t.put(n)
		return nil, ErrNotDir
	}
	return n, nil
}

// spec is what a new inode is made of.
type spec struct {
	mode, rdev uint32
	target     string // of a symlink
	cred       Cred
	open       *handle // a first handle, or nil
	hidden     bool    // excluded by its name
	nameless   bool    // O_TMPFILE: it goes with its last handle, unless it is linked
}

// Mknod makes an inode of any type but a symlink.
func (t *Tree) Mknod(parent uint64, name string, mode, rdev uint32, c Cred) (Attr, error) {
	if mode&ModeType == 0 {
		mode |= ModeReg
	}
	return t.make(parent, name, spec{mode: mode, rdev: rdev, cred: c})
}

// Symlink makes a symbolic link.
func (t *Tree) Symlink(parent uint64, name, target string, c Cred) (Attr, error) {
	if len(target) > 4095 {
		return Attr{}, ErrNameTooLong
	}
	return t.make(parent, name, spec{mode: ModeLink | 0o777, target: target, cred: c})
}

// Readlink gives a symbolic link's target.
func (t *Tree) Readlink(ino uint64) (string, error) {
	v, err := t.db.Get(schema.Numbered(schema.PrefixSymlink, ino))
	if err != nil {
		return "", ErrInvalid
	}
	return string(v), nil
}

// make adds a new inode under a name that is free.
func (t *Tree) make(parent uint64, name string, s spec) (Attr, error) {
	if err := checkName(name); err != nil {
		return Attr{}, err
	}
	if err := t.space.admit(0); err != nil {
		return Attr{}, err
	}
	dir, err := t.getDir(parent)
	if err != nil {
		return Attr{}, err
	}
	defer t.put(dir)
	dir.mu.Lock()
	defer dir.mu.Unlock()
	if dir.dead || dir.rec.Nlink == 0 {
		return Attr{}, ErrNotExist
	}
	cur, err := t.findDentry(parent, name, newest)
	if err != nil {
		return Attr{}, err
	}
	if cur.live() {
		return Attr{}, ErrExist
	}
	s.hidden = t.hides(dir, name, s.mode&ModeType == ModeDir)
	var n *inode
	_, err = t.update(schema.KindNamespace, func(tx *txn) error {
		if n, err = t.newInode(tx, dir, name, s); err != nil {
			return err
		}
		t.putDentry(tx, parent, name, cur, schema.Dentry{Ino: n.ino, Type: n.rec.Mode & ModeType, Hidden: s.hidden})
		p := *dir.rec
		if n.dir {
			p.Nlink++
		}
		t.touchDir(tx, dir, &p)
		return nil
	})
	if err != nil {
		return Attr{}, err
	}
	n.noted = s.open != nil && !n.rec.Excluded // to be told of its close
	t.adopt(n, s.open)
	op := OpCreate
	if n.dir {
		op = OpMkdir
	}
	if !n.rec.Excluded {
		t.happened(Event{Op: op, Dir: parent, Name: name, Ino: n.ino})
	}
	return n.attr(), nil
}

// newInode records a fresh inode in dir. ErrNoSpace: there is no number for it.
func (t *Tree) newInode(tx *txn, dir *inode, name string, s spec) (*inode, error) {
	if tx.NextIno() > MaxIno {
		return nil, fmt.Errorf("%w: inode numbers are used up", ErrNoSpace)
	}
	now := t.now()
	rec := &schema.Inode{Mode: s.mode, Nlink: 1, UID: s.cred.UID, GID: s.cred.GID, Rdev: s.rdev,
		Atime: now, Ctime: now, Btime: now, Parent: dir.ino, Name: name,
		Excluded: s.hidden || dir.rec.Excluded}
	rec.Live.Mtime = now
	isdir := isDir(rec)
	if dir.rec.Mode&setgid != 0 {
		rec.GID = dir.rec.GID
		if isdir {
			rec.Mode |= setgid
		}
	}
	ino := tx.NewIno()
	switch {
	case isdir:
		rec.Nlink = 2
	case s.nameless:
		rec.Nlink = 0
		tx.Put(schema.Numbered(schema.PrefixOrphan, ino), nil)
	case s.mode&ModeType == ModeLink:
		rec.Live.Len = int64(len(s.target))
		tx.Put(schema.Numbered(schema.PrefixSymlink, ino), []byte(s.target))
	case isReg(rec) && s.open == nil && !rec.Excluded: // mknod: nobody is writing it
		rec.Committed = &schema.Content{Mtime: now}
		rec.Settled = rec.Committed
	}
	tx.Put(schema.InodeKey(ino, tx.Epoch()), rec.Encode())
	return &inode{ino: ino, dir: isdir, rec: rec, seq: tx.Epoch()}, nil
}

// adopt puts a new inode into the table, with its first handle if it has one:
// before anyone can find it by name, since its directory is still locked.
func (t *Tree) adopt(n *inode, h *handle) {
	if h != nil {
		n.addHandle(h)
		n.refs++
	}
	it := &t.inodes
	it.mu.Lock()
	defer it.mu.Unlock()
	it.all[n.ino] = n
	if n.refs > 0 {
		it.busy++
	}
}

// touchDir records p as dir's next version, changed now.
func (t *Tree) touchDir(tx *txn, dir *inode, p *schema.Inode) {
	p.Ctime = t.now()
	p.Live.Mtime = p.Ctime
	t.putInode(tx, dir, p)
}

// Link gives a file one more name, or a first one: that of a file which has none
// and was not made by O_TMPFILE the kernel refuses.
func (t *Tree) Link(ino, parent uint64, name string) (Attr, error) {
	if err := checkName(name); err != nil {
		return Attr{}, err
	}
	dir, err := t.getDir(parent)
	if err != nil {
		return Attr{}, err
	}
	defer t.put(dir)
	n, err := t.get(ino)
	if err != nil {
		return Attr{}, err
	}
	defer t.put(n)
	if n.dir {
		return Attr{}, ErrPerm
	}
	defer lockAll(dir, n)()
	cur, err := t.findDentry(parent, name, newest)
	switch {
	case err != nil:
		return Attr{}, err
	case cur.live():
		return Attr{}, ErrExist
	case dir.rec.Nlink == 0 || n.dead:
		return Attr{}, ErrNotExist
	case n.rec.Nlink >= maxLinks:
		return Attr{}, ErrTooManyLinks
	}
	hidden := t.hides(dir, name, false)
	excluded := hidden || dir.rec.Excluded
	_, err = t.update(schema.KindNamespace, func(tx *txn) error {
		t.putDentry(tx, parent, name, cur, schema.Dentry{Ino: ino, Type: n.rec.Mode & ModeType, Hidden: hidden})
		rec, p := *n.rec, *dir.rec
		if rec.Nlink == 0 {
			tx.Delete(schema.Numbered(schema.PrefixOrphan, ino))
		}
		rec.Nlink++
		rec.Ctime, rec.Parent, rec.Name = t.now(), parent, name
		if !excluded || n.rec.Nlink == 0 {
			t.cross(tx, n, &rec, excluded)
		}
		t.putInode(tx, n, &rec)
		t.touchDir(tx, dir, &p)
		return nil
	})
	if err != nil {
		return Attr{}, err
	}
	t.noteCommitted(n)
	if !n.rec.Excluded {
		n.noted = n.noted || n.rec.Nlink == 1 && n.writers > 0 // it was nameless: to be told of its close
	}
	if !excluded {
		t.happened(Event{Op: OpCreate, Dir: parent, Name: name, Ino: ino})
	}
	return n.attr(), nil
}

// Unlink removes a name of anything but a directory.
func (t *Tree) Unlink(parent uint64, name string) error {
	return t.remove(parent, name, false)
}

// Rmdir removes an empty directory.
func (t *Tree) Rmdir(parent uint64, name string) error {
	t.renameMu.Lock()
	defer t.renameMu.Unlock()
	return t.remove(parent, name, true)
}

func (t *Tree) remove(parent uint64, name string, wantDir bool) error {
	if len(name) > MaxName {
		return ErrNameTooLong
	}
	dir, err := t.getDir(parent)
	if err != nil {
		return err
	}
	defer t.put(dir)
	dir.mu.Lock()
	defer dir.mu.Unlock()
	cur, err := t.findDentry(parent, name, newest)
	if err != nil {
		return err
	}
	if !cur.live() {
		return ErrNotExist
	}
	n, err := t.get(cur.Ino)
	if err != nil {
		return err
	}
	defer t.put(n)
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := t.removable(n, wantDir); err != nil {
		return err
	}
	_, err = t.update(schema.KindUnlink, func(tx *txn) error {
		t.putDentry(tx, parent, name, cur, noEntry)
		p := *dir.rec
		if wantDir {
			p.Nlink--
		}
		t.touchDir(tx, dir, &p)
		t.dropLink(tx, n)
		return nil
	})
	if err != nil {
		return err
	}
	op := OpUnlink
	if wantDir {
		op = OpRmdir
	}
	if !cur.Hidden && !dir.rec.Excluded {
		t.happened(Event{Op: op, Dir: parent, Name: name, Ino: n.ino})
	}
	return nil
}

// removable checks that n, which is locked, may lose its name: whoever adds an
// entry to a directory needs its lock too, and then finds its link count 0.
func (t *Tree) removable(n *inode, wantDir bool) error {
	switch {
	case wantDir && !n.dir:
		return ErrNotDir
	case !wantDir && n.dir:
		return ErrIsDir
	case !n.dir:
		return nil
	}
	empty, err := t.dirEmpty(n.ino)
	if err == nil && !empty {
		err = ErrNotEmpty
	}
	return err
}

// dropLink takes one link (a directory: its only one) from n, which is locked.
func (t *Tree) dropLink(tx *txn, n *inode) {
	rec := *n.rec
	rec.Nlink--
	if n.dir {
		rec.Nlink = 0
	}
	rec.Ctime = t.now()
	switch {
	case rec.Nlink > 0:
		t.putInode(tx, n, &rec)
	case len(n.handles) > 0:
		t.putInode(tx, n, &rec)
		tx.Put(schema.Numbered(schema.PrefixOrphan, n.ino), nil)
	default:
		t.deleteInode(tx, n, &rec)
	}
}

// deleteInode ends the live life of an inode without link and opener. What
// older snapshots see of it stays; the reaper frees the rest.
func (t *Tree) deleteInode(tx *txn, n *inode, rec *schema.Inode) {
	if n.seq == tx.Epoch() && !n.rec.HasOlder {
		tx.Delete(schema.InodeKey(n.ino, n.seq))
		t.dropped(tx, n.ino, n.rec, nil)
	} else {
		gone := schema.Inode{Mode: rec.Mode, Deleted: true, Ctime: rec.Ctime}
		gone.HasOlder = n.rec.HasOlder
		t.putInode(tx, n, &gone)
	}
	t.reaper.add(tx, n.ino)
	last := *rec
	tx.then(func() {
		n.dead = true
		t.ghosts.add(n.ino, last)
	})
}
