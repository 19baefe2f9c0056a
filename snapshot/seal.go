package snapshot

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// A sealed snapshot is strict: it is recorded only once all that it names is
// durable, not just what a caller owns.

// sealing is what goes with a snapshot that is to be sealed.
type sealing struct {
	schema.Snapshot
	// check may refuse the cut, or change the record: it sees what the snapshot
	// would show. Nil: none.
	check func(seq uint64, v View, s *schema.Snapshot) error
	// ready is called last, and may refuse too. Nil: none.
	ready func(ctx context.Context) error
	// gone says whether what was to be sealed is being removed or overwritten.
	// Nil: it does not matter.
	gone func() bool
	// more adds to the record. Nil: nothing.
	more func(tx *state.Tx)
}

// shot is a cut that may become a sealed snapshot, with its record.
type shot struct {
	sealing
	cut Cut
}

// seal takes a strict snapshot.
func (m *Manager) seal(ctx context.Context, s sealing) (Info, error) {
	if err := m.begin(); err != nil {
		return Info{}, err
	}
	defer m.wg.Done()
	taken, err := m.withIncluded(ctx, s)
	if err != nil {
		return Info{}, err
	}
	if err := m.commit(taken.cut, &taken.Snapshot, s.more); err != nil {
		return Info{}, err
	}
	i := infoOf(taken.cut.Seq(), &taken.Snapshot)
	m.store.sealed(i.Seq)
	m.publisher.sealed(i.Seq)
	if i.Pending {
		m.later(i.Seq)
	}
	if m.cfg.Events.Sealed != nil {
		m.cfg.Events.Sealed(i)
	}
	return i, nil
}

// withIncluded cuts with what is included. A job may remove what it has just
// committed, so what takes long to copy must not cost the step: it is cut
// without, too, and that is what counts if the job has gone on meanwhile.
func (m *Manager) withIncluded(ctx context.Context, s sealing) (*shot, error) {
	ready := m.included.start(ctx)
	var first *shot
	var err error
	var c copies
	select {
	case c = <-ready:
	case <-time.After(includeSoon):
		if s.gone != nil {
			first, err = m.shoot(ctx, s, copies{})
		}
		if err != nil {
			go func() { c := <-ready; c.release() }()
			return nil, err
		}
		c = <-ready
	}
	last, err := m.shoot(ctx, s, c)
	switch {
	case first == nil:
		return last, err
	case err == nil, !s.gone():
		first.cut.Done()
		return last, err
	}
	first.Marks = append(first.Marks, m.included.without("the job went on while they were copied", nil)...)
	return first, nil
}

// shoot cuts the tree, and checks what came of it.
func (m *Manager) shoot(ctx context.Context, s sealing, c copies) (*shot, error) {
	m.turn.Lock()
	before := m.openFiles()
	cut, marks, err := m.included.cut(s.ScopeIno, c.dir)
	m.turn.Unlock()
	if c.release != nil {
		c.release() // what was cut does not change any more
	}
	if err != nil {
		return nil, fmt.Errorf("cut: %w", err)
	}
	taken := &shot{s, cut}
	if err := m.checkCut(ctx, cut, &taken.sealing); err != nil {
		cut.Done()
		return nil, err
	}
	taken.Marks = append(m.writingMarks(before, cut.Marked(), s.ScopeIno), append(slices.Clone(c.marks), marks...)...)
	return taken, nil
}

// checkCut says whether the cut may become the snapshot s, and makes it durable.
func (m *Manager) checkCut(ctx context.Context, cut Cut, s *sealing) error {
	v := m.tree.At(cut.Seq())
	if ino, ok := find(v, s.Scope); !ok || ino != s.ScopeIno {
		return fmt.Errorf("%w: scope %q has just been renamed or removed", ErrNotExist, s.Scope)
	}
	if s.check != nil {
		if err := s.check(cut.Seq(), v, &s.Snapshot); err != nil {
			return err
		}
	}
	if err := cut.SyncAll(ctx); err != nil {
		return fmt.Errorf("make the snapshot's files durable: %w", err)
	}
	if s.ready != nil {
		return s.ready(ctx)
	}
	return nil
}

// find walks a path of a view.
func find(v View, path string) (ino uint64, ok bool) {
	ino = rootIno
	for _, name := range strings.Split(path, "/") {
		if name == "" {
			continue
		}
		n, err := v.Lookup(ino, name)
		if err != nil {
			return 0, false
		}
		ino = n.Ino
	}
	return ino, true
}

const rootIno = 1

// openFiles gives the files that are open for writing, with their directories.
func (m *Manager) openFiles() map[uint64]uint64 {
	open := map[uint64]uint64{}
	m.tree.OpenForWriting(func(ino, parent uint64) { open[ino] = parent })
	return open
}

// maxMarks bounds how many open files a snapshot names.
const maxMarks = 64

// writingMarks says which files below the scope were open for writing before
// the cut and still are after it: a snapshot shows of them what their last
// close or barrier fixed, or nothing. Those in but were taken as they are.
func (m *Manager) writingMarks(before map[uint64]uint64, but []uint64, scope uint64) (marks []string) {
	for _, ino := range but {
		delete(before, ino)
	}
	left := 0
	m.tree.OpenForWriting(func(ino, _ uint64) {
		parent, was := before[ino]
		if !was || !m.below(parent, scope) {
			return
		}
		path, err := m.tree.PathOf(ino)
		if err != nil {
			return // unlinked
		}
		if len(marks) == maxMarks {
			left++
			return
		}
		marks = append(marks, path+": open for writing, as of its last close or sync")
	})
	if left > 0 {
		marks = append(marks, fmt.Sprintf("and %d more open files", left))
	}
	return marks
}
