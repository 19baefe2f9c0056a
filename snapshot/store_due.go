package snapshot

import (
	"slices"
	"time"
)

// goal is what is to be stored now.
type goal struct {
	seqs []uint64 // all that these snapshots show
	upTo uint64   // and what lasts of all that cuts up to this one saw
}

func (g goal) empty() bool { return len(g.seqs) == 0 && g.upTo == 0 }

func (g goal) has(f Frozen) bool {
	return f.Lasting() && f.Epoch() <= g.upTo ||
		slices.ContainsFunc(g.seqs, func(seq uint64) bool { return sees(seq, f.Epoch(), f.Until()) })
}

// add is for a drain of what cut seq sees.
func (g *goal) add(seq uint64) { g.seqs, g.upTo = append(g.seqs, seq), max(g.upTo, seq) }

// sees says whether snapshot seq sees what cuts from first to until-1 do; until
// 0: no end.
func sees(seq, first, until uint64) bool { return first <= seq && (until == 0 || seq < until) }

// target gives the oldest sealed step that is due and not stored, and what it
// and the drains want.
func (s *storer) target() (st *step, g goal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, t := range s.steps {
		if t.due(now) {
			st = t
			g.seqs = append(g.seqs, t.seq)
			break
		}
	}
	for d := range s.drains {
		g.add(d.seq)
	}
	return st, g
}

// Wanted says whether a step that is not stored yet shows a content that cuts
// from first to until-1 see.
func (m *Manager) Wanted(first, until uint64) bool {
	m.store.mu.Lock()
	defer m.store.mu.Unlock()
	return m.store.wantedLocked(first, until)
}

func (s *storer) wantedLocked(first, until uint64) bool {
	return slices.ContainsFunc(s.steps, func(st *step) bool { return sees(st.seq, first, until) })
}

// batchBytes is how much is ingested between two flushes of the chunk store:
// enough to fill packs, little enough that staging can be evicted meanwhile.
const (
	batchBytes   = 512 << 20
	pressedBytes = 64 << 20 // when somebody waits for the room
	batchFiles   = 4096
)

// collect gives the contents that are due, at most a batch: what the goal has,
// and what lasts and is old; when room is scarce (pressed), what lasts. What was
// put off comes when nothing else is due.
func (s *storer) collect(g goal) (batch []Frozen, pressed, more bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	pressed = s.pressed.Swap(false)
	if g.empty() && now.Before(s.scan) && len(s.bad) == 0 && len(s.later) == 0 && !pressed {
		return nil, false, false, nil
	}
	limit := int64(batchBytes)
	if pressed {
		limit = pressedBytes
		newest, err := s.m.newest()
		if err != nil {
			return nil, true, false, err
		}
		g.upTo = max(g.upTo, newest)
		defer func() {
			if more {
				s.pressed.Store(true)
			}
		}()
	}
	s.scan = now.Add(s.m.cfg.BarrierAge)
	var bytes, left int64
	var waiting []Frozen
	err = s.m.tree.Pending(func(f Frozen) bool {
		if f.Lasting() || s.wantedLocked(f.Epoch(), f.Until()) {
			left += f.Bytes()
		}
		if !g.has(f) && !s.isOld(f, now) {
			return true
		}
		if r := s.bad[f.Ino()]; r != nil && !r.due(now) {
			return true
		}
		if s.later[f.Ino()] && !pressed {
			if len(waiting) < batchFiles {
				waiting = append(waiting, f)
			}
			return true
		}
		if more = bytes >= limit || len(batch) >= batchFiles; more {
			s.scan = now
			return false
		}
		batch = append(batch, f)
		bytes += f.Bytes()
		return true
	})
	if len(batch) > 0 {
		more = more || len(waiting) > 0
	} else if batch = waiting; len(batch) == 0 {
		clear(s.later) // what is left in it is gone
	}
	s.left = left
	return batch, pressed, more, err
}

// isOld says whether a content is due by its age; if not, the next scan comes
// in time for it. mu is held.
func (s *storer) isOld(f Frozen, now time.Time) bool {
	if !f.Lasting() {
		return false
	}
	due := time.Unix(0, f.Time()).Add(s.m.cfg.BarrierAge)
	if due.Before(s.scan) && due.After(now) {
		s.scan = due
	}
	return !due.After(now)
}
