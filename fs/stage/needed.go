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
	marks := t.marks(f.ino)
	waits = map[uint64]bool{}
	add := func(c *schema.Content) {
		if k := len(need) - 1; c != nil && (k < 0 || need[k].Gen != c.Gen || need[k].Base != c.Base) {
			need = append(need, *c)
		}
	}
	versions := 0
	for ok := it.First(); ok; ok = it.Next() {
		rec, err := schema.DecodeInode(it.Value())
		if err != nil {
			return nil, nil, wrapDisk(fmt.Errorf("inode %d: %w", f.ino, err))
		}
		if versions++; versions == 1 {
			f.newest = seqOf(it.Key())
		}
		if rec.Deleted {
			f.mark = append([]byte(nil), it.Key()...)
			continue
		}
		if versions == 1 {
			add(&rec.Live)
		}
		add(rec.Committed)
		if rec.Committed != nil {
			waits[rec.Committed.Gen] = true
		}
		// A content that is durable never gives way to the one before it.
		if rec.Settled != nil && (rec.Committed == nil || !settledBy(marks, rec.Committed)) {
			add(rec.Settled)
			waits[rec.Settled.Gen] = true
		}
	}
	f.end = versions == 0 || versions == 1 && f.mark != nil
	slices.SortFunc(need, func(a, b schema.Content) int {
		return cmp.Or(cmp.Compare(a.Gen, b.Gen), cmp.Compare(a.Base, b.Base))
	})
	need = slices.CompactFunc(need, func(a, b schema.Content) bool { return a.Gen == b.Gen && a.Base == b.Base })
	return need, waits, wrapDisk(it.Error())
}
