package stage

import (
	"errors"
	"maps"
	"slices"

	"stepfs/internal/schema"
)

// exchange is the last step of a rollback under way: directories, locked once
// they are all known, and the entries that move between them.
type exchange struct {
	t     *Tree
	dirs  map[uint64]*inode
	pairs [][2]*inode // directories in which excluded entries stay, as they were and as they become
	moves []relocation
	next  map[uint64]*schema.Inode // what all these become
}

// relocation is one entry that moves from one directory to another.
type relocation struct {
	Dirent
	n        *inode
	from, to *inode
}

// exchange puts the entries of fresh in the place of dst's, which go to old,
// and gives dst the attributes that src has in the view, in one record. What is
// excluded stays in its directory, if the view has one of that name; an entry of
// dst called spare stays too.
func (t *Tree) exchange(dst, fresh, old uint64, v *View, src uint64, spare string) (names []string, err error) {
	t.renameMu.Lock()
	defer t.renameMu.Unlock()
	x := &exchange{t: t, dirs: map[uint64]*inode{}, next: map[uint64]*schema.Inode{}}
	defer x.put()
	for _, ino := range [...]uint64{dst, fresh, old} {
		if _, err := x.dir(ino); err != nil {
			return nil, err
		}
	}
	if err := x.pair(x.dirs[dst], x.dirs[fresh]); err != nil {
		return nil, err
	}
	defer lockAll(slices.Collect(maps.Values(x.dirs))...)()
	if err := x.list(x.dirs[dst], x.dirs[fresh], x.dirs[old], spare); err != nil {
		return nil, err
	}
	var moving []*inode
	for _, m := range x.moves {
		if m.from.ino == dst || m.to.ino == dst {
			names = append(names, m.Name)
		}
		if x.dirs[m.Ino] == nil { // else it is locked
			moving = append(moving, m.n)
		}
	}
	defer lockAll(moving...)()
	_, err = t.update(schema.KindRollback, func(tx *txn) error {
		if err := x.record(tx, x.dirs[dst], v, src); err != nil {
			return err
		}
		return t.exchangeXattrs(tx, dst, v, src)
	})
	return names, err
}

// dir gets a directory, which takes part from here on.
func (x *exchange) dir(ino uint64) (*inode, error) {
	n, err := x.t.getDir(ino)
	if err == nil {
		x.dirs[ino] = n
	}
	return n, err
}

// put gives back what was got.
func (x *exchange) put() {
	for _, n := range x.dirs {
		x.t.put(n)
	}
	for _, m := range x.moves {
		if x.dirs[m.Ino] == nil {
			x.t.put(m.n)
		}
	}
}

// pair finds the directories below live that next has too.
func (x *exchange) pair(live, next *inode) error {
	if x.t.excludes.none() {
		return nil
	}
	return x.t.eachEntry(live, func(e Dirent, n *inode) error {
		if e.Hidden || !n.dir {
			return nil
		}
		cur, err := x.t.findDentry(next.ino, e.Name, newest)
		if err != nil || !cur.live() || cur.Type != ModeDir {
			return err
		}
		from, err := x.dir(n.ino)
		if err != nil {
			return err
		}
		to, err := x.dir(cur.Ino)
		if err != nil {
			return err
		}
		x.pairs = append(x.pairs, [2]*inode{from, to})
		return x.pair(from, to)
	})
}

// list finds what moves; the directories are locked.
func (x *exchange) list(dst, fresh, old *inode, spare string) error {
	seen := func(e Dirent) bool { return !e.Hidden }
	hidden := func(e Dirent) bool { return e.Hidden }
	err := x.add(dst, old, func(e Dirent) bool { return !e.Hidden && e.Name != spare })
	for _, p := range x.pairs {
		err = errors.Join(err, x.add(p[0], p[1], hidden))
	}
	return errors.Join(err, x.add(fresh, dst, seen))
}

func (x *exchange) add(from, to *inode, want func(e Dirent) bool) error {
	es, err := x.t.readDir(from.ino, newest, "", 1<<30)
	if err != nil {
		return err
	}
	for _, e := range es {
		if !want(e) {
			continue
		}
		n := x.dirs[e.Ino]
		if n == nil {
			if n, err = x.t.get(e.Ino); err != nil {
				return err
			}
		}
		x.moves = append(x.moves, relocation{e, n, from, to})
	}
	return nil
}

// as gives what an inode is to become, to be changed.
func (x *exchange) as(n *inode) *schema.Inode {
	rec := x.next[n.ino]
	if rec == nil {
		next := *n.rec
		rec = &next
		x.next[n.ino] = rec
	}
	return rec
}

func (x *exchange) record(tx *txn, dst *inode, v *View, src uint64) error {
	root, err := v.inode(src)
	if err != nil {
		return err
	}
	out := map[string]bool{} // names that have moved out of dst
	for _, m := range x.moves {
		if m.from == dst {
			out[m.Name] = true
		}
		if err := x.move(tx, m, m.to == dst && out[m.Name]); err != nil {
			return err
		}
	}
	now := x.t.now()
	for _, n := range x.dirs {
		rec := x.as(n)
		rec.Ctime, rec.Live.Mtime = now, now
	}
	rec := x.as(dst)
	rec.Mode, rec.UID, rec.GID, rec.Atime = root.Mode, root.UID, root.GID, root.Atime
	rec.Live.Mtime = root.Live.Mtime
	for _, n := range x.dirs {
		x.t.putInode(tx, n, x.as(n))
	}
	for _, m := range x.moves {
		if x.dirs[m.Ino] == nil {
			x.t.putInode(tx, m.n, x.as(m.n))
		}
	}
	return nil
}

// move records one entry's move. With again, its new name has just been moved
// out, which what is found does not show yet: the same version is put twice.
func (x *exchange) move(tx *txn, m relocation, again bool) error {
	was, err := x.t.findDentry(m.from.ino, m.Name, newest)
	if err != nil {
		return err
	}
	there, err := x.t.findDentry(m.to.ino, m.Name, newest)
	if err != nil {
		return err
	}
	if there.live() && !again { // what is excluded keeps its name: this one goes with fresh
		return nil
	}
	if m.n.dir {
		x.as(m.from).Nlink--
		x.as(m.to).Nlink++
	}
	x.as(m.n).Parent = m.to.ino
	x.t.putDentry(tx, m.from.ino, m.Name, was, noEntry)
	x.t.putDentry(tx, m.to.ino, m.Name, there, schema.Dentry{Ino: m.Ino, Type: m.Type, Hidden: m.Hidden})
	return nil
}

// exchangeXattrs gives dst the extended attributes that src has in the view.
func (t *Tree) exchangeXattrs(tx *txn, dst uint64, v *View, src uint64) error {
	has, err := t.listXattr(dst, newest)
	if err != nil {
		return err
	}
	want, err := v.ListXattr(src)
	if err != nil {
		return err
	}
	next := map[string]schema.Xattr{}
	for _, name := range has {
		next[name] = schema.Xattr{Gone: true}
	}
	for _, name := range want {
		val, err := v.GetXattr(src, name)
		if err != nil {
			return err
		}
		next[name] = schema.Xattr{Value: val}
	}
	for name, x := range next {
		cur, err := t.findXattr(dst, name, newest)
		if err != nil {
			return err
		}
		t.putXattr(tx, dst, name, cur, x)
	}
	return nil
}
