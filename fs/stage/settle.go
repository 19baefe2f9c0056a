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
		err := t.Settle(ino)
		if err == nil && c.failed[ino] {
			err = fmt.Errorf("%w: an earlier sync of this file failed", ErrIO)
		}
		if err != nil {
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
	if len(c.failed) > 0 {
		return true // SyncCut has an error to tell
	}
	for _, ino := range c.inos {
		if len(t.marks(ino)) > 0 {
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
func (t *Tree) settle(ino uint64, gently func(File) error) error {
	for _, m := range t.marks(ino) {
		if err := t.settleOne(ino, m, gently); err != nil {
			return err
		}
	}
	return nil
}

// settleOne is settle for one generation.
func (t *Tree) settleOne(ino uint64, m mark, gently func(File) error) error {
	err := t.settleGen(ino, m, gently)
	if err == nil {
		return nil
	}
	if _, gone := t.db.Get(schema.UnsettledKey(ino, m.gen)); errors.Is(gone, state.ErrNotFound) {
		return nil // freed meanwhile: nobody names it any more
	}
	return err
}

func (t *Tree) settleGen(ino uint64, m mark, gently func(File) error) error {
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
	writes, file, named := g.writes, g.file, g.named
	g.mu.RUnlock()
	if err := g.failed.Load(); err != nil {
		return fmt.Errorf("%w: an earlier sync failed: %w", ErrIO, *err)
	}
	if file == nil {
		return nil // freed meanwhile
	}
	if gently != nil {
		err = gently(file)
	}
	if err == nil {
		err = file.Sync()
	}
	if err == nil && !named {
		err = t.cfg.Disk.SyncDir(m.gen)
	}
	if errors.Is(err, fs.ErrClosed) {
		return nil // freed while it was synced
	}
	if err != nil {
		return t.syncFailed(ino, g, err)
	}
	return t.recordSettled(ino, g, writes, upTo)
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
func (t *Tree) recordSettled(ino uint64, g *generation, writes uint64, upTo int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.named = true
	clean := g.writes == writes
	// Another sync may have ended since and have recorded more than this one.
	if g.file == nil || !g.marked || !clean && upTo <= g.settled {
		return nil
	}
	_, err := t.update(schema.KindSettled, func(tx *txn) error {
		if _, err := tx.Get(schema.UnsettledKey(ino, g.id)); err != nil {
			return ignoreGone(err) // the reaper took it off: nobody names g any more
		}
		if clean {
			t.dropMark(tx, ino, g.id)
			tx.then(func() { g.marked = false })
			return t.outlived(tx, ino)
		}
		t.putMark(tx, ino, g.id, upTo)
		tx.then(func() { g.settled = upTo })
		return nil
	})
	return err
}

// outlived has the reaper look for the content that the committed one, durable
// now, would have given way to.
func (t *Tree) outlived(tx *txn, ino uint64) error {
	rec, _, err := t.readInode(ino, newest)
	if errors.Is(err, ErrNotExist) {
		return nil
	}
	if err == nil && rec.Settled != nil && rec.Committed != nil && rec.Settled.Gen != rec.Committed.Gen {
		t.reaper.add(tx, ino)
	}
	return err
}

// ignoreGone takes the absence of a key for an answer.
func ignoreGone(err error) error {
	if errors.Is(err, state.ErrNotFound) {
		return nil
	}
	return wrapDisk(err)
}

// syncFailed notes that what g's file holds is unknown from now on: its fsync
// goes on failing, and no snapshot shows what had not settled before.
//
// A generation that was freed meanwhile is none of it: nobody names its bytes,
// and whatever else the inode shows is sound.
func (t *Tree) syncFailed(ino uint64, g *generation, cause error) error {
	err := fmt.Errorf("%w: sync staging file %d: %w", ErrIO, g.id, cause)
	n, gone := t.get(ino)
	if gone != nil {
		n = &inode{ino: ino} // deleted: snapshots may still name it
	} else {
		defer t.put(n)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, gone := t.db.Get(schema.UnsettledKey(ino, g.id)); errors.Is(gone, state.ErrNotFound) {
		return nil
	}
	g.mu.Lock()
	g.failed.Store(&cause)
	settled := g.settled
	g.mu.Unlock()
	return errors.Join(err, t.revert(n, []mark{{g.id, schema.Unsettled{Settled: settled}}}, true))
}
