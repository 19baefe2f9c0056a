package stage

import (
	"cmp"
	"errors"

	"stepfs/internal/check"
	"stepfs/internal/schema"
)

// entry says that a directory has a name that leads to an inode. Which name, only
// a finding asks.
type entry struct {
	ino, dir uint64
	live     bool // the live tree shows it
}

// entries are those of a walk over directories. What they lead to is looked up
// in the order of inodes, as claims are in that of generations.
type entries struct {
	*treeCheck
	r    *check.Run
	held batch[entry]
}

func (c *treeCheck) newEntries(r *check.Run) *entries {
	e := &entries{treeCheck: c, r: r}
	e.held = batch[entry]{room: c.room, answer: e.answer, compare: func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.ino, b.ino), cmp.Compare(a.dir, b.dir), compareBool(a.live, b.live))
	}, join: func(a *entry, b entry) bool { return *a == b }}
	return e
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// answer checks that what names lead to is there.
func (e *entries) answer(all []entry) (left []entry, err error) {
	inodes, err := e.r.Cursor(schema.PrefixInode)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, inodes.Close()) }()
	last, found, deleted := uint64(0), false, false
	for _, q := range all {
		if err := e.ctx.Err(); err != nil {
			return nil, err
		}
		if q.ino != last {
			last, found, deleted = q.ino, false, false
			prefix := schema.InodePrefix(q.ino)
			err := inodes.Each(prefix, prefix, func(_, v []byte) (more bool, err error) {
				rec, err := schema.DecodeInode(v)
				found, deleted = true, err == nil && (rec.Deleted || rec.Nlink == 0)
				return false, unlessCorrupt(err)
			})
			if err != nil {
				return nil, err
			}
		}
		switch {
		case !found:
			err = e.dangling(q, "which is not there")
		case deleted && q.live:
			err = e.dangling(q, "which is deleted")
		}
		if err != nil {
			return nil, err
		}
	}
	return all[:0], nil
}

// dangling reports the names of a directory that lead to an inode.
func (e *entries) dangling(q entry, why string) error {
	last := ""
	return e.r.Each(e.ctx, schema.DirPrefix(q.dir), func(k, v []byte) error {
		name, _, err := schema.ParseDentryKey(k)
		var d schema.Dentry
		if err == nil {
			d, err = schema.DecodeDentry(v)
		}
		if err != nil {
			return unlessCorrupt(err) // said before
		}
		live := name != last
		if last = name; d.Ino == q.ino && live == q.live {
			e.r.Damage("entry-dangling", e.inodeName(q.dir), "the entry %q leads to inode %d, %s", name, q.ino, why)
		}
		return nil
	})
}
