package snapshot

import (
	"time"

	"stepfs/snapshot/rules"
)

// candidate is a step that something was done to, and that will be sealed: as
// soon as it was committed, no file of it is open for writing and a moment has
// passed for stragglers; or once it has been quiet for long. All of it is
// guarded by sealer.mu.
type candidate struct {
	key   stepKey
	id    uint64 // inode under which it is recorded: the step, or its first piece
	step  string // as the path says
	rules []*rules.Rule

	version uint64    // events so far
	last    time.Time // of the newest; monotonic, so that a clock that jumps seals nothing early
	wrote   bool      // one of them was more than a change of attributes
	lost    bool      // it was found by looking through the tree: what happened is not known
	adopted bool      // it was copied in, and is sealed as it is

	// seen are the commit points that were seen. They count until something
	// that they covered is changed: a file that was there and closed.
	seen      map[commitPoint]bool
	committed time.Time       // when the first rule had all of its; zero: none has
	undone    uint64          // version at which they were lost
	open      map[uint64]bool // files that were made or changed and not closed since
	fresh     map[uint64]bool // files that came after the commit: stragglers

	tried    uint64    // version at which it could not be sealed: nothing new since
	retry    time.Time // not before
	busy     bool      // somebody is about to seal it
	recorded string    // the commit that its record tells, or notRecorded
	ended    uint64    // version at which its record was taken back, since it is sealed or nothing: it waits no more
}

// notRecorded: a restart would forget the candidate.
const notRecorded = "\x00"

// unrecorded says whether a restart would forget something of a candidate that
// waits.
func (c *candidate) unrecorded() bool {
	return c.recorded != c.commitName() && c.ended != c.version
}

// stepKey is a step: the inode of its directory or file; or, when it has
// several pieces, that of their scope, and the step.
type stepKey struct {
	ino  uint64
	step string
}

// commitPoint is one of the commits of a rule.
type commitPoint struct {
	rule *rules.Rule
	k    int
}

// commit notes a commit point.
func (c *candidate) commit(p commitPoint, now time.Time) {
	if c.seen == nil {
		c.seen = map[commitPoint]bool{}
	}
	c.seen[p] = true
	if c.committed.IsZero() && c.committedBy() != nil {
		c.committed = now
	}
}

// undo: what the commit points covered is no more.
func (c *candidate) undo() {
	c.seen, c.fresh, c.committed = nil, nil, time.Time{}
	c.undone = c.version
}

// fully says whether every commit point of a rule was seen.
func (c *candidate) fully(r *rules.Rule) bool {
	for k := range r.Commits {
		if !c.seen[commitPoint{r, k}] {
			return false
		}
	}
	return len(r.Commits) > 0
}

// committedBy gives a rule that is fully committed.
func (c *candidate) committedBy() *rules.Rule {
	for _, r := range c.rules {
		if c.fully(r) {
			return r
		}
	}
	return nil
}

// covered says whether an inode belongs to what was committed.
func (c *candidate) covered(ino uint64) bool {
	return !c.committed.IsZero() && !c.open[ino] && !c.fresh[ino]
}

// touch notes what an event does to the files of the step; the commit points
// that it may be come after. away: an entry was moved out of the step.
func (c *candidate) touch(e Event, away bool, now time.Time) {
	c.version++
	c.last = now
	if c.open == nil {
		c.open = map[uint64]bool{}
	}
	switch e.Op {
	case OpCreate, OpMkdir:
		c.straggler(e.Ino)
		if e.Op == OpCreate {
			c.open[e.Ino] = true
		}
	case OpWrite:
		if c.covered(e.Ino) {
			c.undo()
		}
		c.open[e.Ino] = true
	case OpClose, OpAbandon:
		delete(c.open, e.Ino)
	case OpUnlink, OpRmdir:
		c.removed(e.Ino)
	case OpRename:
		switch {
		case away:
			c.removed(e.Ino)
			return
		case e.Over != 0 && c.covered(e.Over):
			c.undo()
		}
		c.straggler(e.Ino)
	}
}

// straggler: a file that comes after a commit point.
func (c *candidate) straggler(ino uint64) {
	if c.committed.IsZero() {
		return
	}
	if c.fresh == nil {
		c.fresh = map[uint64]bool{}
	}
	c.fresh[ino] = true
}

func (c *candidate) removed(ino uint64) {
	if c.covered(ino) {
		c.undo()
	}
	delete(c.open, ino)
	delete(c.fresh, ino)
}
