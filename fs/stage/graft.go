package stage

import "stepfs/internal/schema"

// A cut can show what the live tree never does: a hidden directory (Hidden)
// gets a name just before the cut and loses it just after, in the cut's own
// transaction. So it is in that snapshot like anything else, and nobody who
// reads the live tree, nor a crash, can come between.

// Graft is a directory that one cut shows.
type Graft struct {
	Dir  uint64 // where it gets its name
	Name string
	Ino  uint64 // the hidden directory
}

// graft is a Graft with the inodes that it touches.
type graft struct {
	Graft
	into  *inode // the directory that gets the names
	names []string
	nodes []*inode // what they lead to

	undo []func(tx *txn) // what takes the names away again
}

// CutWith is Cut of everything (logs, force) with a graft. If the job has a
// directory of that name, what is in the hidden one takes its place there, name
// by name. ErrExist: the job has something else of that name. ErrNotExist: there
// is no such place.
func (t *Tree) CutWith(what Graft) (*Cut, error) {
	t.renameMu.Lock() // several directories are locked
	defer t.renameMu.Unlock()
	for {
		g, err := t.newGraft(what)
		if err != nil {
			return nil, err
		}
		cut, err := t.cut(nil, true, true, g)
		t.putGraft(g)
		if cut != nil || err != nil {
			return cut, err
		}
		// The name came or went meanwhile.
	}
}

// newGraft finds where the names go: without a name of its own, the directory
// that the job has under it can't be renamed or removed, since renameMu is held.
func (t *Tree) newGraft(what Graft) (g *graft, err error) {
	g = &graft{Graft: what}
	defer func() {
		if err != nil {
			t.putGraft(g)
			g = nil
		}
	}()
	own, err := t.findDentry(what.Dir, what.Name, newest)
	if err != nil {
		return g, err
	}
	switch {
	case !own.seen():
		if g.into, err = t.getDir(what.Dir); err != nil {
			return g, err
		}
		return g, t.addGraft(g, what.Name, what.Ino)
	case own.Type != ModeDir:
		return g, ErrExist
	}
	if g.into, err = t.getDir(own.Ino); err != nil {
		return g, err
	}
	es, err := t.readDir(what.Ino, newest, "", 1<<10)
	for _, e := range es {
		if err == nil {
			err = t.addGraft(g, e.Name, e.Ino)
		}
	}
	return g, err
}

func (t *Tree) addGraft(g *graft, name string, ino uint64) error {
	n, err := t.get(ino)
	if err == nil {
		g.names, g.nodes = append(g.names, name), append(g.nodes, n)
	}
	return err
}

func (t *Tree) putGraft(g *graft) {
	if g.into != nil {
		t.put(g.into)
	}
	for _, n := range g.nodes {
		t.put(n)
	}
}

// inodes gives what is to be locked.
func (g *graft) inodes() []*inode {
	if g == nil {
		return nil
	}
	return append([]*inode{g.into}, g.nodes...)
}

// valid says, now that all is locked, whether the names still go there.
func (t *Tree) valid(g *graft) (bool, error) {
	if g == nil {
		return true, nil
	}
	if g.into.dead || g.into.rec.Nlink == 0 {
		return false, ErrNotExist
	}
	if g.into.ino != g.Dir {
		return true, nil
	}
	own, err := t.findDentry(g.Dir, g.Name, newest)
	return !own.seen(), err
}

// show gives the names; the cut is next.
func (t *Tree) show(tx *txn, g *graft) error {
	if g == nil {
		return nil
	}
	rec := *g.into.rec
	for k, n := range g.nodes {
		name := g.names[k]
		before, err := t.findDentry(g.into.ino, name, newest)
		if err != nil {
			return err
		}
		if before.live() && before.Type == ModeDir {
			rec.Nlink--
		}
		if n.dir {
			rec.Nlink++
		}
		next := schema.Dentry{Ino: n.ino, Type: n.rec.Mode & ModeType}
		t.putDentry(tx, g.into.ino, name, before, next)
		now := dentry{Dentry: next, seq: tx.Epoch(), found: true}
		now.HasOlder = before.found && (before.seq != now.seq || before.HasOlder)
		g.undo = append(g.undo, func(tx *txn) { t.putDentry(tx, g.into.ino, name, now, before.Dentry) })
		as := *n.rec
		as.Parent, as.Name = g.into.ino, name
		t.putFor(tx, g, n, &as)
	}
	t.putFor(tx, g, g.into, &rec)
	return nil
}

// putFor records a version of n for the cut alone.
func (t *Tree) putFor(tx *txn, g *graft, n *inode, rec *schema.Inode) {
	was := *n.rec
	t.putInode(tx, n, rec)
	frozen := &inode{ino: n.ino, dir: n.dir, rec: rec, seq: tx.Epoch()}
	g.undo = append(g.undo, func(tx *txn) {
		t.putInode(tx, frozen, &was)
		tx.then(func() { n.rec, n.seq = frozen.rec, frozen.seq })
	})
}

// unshow takes the names away; the cut is over.
func (g *graft) unshow(tx *txn) {
	if g == nil {
		return
	}
	for _, fn := range g.undo {
		fn(tx)
	}
}
