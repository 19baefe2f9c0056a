package stage

import (
	"cmp"
	"fmt"
	"slices"

	"stepfs/internal/schema"
)

// needed gives the contents that somebody may still read, those of one
// generation once, in the order of their generations, and the generations that
// committed contents are numbered by. Every version that there is is needed:
// those that no snapshot shows any more are taken away by Prune.
func (t *Tree) needed(f *findings) (need []schema.Content, waits map[uint64]bool, err error) {
	prefix := schema.InodePrefix(f.ino)
	it, err := t.db.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return nil, nil, wrapDisk(err)
	}
	defer it.Close()
	// Asked for after the iterator was made: a mark that is taken off since was
	// no lie before.
	n := needs{marks: t.marks(f.ino), waits: map[uint64]bool{}}
	for ok := it.First(); ok; ok = it.Next() {
		rec, err := schema.DecodeInode(it.Value())
		if err != nil {
			return nil, nil, wrapDisk(fmt.Errorf("inode %d: %w", f.ino, err))
		}
		if n.versions == 0 {
			f.newest = seqOf(it.Key())
		}
		if rec.Deleted {
			f.mark = append([]byte(nil), it.Key()...)
		}
		n.add(rec)
	}
	f.end = n.versions == 0 || n.versions == 1 && f.mark != nil
	return n.contents(), n.waits, wrapDisk(it.Error())
}

// needs gathers what the versions of one inode need, newest first.
type needs struct {
	marks    []mark
	waits    map[uint64]bool // nil: nobody asks
	versions int
	all      []schema.Content
}

func (n *needs) add(rec *schema.Inode) {
	// No snapshot shows a version that is excluded; the newest may come into sight.
	if n.versions++; rec.Deleted || rec.Excluded && n.versions > 1 {
		return
	}
	add := func(c *schema.Content) {
		switch k := len(n.all) - 1; {
		case c == nil:
		case k >= 0 && n.all[k].Gen == c.Gen && n.all[k].Base == c.Base:
			n.all[k].Len = max(n.all[k].Len, c.Len)
		default:
			n.all = append(n.all, *c)
		}
	}
	if n.versions == 1 {
		add(&rec.Live)
	}
	add(rec.Committed)
	if rec.Committed != nil {
		n.wait(rec.Committed.Gen)
	}
	// A content that is durable never gives way to the one before it.
	if rec.Settled != nil && (rec.Committed == nil || !settledBy(n.marks, rec.Committed)) {
		add(rec.Settled)
		n.wait(rec.Settled.Gen)
	}
}

func (n *needs) wait(gen uint64) {
	if n.waits != nil {
		n.waits[gen] = true
	}
}

// contents gives those of one generation once, with the greatest length, in
// the order of generations.
func (n *needs) contents() []schema.Content {
	slices.SortFunc(n.all, func(a, b schema.Content) int {
		return cmp.Or(cmp.Compare(a.Gen, b.Gen), cmp.Compare(a.Base, b.Base), cmp.Compare(b.Len, a.Len))
	})
	return slices.CompactFunc(n.all, func(a, b schema.Content) bool { return a.Gen == b.Gen && a.Base == b.Base })
}
