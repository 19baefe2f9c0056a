package stage

import (
	"errors"
	"fmt"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// Rollback makes directory dst of the live tree what directory src was in
// snapshot seq. No data is copied: new inodes are made that name the old
// generations. The new tree is built out of sight; then one record puts its
// entries in the place of dst's, which go to a directory out of sight too and
// are removed. A crash before that record leaves the live tree as it was, and
// one after it leaves it rolled back. An entry of dst called spare stays, and
// none of src is taken for it. It gives the names in dst that changed.
func (t *Tree) Rollback(dst, seq, src uint64, spare string) (names []string, err error) {
	fresh, err := t.hidden()
	if err != nil {
		return nil, err
	}
	old, err := t.hidden()
	if err != nil {
		return nil, err
	}
	path, err := t.PathOf(dst)
	if err != nil {
		return nil, err
	}
	c := &copier{t: t, v: t.At(seq), links: map[uint64]uint64{}, top: src, spare: spare}
	err = c.dir(src, fresh, path, dst)
	if err == nil {
		names, err = t.exchange(dst, fresh, old, c.v, src, spare)
	}
	return names, errors.Join(err, t.removeAll(fresh), t.removeAll(old))
}

// Hidden makes a directory that no name leads to, and that a cut can show
// (CutWith).
func (t *Tree) Hidden() (uint64, error) { return t.hidden() }

// hidden makes a directory that no name leads to. It is an orphan: should the
// daemon die, the next start removes it with all that is in it.
func (t *Tree) hidden() (uint64, error) {
	var n *inode
	_, err := t.update(schema.KindRollback, func(tx *txn) error {
		now := t.now()
		rec := &schema.Inode{Mode: ModeDir | 0o700, Nlink: 2, Atime: now, Ctime: now, Btime: now}
		n = &inode{ino: tx.NewIno(), dir: true, rec: rec, seq: tx.Epoch()}
		rec.Parent = n.ino
		tx.Put(schema.InodeKey(n.ino, n.seq), rec.Encode())
		tx.Put(schema.Numbered(schema.PrefixOrphan, n.ino), nil)
		return nil
	})
	if err != nil {
		return 0, err
	}
	t.adopt(n, nil)
	return n.ino, nil
}

// removeAll removes a directory and all below it; for a hidden one.
func (t *Tree) removeAll(dir uint64) error {
	if err := t.empty(dir); err != nil {
		return err
	}
	n, err := t.get(dir)
	if errors.Is(err, ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer t.put(n)
	n.mu.Lock()
	defer n.mu.Unlock()
	return t.freeOrphan(n)
}

// RemoveAll removes an entry with all below it.
func (t *Tree) RemoveAll(dir uint64, name string) error {
	d, err := t.findDentry(dir, name, newest)
	switch {
	case err != nil:
		return err
	case !d.live():
		return ErrNotExist
	case d.Type != ModeDir:
		return t.Unlink(dir, name)
	}
	if err := t.empty(d.Ino); err != nil {
		return err
	}
	return t.Rmdir(dir, name)
}

// empty removes everything below a directory.
func (t *Tree) empty(dir uint64) error {
	for {
		es, err := t.ReadDir(dir, "", 512)
		if err != nil || len(es) == 0 {
			return err
		}
		for _, e := range es {
			if e.Type != ModeDir {
				err = t.Unlink(dir, e.Name)
			} else if err = t.empty(e.Ino); err == nil {
				err = t.Rmdir(dir, e.Name)
			}
			if err != nil && !errors.Is(err, ErrNotExist) {
				return err
			}
		}
	}
}

// copier makes live inodes of a view's.
type copier struct {
	t     *Tree
	v     *View
	links map[uint64]uint64 // inodes with several names: the view's -> the new one
	top   uint64            // of its entries, the one called spare is left out
	spare string
}

// dir copies all below a directory of the view into a live one, which will be
// called path, in the place of another one (0: of none). What is excluded by now
// is left out: it stays as it is, or does not come back.
func (c *copier) dir(src, dst uint64, path string, live uint64) error {
	for after := ""; ; {
		es, err := c.v.ReadDir(src, after, 512)
		if err != nil || len(es) == 0 {
			return err
		}
		for _, e := range es {
			after = e.Name
			if src == c.top && e.Name == c.spare {
				continue
			}
			now, err := c.t.findDentry(live, e.Name, newest)
			if err != nil {
				return err
			}
			// A visible one may match all the same: it came with its directory.
			if now.Hidden || !now.live() && c.t.excludes.match(join(path, e.Name), e.Type == ModeDir) {
				continue
			}
			if now.Type != ModeDir {
				now.Ino = 0
			}
			if err := c.entry(e, dst, path, now.Ino); err != nil {
				return fmt.Errorf("%s: %w", e.Name, err)
			}
		}
	}
}

func (c *copier) entry(e Dirent, dst uint64, path string, live uint64) error {
	if ino, ok := c.links[e.Ino]; ok {
		_, err := c.t.Link(ino, dst, e.Name)
		return err
	}
	rec, err := c.v.inode(e.Ino)
	if err != nil {
		return err
	}
	s := spec{mode: rec.Mode, rdev: rec.Rdev, cred: Cred{UID: rec.UID, GID: rec.GID}}
	if rec.Mode&ModeType == ModeLink {
		if s.target, err = c.v.Readlink(e.Ino); err != nil {
			return err
		}
	}
	a, err := c.t.make(dst, e.Name, s)
	if err != nil {
		return err
	}
	if isDir(rec) {
		err = c.dir(e.Ino, a.Ino, join(path, e.Name), live)
	} else if rec.Nlink > 1 {
		c.links[e.Ino] = a.Ino
	}
	if err == nil && isReg(rec) {
		err = c.content(e.Ino, rec, a.Ino)
	}
	if err != nil {
		return err
	}
	return c.t.copyAttr(c.v, e.Ino, a.Ino)
}

// content makes a new file name the generations of the view's file.
func (c *copier) content(src uint64, rec *schema.Inode, dst uint64) error {
	from := rec.Committed
	if from.Gen == 0 && from.Len == 0 {
		return nil
	}
	if err := c.t.Settle(src); err != nil {
		return err
	}
	n, err := c.t.get(dst)
	if err != nil {
		return err
	}
	defer c.t.put(n)
	g, err := c.t.gens.fresh(dst)
	if err != nil {
		return err
	}
	defer c.t.gens.put(g)
	n.mu.Lock()
	defer n.mu.Unlock()
	next := *n.rec
	next.Grown = rec.Grown
	next.Live = schema.Content{Gen: g.id, Base: g.id, Len: from.Len, Alloc: from.Alloc, Mtime: from.Mtime}
	_, err = c.t.update(schema.KindRollback, func(tx *txn) error {
		tx.Put(schema.Numbered(schema.PrefixGen, g.id), g.rec.Encode())
		err := c.t.stripes(src, from, 0, func(s uint32, fs []schema.Fragment, _ uint64) (bool, error) {
			rest := from.Len - int64(s)*stripeSize
			if rest < stripeSize {
				fs = schema.Overlay(fs, uint32(rest), stripeSize-uint32(rest), 0)
			}
			for _, f := range fs {
				if err := c.t.shareGen(tx, f.Gen, dst); err != nil {
					return false, err
				}
			}
			tx.Put(schema.StripeKey(dst, s, g.id), schema.EncodeStripe(fs))
			return true, nil
		})
		if err != nil {
			return err
		}
		c.t.commitContent(tx, n, &next)
		c.t.putInode(tx, n, &next)
		return nil
	})
	return err
}

// shareGen notes that an inode names a generation that another one wrote. It
// fails if the generation was freed a moment ago.
func (t *Tree) shareGen(tx *txn, gen, ino uint64) error {
	if _, err := tx.Get(schema.Numbered(schema.PrefixGen, gen)); err != nil {
		if errors.Is(err, state.ErrNotFound) {
			return fmt.Errorf("%w: generation %d is gone", ErrIO, gen)
		}
		return wrapDisk(err)
	}
	tx.Put(schema.GenRefKey(gen, ino), nil)
	t.reaper.shares(ino, gen)
	t.freeables.touch(gen)
	return nil
}

// copyAttr gives a live inode the attributes that another has in a view.
func (t *Tree) copyAttr(v *View, src, dst uint64) error {
	rec, err := v.inode(src)
	if err != nil {
		return err
	}
	names, err := v.ListXattr(src)
	if err != nil {
		return err
	}
	for _, name := range names {
		val, err := v.GetXattr(src, name)
		if err != nil {
			return err
		}
		if err := t.SetXattr(dst, name, val, 0); err != nil {
			return err
		}
	}
	mode, c := rec.Mode&modePerm, shown(rec)
	_, err = t.SetAttr(dst, SetAttr{Mode: &mode, UID: &rec.UID, GID: &rec.GID, Atime: &rec.Atime, Mtime: &c.Mtime})
	return err
}
