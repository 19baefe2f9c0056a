package snapshot

import (
	"context"
	"errors"
	"fmt"
	"sort"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// A barrier is: cut (under the ordering lock: from here on a write to what was
// cut starts a new version), sync of exactly what the callers own of the cut,
// one record that commits the cut, one sync of the journal, publish, answer.
//
// Barriers that arrive while another one is cutting and committing join one
// group and share all of that. A group that has staging files to sync lets the
// next group go on while it does: a small fsync never waits for somebody
// else's terabyte. Cuts may therefore be committed out of order; a later
// snapshot names what an earlier one is still syncing as any content that was
// closed and not synced: if power fails first, it shows the version before.
//
// Rejected: one snapshot for each caller (a thousand fsyncs make a thousand
// snapshots of one moment), and joining a group that has cut already (the
// caller's last writes would not be in it).

// group is the barriers that share one cut.
type group struct {
	inos   []uint64
	reason string
	done   chan struct{}

	// Set before done is closed:
	seq    uint64
	failed map[uint64]error // by inode: that file could not be synced
	err    error            // nobody's barrier was recorded
}

// Barrier returns once a snapshot is recorded with everything of inos durable
// in it: their content and names; with Config.DurableRemote, once it is in the
// bucket, too. It gives the snapshot's number. A caller that gives up waiting
// leaves the barrier itself to complete. What is excluded from snapshots is made
// durable without one (0).
func (m *Manager) Barrier(ctx context.Context, reason string, inos ...uint64) (uint64, error) {
	seq, err := m.barrier(ctx, reason, inos...)
	if err == nil && seq != 0 && m.cfg.DurableRemote {
		err = m.publisher.inBucket(ctx, seq)
	}
	return seq, err
}

// barrier is Barrier without the bucket.
func (m *Manager) barrier(ctx context.Context, reason string, inos ...uint64) (uint64, error) {
	if len(inos) > 0 && m.tree.Excluded(inos...) {
		return 0, m.syncLive(inos)
	}
	m.mu.Lock()
	if m.mu.closed {
		m.mu.Unlock()
		return 0, ErrClosed
	}
	g := m.mu.joining
	leader := g == nil
	if leader {
		m.wg.Add(1)
		g = &group{reason: reason, done: make(chan struct{})}
		m.mu.joining = g
	}
	g.inos = append(g.inos, inos...)
	m.mu.Unlock()
	if leader {
		go m.lead(g)
	}
	select {
	case <-g.done:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if g.err != nil {
		return 0, g.err
	}
	for _, ino := range inos {
		if err := g.failed[ino]; err != nil {
			return g.seq, err
		}
	}
	return g.seq, nil
}

// syncLive is the barrier of what is excluded.
func (m *Manager) syncLive(inos []uint64) error {
	if err := m.begin(); err != nil {
		return err
	}
	defer m.wg.Done()
	for _, ino := range inos {
		if err := m.tree.SyncLive(ino); err != nil {
			return err
		}
	}
	return m.db.Sync(m.db.Pos())
}

// lead takes a group through its barrier.
func (m *Manager) lead(g *group) {
	defer m.wg.Done()
	defer close(g.done)
	m.turn.Lock()
	m.mu.Lock()
	m.mu.joining = nil // from here on nobody joins: the cut is next
	m.mu.Unlock()
	cut, err := m.tree.Cut(g.inos, false, false)
	if err == nil && cut.Same() && !m.published(cut.Seq()) {
		// The earlier cut waits for somebody else's files, or came to nothing.
		cut, err = m.tree.Cut(g.inos, false, true)
	}
	if err != nil {
		m.turn.Unlock()
		g.err = fmt.Errorf("cut: %w", err)
		return
	}
	g.seq = cut.Seq()
	s := &schema.Snapshot{ScopeIno: 1, Reason: g.reason}
	switch {
	case cut.Same():
		m.turn.Unlock()
		g.failed, g.err = m.same(cut)
	case cut.NeedsSync():
		m.turn.Unlock()
		g.failed = cut.Sync(context.Background())
		s.Marks = m.failedMarks(g.failed)
		g.err = m.commit(cut, s, nil)
	default:
		g.err = m.commit(cut, s, nil)
		m.turn.Unlock()
	}
}

// published says whether a snapshot is in the registry.
func (m *Manager) published(seq uint64) bool {
	_, err := m.Get(seq)
	return err == nil
}

// same answers a barrier over a tree that did not change since a snapshot that
// is published: once the callers' files are durable.
func (m *Manager) same(cut Cut) (map[uint64]error, error) {
	var failed map[uint64]error
	if cut.NeedsSync() {
		failed = cut.Sync(context.Background())
	}
	// That a file has settled, by us or in the background, is a record too: without
	// it the snapshot would show what the file was before, once power fails.
	return failed, m.db.Sync(m.db.Pos())
}

// failedMarks says which files a snapshot could not take as they were.
func (m *Manager) failedMarks(failed map[uint64]error) (marks []string) {
	for ino := range failed {
		if path, err := m.tree.PathOf(ino); err == nil {
			marks = append(marks, path+": could not be synced, as of before")
		}
	}
	sort.Strings(marks)
	return marks
}

// commit records the cut's snapshot, makes it durable and publishes it. The
// snapshot's own fields that depend on the registry are filled in here; more
// adds to the record.
func (m *Manager) commit(cut Cut, s *schema.Snapshot, more func(tx *state.Tx)) (err error) {
	seq := cut.Seq()
	defer cut.Done()
	m.hide(seq)
	s.Time, s.Clock = m.cfg.Now().UnixNano(), int64(m.clock.now())
	for _, ino := range cut.Marked() {
		if path, err := m.tree.PathOf(ino); err == nil {
			s.Marks = append(s.Marks, path+": open, taken up to its size")
		}
	}
	pos, err := m.db.Update(schema.KindCommit, func(tx *state.Tx) error {
		if s.Name != "" {
			if err := m.nameIn(tx, seq, s); err != nil {
				return err
			}
		}
		tx.Put(schema.Numbered(schema.PrefixSnapshot, seq), s.Encode())
		tx.Delete(schema.Numbered(schema.PrefixExpired, seq)) // the cut put it there
		if more != nil {
			more(tx)
		}
		return nil
	})
	if err != nil {
		m.unhide(seq) // there is no record
		return fmt.Errorf("record snapshot %d: %w", seq, err)
	}
	if err := m.db.Sync(pos); err != nil {
		return fmt.Errorf("sync snapshot %d: %w", seq, err)
	}
	m.publish(seq, s)
	m.keeper.made(seq, s)
	return nil
}

// nameIn gives the snapshot its name and revision.
func (m *Manager) nameIn(tx *state.Tx, seq uint64, s *schema.Snapshot) error {
	s.Revision = 1
	err := m.names(schema.NamePrefix(s.Scope, s.Name), func(_, _ string, old uint64, flags []byte) error {
		if s.Explicit && !isForgotten(flags) {
			return fmt.Errorf("%w: %s", ErrExist, s.Name) // somebody was faster
		}
		before, err := readSnapshot(tx, old)
		if err != nil {
			return err
		}
		s.Revision = max(s.Revision, before.Revision+1)
		if s.Explicit {
			return nil
		}
		return errEnough // the newest has the highest
	})
	if err != nil && !errors.Is(err, errEnough) {
		return err
	}
	tx.Put(schema.NameKey(s.Scope, s.Name, seq), s.NameFlags())
	return nil
}
