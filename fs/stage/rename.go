package stage

import (
	"golang.org/x/sys/unix"

	"stepfs/internal/schema"
)

// move is a rename under way: all that it touches, locked.
type move struct {
	od, nd   *inode // old and new directory
	src, dst *inode // what moves; what is there (nil: nothing)
	sd, dd   dentry
	on, nn   string
	exchange bool
	to, back place    // of src, and of dst in an exchange
	exposed  []*inode // files that came into sight
	done     bool     // it is recorded
}

// place is how what is moved to it is excluded there.
type place struct{ hidden, excluded bool }

// Rename moves an entry; flags are RENAME_NOREPLACE or RENAME_EXCHANGE.
func (t *Tree) Rename(op uint64, oname string, np uint64, nname string, flags uint32) error {
	if flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) != 0 || flags == unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE {
		return ErrInvalid
	}
	if err := checkName(nname); err != nil {
		return err
	}
	t.renameMu.Lock()
	defer t.renameMu.Unlock()
	m := &move{on: oname, nn: nname, exchange: flags == unix.RENAME_EXCHANGE}
	defer func() {
		for _, n := range [...]*inode{m.od, m.nd, m.src, m.dst} {
			if n != nil {
				t.put(n)
			}
		}
	}()
	var err error
	if m.od, err = t.getDir(op); err != nil {
		return err
	}
	if m.nd, err = t.getDir(np); err != nil {
		return err
	}
	defer lockAll(m.od, m.nd)()
	if err := t.resolveMove(m, flags); err != nil {
		return err
	}
	if m.dst == m.src {
		return nil // two names of one inode: POSIX says to do nothing
	}
	defer t.tellExposed(m) // when src and dst are unlocked
	if err := t.crossing(m); err != nil {
		return err
	}
	defer lockAll(m.src, m.dst)()
	srcSeen, dstSeen := m.seen()
	if _, err := t.update(schema.KindNamespace, func(tx *txn) error { t.applyMove(tx, m); return nil }); err != nil {
		return err
	}
	t.noteCommitted(m.src)
	e := Event{Op: OpRename, Dir: np, Name: nname, Ino: m.src.ino, FromDir: op, FromName: oname}
	if m.dst != nil && dstSeen {
		e.Over = m.dst.ino
	}
	t.moved(e, m.src, srcSeen, m.to)
	if m.exchange {
		t.noteCommitted(m.dst)
		e := Event{Op: OpRename, Dir: op, Name: oname, Ino: m.dst.ino, FromDir: np, FromName: nname}
		if srcSeen {
			e.Over = m.src.ino
		}
		t.moved(e, m.dst, dstSeen, m.back)
	}
	m.done = true
	return nil
}

// crossing finds how what moves is excluded where it goes, and exposes a
// directory that is no more: before it is seen there. The directories are
// locked; src and dst are not.
func (t *Tree) crossing(m *move) error {
	at := func(dir *inode, name string, n, from *inode, was dentry) (place, error) {
		hidden := t.hides(dir, name, n.dir)
		to := place{hidden, hidden || dir.rec.Excluded}
		if to.excluded {
			return to, nil
		}
		dark, err := t.dark(from.ino)
		if err != nil || !dark && !was.Hidden {
			return to, err
		}
		if !n.dir {
			m.expose(t, n)
			return to, nil
		}
		path, err := t.path(dir.ino, newest)
		if err == nil {
			err = t.expose(n, join(path, name), m)
		}
		return to, err
	}
	var err error
	if m.to, err = at(m.nd, m.nn, m.src, m.od, m.sd); err == nil && m.exchange {
		m.back, err = at(m.od, m.on, m.dst, m.nd, m.dd)
	}
	return err
}

// seen says whether views have shown src, and what dst was.
func (m *move) seen() (src, dst bool) {
	return !m.sd.Hidden && !m.od.rec.Excluded, m.dst != nil && !m.dd.Hidden && !m.nd.rec.Excluded
}

// moved tells of a move in terms of what is not excluded: what goes out of
// sight is removed.
func (t *Tree) moved(e Event, n *inode, seen bool, to place) {
	switch {
	case to.excluded && !seen:
		return
	case to.excluded:
		op := OpUnlink
		if n.dir {
			op = OpRmdir
		}
		e = Event{Op: op, Dir: e.FromDir, Name: e.FromName, Ino: e.Ino}
	}
	t.happened(e)
}

// resolveMove finds what moves and checks that it may. The directories are
// locked; src and dst are not.
func (t *Tree) resolveMove(m *move, flags uint32) (err error) {
	if m.sd, err = t.findDentry(m.od.ino, m.on, newest); err != nil {
		return err
	}
	if m.dd, err = t.findDentry(m.nd.ino, m.nn, newest); err != nil {
		return err
	}
	switch {
	case !m.sd.live(), m.nd.rec.Nlink == 0, m.exchange && !m.dd.live():
		return ErrNotExist
	case flags == unix.RENAME_NOREPLACE && m.dd.live():
		return ErrExist
	}
	if m.src, err = t.get(m.sd.Ino); err != nil {
		return err
	}
	if err := t.noLoop(m.src, m.nd); err != nil {
		return err
	}
	if !m.dd.live() {
		return nil
	}
	if m.dst, err = t.get(m.dd.Ino); err != nil {
		return err
	}
	if m.exchange {
		return t.noLoop(m.dst, m.od)
	}
	return t.replaceable(m)
}

func (t *Tree) noLoop(n, into *inode) error {
	if !n.dir {
		return nil
	}
	in, err := t.isAncestor(n.ino, into)
	if err == nil && in {
		err = ErrInvalid
	}
	return err
}

// isAncestor says whether anc is dir or lies above it. The caller holds
// renameMu, so that no directory moves.
func (t *Tree) isAncestor(anc uint64, dir *inode) (bool, error) {
	ino := dir.ino
	for ino != anc {
		if ino == RootIno {
			return false, nil
		}
		rec, _, err := t.readInode(ino, newest)
		if err != nil {
			return false, err
		}
		ino = rec.Parent
	}
	return true, nil
}

// replaceable checks that dst may give way to src.
func (t *Tree) replaceable(m *move) error {
	switch {
	case m.dst == m.src:
		return nil
	case m.dst == m.od || m.dst == m.nd:
		return ErrNotEmpty
	case m.dst.dir && !m.src.dir:
		return ErrIsDir
	case !m.dst.dir && m.src.dir:
		return ErrNotDir
	case m.dst.dir:
		empty, err := t.dirEmpty(m.dst.ino)
		if err == nil && !empty {
			err = ErrNotEmpty
		}
		return err
	}
	return nil
}

// applyMove records the rename: two entries, the directories' link counts and
// times, and what src and dst become.
func (t *Tree) applyMove(tx *txn, m *move) {
	od, nd := m.od.rec, m.nd.rec
	p, q := *od, *nd
	pp, qq := &p, &q
	if m.od == m.nd {
		qq = pp
	}
	if m.src.dir {
		pp.Nlink--
		qq.Nlink++
	}
	if m.dst != nil && m.dst.dir {
		qq.Nlink--
		if m.exchange {
			pp.Nlink++
		}
	}
	src := *m.src.rec
	src.Ctime, src.Parent, src.Name = t.now(), m.nd.ino, m.nn
	t.cross(tx, m.src, &src, m.to.excluded)
	t.putInode(tx, m.src, &src)
	t.putDentry(tx, m.nd.ino, m.nn, m.dd, schema.Dentry{Ino: m.sd.Ino, Type: m.sd.Type, Hidden: m.to.hidden})
	if m.exchange {
		dst := *m.dst.rec
		dst.Ctime, dst.Parent, dst.Name = t.now(), m.od.ino, m.on
		t.cross(tx, m.dst, &dst, m.back.excluded)
		t.putInode(tx, m.dst, &dst)
		t.putDentry(tx, m.od.ino, m.on, m.sd, schema.Dentry{Ino: m.dd.Ino, Type: m.dd.Type, Hidden: m.back.hidden})
	} else {
		t.putDentry(tx, m.od.ino, m.on, m.sd, noEntry)
		if m.dst != nil {
			t.dropLink(tx, m.dst)
		}
	}
	t.touchDir(tx, m.od, pp)
	if m.nd != m.od {
		t.touchDir(tx, m.nd, qq)
	}
}
