package stage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// SyncCut makes durable, but for the journal, what the cut's own files hold.
// It gives the failure of each file that could not be synced; in every
// snapshot such a file shows its last content that was durable.
func (t *Tree) SyncCut(ctx context.Context, c *Cut) map[uint64]error {
	var failed map[uint64]error
	for _, ino := range c.inos {
		if err := t.Settle(ino); err != nil {
			if failed == nil {
				failed = map[uint64]error{}
			}
			failed[ino] = err
		}
	}
	return failed
}

// NeedsSync says whether a file of the cut has unsynced bytes in a staging
// file, so that SyncCut will touch the disk.
func (t *Tree) NeedsSync(c *Cut) bool {
	for _, ino := range c.inos {
		if m, err := t.marks(ino); err != nil || len(m) > 0 {
			return true
		}
	}
	return false
}

// Settle syncs the staging files of an inode and records how much of them is
// durable. A file whose sync once failed goes on failing until it is truncated.
func (t *Tree) Settle(ino uint64) error { return t.settle(ino, nil) }

// settle is Settle; gently, which may be nil, is called before each sync with
// the file that is about to be synced.
func (t *Tree) settle(ino uint64, gently func(File)) error {
	marks, err := t.marks(ino)
	if err != nil {
		return err
	}
	for _, m := range marks {
		err := t.settleGen(ino, m, gently)
		if err == nil {
			continue
		}
		if _, gone := t.db.Get(schema.UnsettledKey(ino, m.gen)); errors.Is(gone, state.ErrNotFound) {
			continue // freed meanwhile: nobody names it any more
		}
		return err
	}
	return nil
}

func (t *Tree) settleGen(ino uint64, m mark, gently func(File)) error {
	g, err := t.gens.get(m.gen)
	if err != nil {
		return err
	}
	defer t.gens.put(g)
	upTo, err := t.committedLen(ino, m.gen)
	if err != nil {
		return err
	}
	if err := t.gens.open(g); err != nil {
		return err
	}
	g.mu.RLock()
	writes, file, named, failed := g.writes, g.file, g.named, g.failed
	g.mu.RUnlock()
	if failed != nil {
		return fmt.Errorf("%w: an earlier sync failed: %w", ErrIO, failed)
	}
	if file == nil {
		return nil // freed meanwhile
	}
	if gently != nil {
		gently(file)
	}
	err = file.Sync()
	if err == nil && !named {
		err = t.cfg.Disk.SyncDir(m.gen)
	}
	if errors.Is(err, fs.ErrClosed) {
		return nil // freed while it was synced
	}
	if err != nil {
		return t.syncFailed(ino, g, err)
	}
	return t.recordSettled(ino, g, m, writes, upTo)
}

// committedLen is how much of a generation the newest commit has fixed.
func (t *Tree) committedLen(ino, gen uint64) (int64, error) {
	rec, _, err := t.readInode(ino, newest)
	if errors.Is(err, ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return settledLen(rec, gen), nil
}

// recordSettled takes the mark off, or, if the generation was written to
// since, notes the length that was committed before the sync began.
func (t *Tree) recordSettled(ino uint64, g *generation, m mark, writes uint64, upTo int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.named = true
	if g.file == nil {
		return nil
	}
	clean := g.writes == writes
	if !clean && upTo <= m.Settled {
		return nil
	}
	_, err := t.update(schema.KindSettled, func(tx *txn) error {
		if clean {
			tx.Delete(schema.UnsettledKey(ino, g.id))
			tx.then(func() { g.marked = false })
			return nil
		}
		tx.Put(schema.UnsettledKey(ino, g.id), schema.Unsettled{Settled: upTo}.Encode())
		return nil
	})
	return err
}

// syncFailed notes that what g's file holds is unknown from now on: its fsync
// goes on failing, and no snapshot shows what had not settled before.
func (t *Tree) syncFailed(ino uint64, g *generation, cause error) error {
	g.mu.Lock()
	g.failed = cause
	g.mu.Unlock()
	err := fmt.Errorf("%w: sync staging file %d: %w", ErrIO, g.id, cause)
	n, err2 := t.get(ino)
	if err2 != nil {
		return err
	}
	defer t.put(n)
	n.mu.Lock()
	defer n.mu.Unlock()
	return errors.Join(err, t.revert(n, []mark{{gen: g.id}}, true))
}

// revert makes every version of n, in snapshots too, whose committed content
// was not durable show the newest one that was, and marks it. With failed, the
// live file takes no further commit until it is emptied.
func (t *Tree) revert(n *inode, marks []mark, failed bool) error {
	versions, err := t.versions(n.ino)
	if err != nil {
		return err
	}
	_, err = t.update(schema.KindReverted, func(tx *txn) error {
		for _, v := range versions {
			live := n.rec != nil && v.seq == n.seq
			torn := v.rec.Committed != nil && !settledBy(marks, v.rec.Committed)
			if !torn && !(live && failed) {
				continue
			}
			rec := *v.rec
			if torn {
				rec.Committed, rec.Reverted = rec.Settled, true
			}
			rec.Failed = rec.Failed || live && failed
			tx.Put(schema.InodeKey(n.ino, v.seq), rec.Encode())
			if live {
				tx.then(func() { n.rec = &rec })
			}
		}
		return nil
	})
	t.views.drop()
	return err
}

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
