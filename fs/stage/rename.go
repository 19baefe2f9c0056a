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
}

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
	defer lockAll(m.src, m.dst)()
	if _, err := t.update(schema.KindNamespace, func(tx *txn) error { t.applyMove(tx, m); return nil }); err != nil {
		return err
	}
	e := Event{Op: OpRename, Dir: np, Name: nname, Ino: m.src.ino, FromDir: op, FromName: oname}
	if m.dst != nil {
		e.Over = m.dst.ino
	}
	t.happened(e)
	if m.exchange {
		t.happened(Event{Op: OpRename, Dir: op, Name: oname, Ino: m.dst.ino, FromDir: np, FromName: nname, Over: m.src.ino})
	}
	return nil
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
	t.putInode(tx, m.src, &src)
	t.putDentry(tx, m.nd.ino, m.nn, m.dd, m.sd.Ino, m.sd.Type)
	if m.exchange {
		dst := *m.dst.rec
		dst.Ctime, dst.Parent, dst.Name = t.now(), m.od.ino, m.on
		t.putInode(tx, m.dst, &dst)
		t.putDentry(tx, m.od.ino, m.on, m.sd, m.dd.Ino, m.dd.Type)
	} else {
		t.putDentry(tx, m.od.ino, m.on, m.sd, 0, 0)
		if m.dst != nil {
			t.dropLink(tx, m.dst)
		}
	}
	t.touchDir(tx, m.od, pp)
	if m.nd != m.od {
		t.touchDir(tx, m.nd, qq)
	}
}
