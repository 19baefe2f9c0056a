package snapshot

import (
	"context"
	"errors"
	"fmt"
	"time"

	"stepfs/internal/journal"
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

// inFlight is a cut that is not published yet.
type inFlight struct {
	done chan struct{}
	err  error
}

// Barrier returns once a snapshot is recorded with everything of inos durable
// in it: their content and names. It gives the snapshot's number. A caller
// that gives up waiting leaves the barrier itself to complete.
func (m *Manager) Barrier(ctx context.Context, reason string, inos ...uint64) (uint64, error) {
	m.mu.Lock()
	g := m.mu.joining
	leader := g == nil
	if leader {
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

// lead takes a group through its barrier.
func (m *Manager) lead(g *group) {
	defer close(g.done)
	m.turn.Lock()
	m.mu.Lock()
	m.mu.joining = nil // from here on nobody joins: the cut is next
	m.mu.Unlock()
	cut, err := m.cut(g.inos, false, false)
	if err != nil {
		m.turn.Unlock()
		g.err = fmt.Errorf("cut: %w", err)
		return
	}
	g.seq = cut.Seq()
	if cut.Same() {
		m.turn.Unlock()
		g.failed, g.err = m.same(cut)
		return
	}
	if cut.NeedsSync() {
		m.turn.Unlock()
		g.failed = cut.Sync(context.Background())
		g.err = m.commit(cut, &schema.Snapshot{ScopeIno: 1, Reason: g.reason}, nil)
		return
	}
	g.err = m.commit(cut, &schema.Snapshot{ScopeIno: 1, Reason: g.reason}, nil)
	m.turn.Unlock()
}

// cut takes a cut and notes that it is in flight.
func (m *Manager) cut(inos []uint64, logs, force bool) (Cut, error) {
	cut, err := m.tree.Cut(inos, logs, force)
	if err != nil || cut.Same() {
		return cut, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.flight[cut.Seq()] = &inFlight{done: make(chan struct{})}
	return cut, nil
}

// same answers a barrier over a tree that did not change since an earlier cut:
// once that one is published and the callers' files are durable.
func (m *Manager) same(cut Cut) (map[uint64]error, error) {
	var failed map[uint64]error
	var pos journal.Pos
	if cut.NeedsSync() {
		failed = cut.Sync(context.Background())
		pos = m.db.Pos() // a settled mark is a record too
	}
	m.mu.Lock()
	f := m.mu.flight[cut.Seq()]
	m.mu.Unlock()
	if f != nil {
		<-f.done
		if f.err != nil {
			return failed, f.err
		}
	}
	if pos != 0 {
		return failed, m.db.Sync(pos)
	}
	return failed, m.db.Err()
}

// commit records the cut's snapshot, makes it durable and publishes it. The
// snapshot's own fields that depend on the registry are filled in here; more
// adds to the record.
func (m *Manager) commit(cut Cut, s *schema.Snapshot, more func(tx *state.Tx)) (err error) {
	seq := cut.Seq()
	m.hide(seq)
	defer func() { m.landed(cut, err) }()
	s.Time = time.Now().UnixNano()
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
		if more != nil {
			more(tx)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("record snapshot %d: %w", seq, err)
	}
	if err := m.db.Sync(pos); err != nil {
		return fmt.Errorf("sync snapshot %d: %w", seq, err)
	}
	m.publish(seq, s)
	return nil
}

// nameIn gives the snapshot its name and revision.
func (m *Manager) nameIn(tx *state.Tx, seq uint64, s *schema.Snapshot) error {
	s.Revision = 1
	k, _, err := tx.First(schema.NamePrefix(s.Scope, s.Name))
	if err == nil {
		_, _, old, err := schema.ParseNameKey(k)
		if err != nil {
			return err
		}
		v, err := tx.Get(schema.Numbered(schema.PrefixSnapshot, old))
		if err != nil {
			return err
		}
		before, err := schema.DecodeSnapshot(v)
		if err != nil {
			return err
		}
		s.Revision = before.Revision + 1
	} else if !errors.Is(err, state.ErrNotFound) {
		return err
	}
	flag := byte(0)
	if s.Explicit {
		flag = 1
	}
	tx.Put(schema.NameKey(s.Scope, s.Name, seq), []byte{flag})
	return nil
}

// landed ends a cut's flight.
func (m *Manager) landed(cut Cut, err error) {
	cut.Done()
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.mu.flight[cut.Seq()]; f != nil {
		f.err = err
		close(f.done)
		delete(m.mu.flight, cut.Seq())
	}
}

// seal takes a strict snapshot: it is recorded only once all that it names is
// durable. more adds to the record.
func (m *Manager) seal(ctx context.Context, s schema.Snapshot, more func(tx *state.Tx)) (Info, error) {
	m.turn.Lock()
	cut, err := m.cut(nil, true, true)
	m.turn.Unlock()
	if err != nil {
		return Info{}, fmt.Errorf("cut: %w", err)
	}
	if err := cut.SyncAll(ctx); err != nil {
		err = fmt.Errorf("make the snapshot's files durable: %w", err)
		m.landed(cut, err)
		return Info{}, err
	}
	if err := m.commit(cut, &s, more); err != nil {
		return Info{}, err
	}
	i := infoOf(cut.Seq(), &s)
	m.store.sealed(i.Seq)
	if m.cfg.Events.Sealed != nil {
		m.cfg.Events.Sealed(i)
	}
	return i, nil
}
