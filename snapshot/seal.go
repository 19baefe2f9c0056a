package snapshot

import (
	"context"
	"fmt"
	"strings"

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
	// more adds to the record. Nil: nothing.
	more func(tx *state.Tx)
}

// seal takes a strict snapshot.
func (m *Manager) seal(ctx context.Context, s sealing) (Info, error) {
	if err := m.begin(); err != nil {
		return Info{}, err
	}
	defer m.wg.Done()
	dir, late, release := m.included.ready(ctx)
	m.turn.Lock()
	before := m.openFiles()
	cut, mark, err := m.included.cut(s.ScopeIno, dir)
	m.turn.Unlock()
	release()
	if err != nil {
		return Info{}, fmt.Errorf("cut: %w", err)
	}
	if err := m.checkCut(ctx, cut, &s); err != nil {
		cut.Done()
		return Info{}, err
	}
	s.Marks = append(m.writingMarks(before, cut.Marked(), s.ScopeIno), append(late, mark...)...)
	if err := m.commit(cut, &s.Snapshot, s.more); err != nil {
		return Info{}, err
	}
	i := infoOf(cut.Seq(), &s.Snapshot)
	m.store.sealed(i.Seq)
	if i.Pending {
		m.later(i.Seq)
	}
	if m.cfg.Events.Sealed != nil {
		m.cfg.Events.Sealed(i)
	}
	return i, nil
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
