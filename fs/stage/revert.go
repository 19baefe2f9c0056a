package stage

import (
	"errors"
	"fmt"

	"stepfs/internal/schema"
)

// version is one stored version of an inode.
type version struct {
	seq uint64
	rec *schema.Inode
}

// versions gives all versions of an inode, newest first.
func (t *Tree) versions(ino uint64) ([]version, error) {
	prefix := schema.InodePrefix(ino)
	it, err := t.db.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return nil, wrapDisk(err)
	}
	defer it.Close()
	var out []version
	for ok := it.First(); ok; ok = it.Next() {
		rec, err := schema.DecodeInode(it.Value())
		if err != nil {
			return nil, wrapDisk(fmt.Errorf("inode %d: %w", ino, err))
		}
		out = append(out, version{seqOf(it.Key()), rec})
	}
	return out, wrapDisk(it.Error())
}

// revert makes every version of n, in snapshots too, whose committed content
// was not durable show the newest one that was, and marks it. With failed, the
// live file takes no further commit until it is emptied. n is locked.
func (t *Tree) revert(n *inode, marks []mark, failed bool) error {
	_, err := t.update(schema.KindReverted, func(tx *txn) error {
		versions, err := t.versions(n.ino)
		if err != nil {
			return err
		}
		written := map[uint64]bool{} // what waits for ingest, and is decided: Get would give it as it was
		dropped := map[uint64]schema.Pending{}
		for _, m := range marks { // of commits that no version names any more
			t.unpend(tx, m, written, dropped)
		}
		t.reaper.add(tx, n.ino)
		t.freeables.touchAll()
		var older *schema.Content // newest durable one that an older version names
		for k := len(versions) - 1; k >= 0; k-- {
			rec := *versions[k].rec
			if rec.Excluded && k > 0 {
				continue
			}
			good := newerOf(older, rec.Settled)
			torn := rec.Committed != nil && !settledBy(marks, rec.Committed)
			if torn {
				t.repend(tx, n.ino, versions[k].seq, rec.Committed.Gen, good, written)
				rec.Committed, rec.Settled, rec.Reverted = good, good, true
			}
			// What was dropped may have gone on from a content that is durable and
			// shown here: that one waits as before.
			if c := rec.Committed; c != nil && !rec.Excluded {
				if p, ok := dropped[c.Gen]; ok {
					p.Content, p.Until = *c, 0
					tx.Put(schema.Numbered(schema.PrefixPending, c.Gen), p.Encode())
				}
			}
			older = newerOf(good, rec.Committed)
			live := n.rec != nil && versions[k].seq == n.seq
			first := live && failed && !rec.Failed
			if rec.Failed = rec.Failed || first; !torn && !first {
				continue
			}
			tx.Put(schema.InodeKey(n.ino, versions[k].seq), rec.Encode())
			t.dropped(tx, n.ino, versions[k].rec, &rec)
			if live {
				tx.then(func() { n.rec = &rec })
			}
		}
		return nil
	})
	t.views.drop()
	return err
}

// unpend drops a content that waits for ingest and was not durable.
func (t *Tree) unpend(tx *txn, m mark, written map[uint64]bool, dropped map[uint64]schema.Pending) {
	key := schema.Numbered(schema.PrefixPending, m.gen)
	v, err := tx.Get(key)
	if err != nil {
		return
	}
	if p, err := schema.DecodePending(v); err == nil && p.Content.Len > m.Settled {
		tx.Delete(key)
		written[m.gen], dropped[m.gen] = true, p
	}
}

// committed gives the generations that contents which a snapshot may show are
// numbered by.
func committed(versions []version) map[uint64]bool {
	out := map[uint64]bool{}
	for _, v := range versions {
		for _, c := range [...]*schema.Content{v.rec.Committed, v.rec.Settled} {
			if c != nil {
				out[c.Gen] = true
			}
		}
	}
	return out
}

// unpendLost drops, of some inodes, what waits for ingest and is no version's
// content any more.
func (t *Tree) unpendLost(inos map[uint64]bool) error {
	var lost []uint64
	var err error
	err2 := t.Pending(func(f *Frozen) bool {
		if !inos[f.p.Ino] {
			return true
		}
		var versions []version
		var waits map[uint64]bool
		if versions, err = t.versions(f.p.Ino); err == nil {
			waits = committed(versions)
		}
		if err == nil && !waits[f.gen] {
			lost = append(lost, f.gen)
		}
		return err == nil
	})
	if err = errors.Join(err, err2); err != nil {
		return err
	}
	_, err = t.update(schema.KindReverted, func(tx *txn) error {
		for _, gen := range lost {
			tx.Delete(schema.Numbered(schema.PrefixPending, gen))
		}
		return nil
	})
	return err
}

// newerOf gives the later of two contents of one inode; either may be nil. In
// one generation a committed content only grows.
func newerOf(a, b *schema.Content) *schema.Content {
	if a == nil || b != nil && (b.Gen > a.Gen || b.Gen == a.Gen && b.Len >= a.Len) {
		return b
	}
	return a
}

// repend makes what waits for ingest under generation gen the content that
// took the place of the one that was not durable.
func (t *Tree) repend(tx *txn, ino, seq, gen uint64, good *schema.Content, written map[uint64]bool) {
	key := schema.Numbered(schema.PrefixPending, gen)
	written[gen] = true
	if good == nil || good.Gen != gen || gen == 0 {
		tx.Delete(key)
		if good != nil && !written[good.Gen] {
			t.setUntil(tx, good.Gen, 0) // it is shown again, if not up to the end
		}
		return
	}
	tx.Put(key, schema.Pending{Ino: ino, Content: *good, Epoch: seq, Time: t.now()}.Encode())
}
