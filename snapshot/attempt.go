package snapshot

import (
	"context"
	"errors"
	"strings"
	"time"

	"stepfs/internal/schema"
	"stepfs/internal/state"
	"stepfs/snapshot/rules"
)

// attempt is a candidate as it was when somebody began to seal it.
type attempt struct {
	*candidate
	version   uint64
	undone    uint64
	wrote     bool
	lost      bool
	adopted   bool
	step      string
	rules     []*rules.Rule
	seen      map[commitPoint]bool
	committed time.Time
	last      time.Time
	quiet     bool // nothing has happened for long

	path  string // of the step, or of its first piece
	parts []string
	match rules.Match
	scope string
	in    uint64 // inode of the scope
	dir   bool
}

// take copies what a candidate knows, and finds where it is. ok is false when
// it is gone.
func (s *sealer) take(c *candidate) (a *attempt, ok bool) {
	s.mu.Lock()
	a = &attempt{candidate: c, version: c.version, undone: c.undone, wrote: c.wrote, lost: c.lost, adopted: c.adopted, step: c.step, rules: c.rules,
		committed: c.committed, last: c.last, quiet: c.adopted || time.Since(c.last) >= s.quiet, seen: map[commitPoint]bool{}}
	for p := range c.seen {
		a.seen[p] = true
	}
	s.mu.Unlock()
	var err error
	if a.path, err = s.m.tree.PathOf(c.id); err != nil {
		return a, s.otherPiece(a)
	}
	return a, s.place(a, c.id)
}

// place finds the step at a.path.
func (s *sealer) place(a *attempt, ino uint64) bool {
	now, dir, err := s.m.tree.Find(a.path)
	if err != nil || now != ino {
		return false
	}
	a.parts, a.dir = splitPath(a.path), dir
	var ok bool
	if a.match, ok = s.rules.Match(a.parts, dir); !ok || rel(&a.match, a.parts) != "." {
		return false
	}
	a.step, a.rules = a.match.Step, a.match.Rules
	a.scope = strings.Join(a.parts[:a.match.Scope], "/")
	a.in, dir, err = s.m.tree.Find(a.scope)
	return err == nil && dir
}

// otherPiece finds a step of several pieces whose first one is gone.
func (s *sealer) otherPiece(a *attempt) (ok bool) {
	if a.key.step == "" {
		return false
	}
	scope, err := s.m.tree.PathOf(a.key.ino)
	if err != nil {
		return false
	}
	pieces, err := s.pieces(s.m.tree.Now(), a.key.ino, splitPath(scope), a.key.step)
	if err != nil || len(pieces) == 0 {
		return false
	}
	a.path = join(scope, pieces[0].name)
	return s.place(a, pieces[0].ino)
}

// try seals a candidate, unless it is still being written, or gone, or shows
// nothing new.
func (s *sealer) try(ctx context.Context, c *candidate) error {
	a, ok := s.take(c)
	if !ok {
		return s.drop(c, a)
	}
	// First without a cut, to spare one.
	_, err := s.examine(a, s.m.tree.Now())
	if err == nil {
		_, err = s.seal(ctx, a)
	}
	var same *sameError
	switch {
	case err == nil:
		s.end(c, a)
		return nil
	case errors.As(err, &same):
		return errors.Join(s.m.sealedAgain(same, a.wrote), s.drop(c, a))
	case errors.Is(err, errNothing):
		return s.drop(c, a)
	case errors.Is(err, errOpen):
		s.later(c, a, poll)
		return nil
	case errors.Is(err, errWait):
		s.later(c, a, 0)
		return nil
	case errors.Is(err, errChanging), ctx.Err() != nil:
		return nil
	}
	s.later(c, a, max(s.quiet/2, time.Second))
	return err
}

// later puts a candidate off: for a while, or, when there is nothing to do
// before something else happens, until then or until it is quiet.
func (s *sealer) later(c *candidate, a *attempt, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.ended = 0 // it goes on waiting, and is recorded again if it has to be
	if c.version != a.version {
		return
	}
	if a.quiet {
		c.last = time.Now()
	}
	if wait > 0 {
		c.retry = time.Now().Add(wait)
	} else {
		c.tried = a.version
	}
}

func (s *sealer) seal(ctx context.Context, a *attempt) (Info, error) {
	return s.m.seal(ctx, sealing{
		Snapshot: schema.Snapshot{ScopeIno: a.in, Scope: a.scope},
		check: func(seq uint64, v View, rec *schema.Snapshot) error {
			// Whoever was writing at the cut either is still, or has closed
			// since, which is an event.
			if s.writing(a) {
				return errOpen
			}
			s.resolve()
			if s.changed(a) {
				return errChanging
			}
			err := s.check(ctx, a, v, rec)
			var same *sameError
			if errors.As(err, &same) {
				same.again = seq
			}
			return err
		},
		ready: func(ctx context.Context) error { return s.stragglers(ctx, a) },
		gone:  func() bool { return s.gone(a) },
		more:  func(tx *state.Tx) { s.unrecord(tx, a) },
	})
}

// stragglers waits until the time for stragglers is over. If some come, they
// have to be in the step. But if something is changed that was committed, the
// job goes on to something else: what was cut is the step.
func (s *sealer) stragglers(ctx context.Context, a *attempt) error {
	s.atReady.Add(1)
	defer s.atReady.Add(-1)
	end := a.committed.Add(s.grace)
	if late := a.last.Add(s.grace); late.After(end) {
		end = a.committed.Add(3 * s.grace) // for whoever goes on and on
		if late.Before(end) {
			end = late
		}
	}
	for !a.committed.IsZero() {
		s.mu.Lock()
		changed, undone := a.candidate.version != a.version, a.candidate.undone != a.undone
		s.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case undone:
			return nil
		case changed:
			return errChanging
		case !time.Now().Before(end):
			return nil
		}
		pause(ctx, min(soon, time.Until(end)))
	}
	return nil
}

func (s *sealer) changed(a *attempt) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return a.candidate.version != a.version
}

// gone says whether something that was committed has been changed or removed
// since.
func (s *sealer) gone(a *attempt) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return a.candidate.undone != a.undone
}

// writing says whether a file of the step is open for writing.
func (s *sealer) writing(a *attempt) (found bool) {
	s.m.tree.OpenForWriting(func(ino, parent uint64) {
		if found {
			return
		}
		switch {
		case a.match.Parts > 1:
			if path, err := s.m.tree.PathOf(ino); err == nil && s.m.below(parent, a.in) {
				parts := splitPath(path)
				m, ok := s.rules.Match(parts, false)
				found = ok && m.Step == a.step && m.Parts > 1
			}
		case !a.dir:
			found = ino == a.candidate.key.ino
		default:
			found = s.m.below(parent, a.candidate.key.ino)
		}
	})
	return found
}

// end ends the wait for what was sealed.
func (s *sealer) end(c *candidate, a *attempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.version == a.version && s.waiting[c.key] == c {
		delete(s.waiting, c.key)
	}
}

// drop gives a candidate up.
func (s *sealer) drop(c *candidate, a *attempt) error {
	_, err := s.m.db.Update(schema.KindCandidate, func(tx *state.Tx) error {
		s.unrecord(tx, a)
		return nil
	})
	s.end(c, a)
	return err
}

// unrecord takes back the record of a candidate with the transaction, unless
// something newer needs it. It is not recorded again before end: that would be
// for ever, and an expired step would come back with the next start, as the latest.
func (s *sealer) unrecord(tx *state.Tx, a *attempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := a.candidate; c.version == a.version {
		c.recorded, c.ended = notRecorded, c.version
		tx.Delete(schema.Numbered(schema.PrefixCandidate, c.id))
	}
}
