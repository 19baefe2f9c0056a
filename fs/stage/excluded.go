package stage

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// What is excluded is in the live tree, as durable as the rest, and in no
// snapshot. Two flags say so. The entry at which a pattern begins to match is
// hidden: no view follows it, so nothing below it needs to be looked at. And
// the inodes below are excluded: their content is committed by their own syncs
// alone, and not stored.
//
// The flags are set when a name is made or moved, and when the tree is given
// other patterns; a look at the patterns is never needed to read. An inode that
// is not excluded may well be below a hidden entry (a directory that was moved
// there): that costs space, and is seen by nobody. The other way round must
// not be: whatever a view can reach is not excluded. So what leaves is exposed
// before its new name is recorded.

// hides says whether an entry of dir, which is locked or does not move, is the
// one at which a pattern begins to match.
func (t *Tree) hides(dir *inode, name string, isdir bool) bool {
	if dir.rec.Excluded || t.excludes.none() {
		return false
	}
	path, err := t.path(dir.ino, newest)
	return err == nil && t.excludes.match(join(path, name), isdir) // no path: out of sight anyhow
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// dark says whether a directory is below a hidden entry. The caller holds
// renameMu.
func (t *Tree) dark(dir uint64) (bool, error) {
	for !t.excludes.none() && dir != RootIno {
		rec, _, err := t.readInode(dir, newest)
		if err != nil {
			return false, err
		}
		d, err := t.findDentry(rec.Parent, rec.Name, newest)
		if err != nil || d.Hidden {
			return d.Hidden, err
		}
		if rec.Parent == dir {
			break // out of sight altogether: rollback builds a tree
		}
		dir = rec.Parent
	}
	return false, nil
}

// cross makes rec, of n, which is locked, excluded or not, as the place is that
// it gets a name in. A file that has other names may be seen by those.
func (t *Tree) cross(tx *txn, n *inode, rec *schema.Inode, excluded bool) {
	if rec.Excluded == excluded || excluded && !n.dir && rec.Nlink > 1 {
		return
	}
	rec.Excluded = excluded
	if excluded || !isReg(rec) {
		return
	}
	before := rec.Committed
	if n.closed() {
		t.commitContent(tx, n, rec)
	}
	if rec.Committed == before {
		t.queueUnseen(tx, n, rec)
	}
}

// queueUnseen has a content stored that was committed while it was excluded,
// unless it was stored before that.
func (t *Tree) queueUnseen(tx *txn, n *inode, rec *schema.Inode) {
	c := rec.Committed
	if c == nil || c.Gen == 0 || sameBytes(c, &n.stored) {
		return
	}
	if g, err := t.generation(c.Gen); err != nil || g.Stored < c.Len || c.Len == 0 {
		t.putPending(tx, n.ino, *c)
	}
}

// turn makes an entry hidden or not, and what it leads to excluded or not. An
// entry that changed meanwhile is passed over.
func (t *Tree) turn(dir *inode, name string, n *inode, hidden, excluded bool) error {
	defer lockAll(dir, n)()
	cur, err := t.findDentry(dir.ino, name, newest)
	if err != nil || cur.Ino != n.ino {
		return err
	}
	rec := *n.rec
	_, err = t.update(schema.KindNamespace, func(tx *txn) error {
		t.cross(tx, n, &rec, excluded)
		if rec.Excluded != n.rec.Excluded {
			t.putInode(tx, n, &rec)
		}
		if cur.Hidden != hidden {
			t.putDentry(tx, dir.ino, name, cur, schema.Dentry{Ino: cur.Ino, Type: cur.Type, Hidden: hidden})
			p := *dir.rec
			t.putInode(tx, dir, &p) // for Diff, which looks into directories that changed
		}
		return nil
	})
	if err == nil {
		t.noteCommitted(n)
	}
	return err
}

// expose makes a directory and what lies below it not excluded, where no
// pattern says otherwise under its new path. What is made in it meanwhile finds
// the directory's own flag gone already. Files are noted in m, if it is not
// nil. The caller holds renameMu.
func (t *Tree) expose(dir *inode, path string, m *move) error {
	if err := t.include(dir); err != nil {
		return err
	}
	return t.eachEntry(dir, func(e Dirent, n *inode) error {
		below := join(path, e.Name)
		switch hide := t.excludes.match(below, n.dir); {
		case hide:
			return t.turn(dir, e.Name, n, true, true)
		case n.dir:
			if err := t.expose(n, below, m); err != nil {
				return err
			}
		case m != nil:
			m.expose(t, n)
		}
		return t.turn(dir, e.Name, n, false, false)
	})
}

// include takes the flag off a directory.
func (t *Tree) include(dir *inode) error {
	dir.mu.Lock()
	defer dir.mu.Unlock()
	if !dir.rec.Excluded {
		return nil
	}
	rec := *dir.rec
	rec.Excluded = false
	_, err := t.update(schema.KindNamespace, func(tx *txn) error {
		t.putInode(tx, dir, &rec)
		return nil
	})
	return err
}

// expose notes a file that comes into sight.
func (m *move) expose(t *Tree, n *inode) {
	if again, err := t.get(n.ino); err == nil { // a reference of our own
		m.exposed = append(m.exposed, again)
	}
}

// tellExposed tells of files that came into sight with a move what was kept
// silent while they were written, in the order in which they were.
func (t *Tree) tellExposed(m *move) {
	mtime := func(n *inode) int64 {
		n.mu.RLock()
		defer n.mu.RUnlock()
		return n.rec.Live.Mtime
	}
	slices.SortFunc(m.exposed, func(a, b *inode) int { return cmp.Compare(mtime(a), mtime(b)) })
	for _, n := range m.exposed {
		n.mu.Lock()
		if m.done && isReg(n.rec) && !n.rec.Excluded {
			t.dirty(OpWrite, n)
			if n.closed() {
				t.clean(OpClose, n)
			}
		}
		n.mu.Unlock()
		t.put(n)
	}
}

// eachEntry calls fn for the entries of a directory, without its lock.
func (t *Tree) eachEntry(dir *inode, fn func(e Dirent, n *inode) error) error {
	for after := ""; ; {
		es, err := t.ReadDir(dir.ino, after, 256)
		if err != nil || len(es) == 0 {
			return err
		}
		for _, e := range es {
			n, err := t.get(e.Ino)
			if errors.Is(err, ErrNotExist) {
				continue
			}
			if err == nil {
				err = fn(e, n)
				t.put(n)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", e.Name, err)
			}
		}
		after = es[len(es)-1].Name
	}
}

// Exclude gives the tree other patterns than it has had; they are kept in it.
// What matches is in no snapshot from here on, what no longer does will be in
// the next. It looks at every name unless the patterns are those of before, and
// is called before anybody uses the tree.
func (t *Tree) Exclude(e Excludes) error {
	if e.text == t.excludes.text && !t.halfway {
		return nil
	}
	t.renameMu.Lock()
	defer t.renameMu.Unlock()
	// First: a walk that was cut short is done again, whatever the next mount's
	// patterns are.
	if err := t.putExcludes(halfwayMark + e.text); err != nil {
		return err
	}
	t.excludes, t.halfway = e, true
	root, err := t.get(RootIno)
	if err != nil {
		return err
	}
	defer t.put(root)
	if err := t.apply(root, ""); err != nil {
		return fmt.Errorf("exclude: %w", err)
	}
	err = t.putExcludes(e.text)
	t.halfway = err != nil
	return err
}

// halfwayMark begins the record of patterns that may not be in force everywhere.
const halfwayMark = "\x00"

// putExcludes records patterns. That they are in force is no more durable than the
// flags: a power cut leaves the beginning of the journal, so if any flag of a walk
// is there, the mark before it is, and if the patterns are, all flags are.
func (t *Tree) putExcludes(text string) error {
	_, err := t.update(schema.KindNamespace, func(tx *txn) error {
		tx.Put(schema.MetaKey(schema.MetaExclude), []byte(text))
		return nil
	})
	return err
}

// apply sets the flags below a directory that is not excluded.
func (t *Tree) apply(dir *inode, path string) error {
	return t.eachEntry(dir, func(e Dirent, n *inode) error {
		below := join(path, e.Name)
		switch hide := t.excludes.match(below, n.dir); {
		case hide:
			if err := t.turn(dir, e.Name, n, true, true); err != nil || !n.dir {
				return err
			}
			return t.veil(n)
		case e.Hidden && n.dir:
			if err := t.expose(n, below, nil); err != nil {
				return err
			}
		case n.dir:
			return t.apply(n, below)
		}
		return t.turn(dir, e.Name, n, false, false)
	})
}

// veil makes all below an excluded directory excluded.
func (t *Tree) veil(dir *inode) error {
	return t.eachEntry(dir, func(e Dirent, n *inode) error {
		if err := t.turn(dir, e.Name, n, e.Hidden, true); err != nil || !n.dir {
			return err
		}
		return t.veil(n)
	})
}

// loadExcludes reads the patterns that the tree was given last.
func (t *Tree) loadExcludes() error {
	v, err := t.db.Get(schema.MetaKey(schema.MetaExclude))
	if errors.Is(err, state.ErrNotFound) {
		return nil
	}
	if err != nil {
		return wrapDisk(err)
	}
	text, halfway := strings.CutPrefix(string(v), halfwayMark)
	t.halfway = halfway
	t.excludes, err = excludesOf(text)
	return err
}

// Excluded says whether no snapshot will show what any of these inodes hold, so
// that their sync needs none.
func (t *Tree) Excluded(inos ...uint64) bool {
	for _, ino := range inos {
		n, err := t.get(ino)
		if err != nil {
			return false
		}
		n.mu.RLock()
		excluded := n.rec.Excluded
		n.mu.RUnlock()
		t.put(n)
		if !excluded {
			return false
		}
	}
	return true
}

// SyncLive makes durable, but for the journal, what an excluded inode holds now.
// Its content is committed by that, though no snapshot shows it: what was synced
// stays where it is until something newer is durable.
func (t *Tree) SyncLive(ino uint64) error {
	n, err := t.get(ino)
	if err != nil {
		return ErrStale
	}
	defer t.put(n)
	n.mu.Lock()
	failed := n.rec.Failed
	err = t.commitUnseen(n)
	n.mu.Unlock()
	switch {
	case err != nil:
		return err
	case failed:
		return fmt.Errorf("%w: an earlier sync of this file failed", ErrIO)
	}
	return t.Settle(ino)
}

// commitUnseen commits n, which is locked, if it is excluded.
func (t *Tree) commitUnseen(n *inode) error {
	rec := *n.rec
	if n.dead || !rec.Excluded || !isReg(&rec) || rec.Failed || rec.Committed != nil && *rec.Committed == rec.Live {
		return nil
	}
	_, err := t.update(schema.KindClose, func(tx *txn) error {
		t.fixContent(n, &rec)
		t.putInode(tx, n, &rec)
		return nil
	})
	return err
}
