package snapshot

import (
	"context"
	"fmt"

	"stepfs/snapshot/include"
)

// Rollback makes the live scope exactly what a step was, after a snapshot of
// what it is now, and returns that one. What steps include from outside is not
// brought into it.
func (m *Manager) Rollback(ctx context.Context, scope, step string) (Info, error) {
	to, err := m.Resolve(scope, step)
	if err == nil {
		defer m.Pin(to.Seq)()
		to, err = m.Get(to.Seq)
	}
	if err != nil {
		return Info{}, fmt.Errorf("%s: %w", step, err)
	}
	ino, dir, err := m.tree.Find(to.Scope)
	if err != nil || !dir {
		return Info{}, fmt.Errorf("%w: scope %q is not a directory of the live tree", ErrNotExist, to.Scope)
	}
	if path, busy := m.writerBelow(ino); busy {
		return Info{}, fmt.Errorf("%w: %s", ErrBusy, path)
	}
	before, err := m.Snapshot(ctx, to.Scope, fmt.Sprintf("before-rollback-%d", m.db.Epoch()), "rollback", nil)
	if err != nil {
		return Info{}, fmt.Errorf("take a snapshot before the rollback: %w", err)
	}
	var names []string
	err = m.sealer.without(ino, func() (err error) {
		names, err = m.tree.Rollback(ino, to.Seq, to.ScopeIno, include.Dir)
		return err
	})
	if m.cfg.Events.RolledBack != nil {
		m.cfg.Events.RolledBack(ino, names)
	}
	if err != nil {
		return before, fmt.Errorf("roll back to %s: %w", to.ID(), err)
	}
	_, err = m.barrier(ctx, "rollback", ino)
	return before, err
}

// writerBelow finds a file below a directory that is open for writing.
func (m *Manager) writerBelow(dir uint64) (path string, found bool) {
	m.tree.OpenForWriting(func(ino, parent uint64) {
		if !found && m.below(parent, dir) {
			path, _ = m.tree.PathOf(ino)
			found = true
		}
	})
	return path, found
}
