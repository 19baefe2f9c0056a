package snapshot

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// sealer watches the live tree for steps: directories and files whose names
// stand for a checkpoint. One is sealed when it has been quiet for a while and
// no file in it is open for writing.
//
// A change is noted in memory at once and resolved to its step a moment later,
// off the path of the operation that made it. A step that waits is also
// recorded (PrefixCandidate), so that a restart does not forget it.
type sealer struct {
	m     *Manager
	quiet time.Duration

	resolving sync.Mutex   // held while changes are resolved; taken before mu
	resolved  atomic.Int64 // ns: changes before are resolved and recorded

	mu      sync.Mutex
	changes map[change]struct{}
	waiting map[uint64]*candidate // by inode of the step's directory or file
}

// change is an entry of a directory that was added, written or renamed.
type change struct {
	dir  uint64
	name string
	ino  uint64
}

// candidate is a step that will be sealed once it is quiet.
type candidate struct {
	ino  uint64
	step string
	last time.Time // of the newest change; monotonic, so that a clock that jumps seals nothing early
	over bool      // its record is gone: a newer change has to make one
}

func newSealer(m *Manager) *sealer {
	return &sealer{m: m, quiet: m.cfg.SealQuiet, changes: map[change]struct{}{}, waiting: map[uint64]*candidate{}}
}

// Changed notes that an entry of a directory was added, written or renamed.
// It neither blocks nor looks anything up.
func (m *Manager) Changed(dir uint64, name string, ino uint64) {
	s := m.sealer
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes[change{dir, name, ino}] = struct{}{}
}

// load brings back the steps that waited when the last daemon ended.
func (s *sealer) load() error {
	it, err := s.m.db.NewIter([]byte{schema.PrefixCandidate}, []byte{schema.PrefixCandidate + 1})
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		ino, err := schema.ParseNumbered(it.Key())
		if err != nil {
			return err
		}
		c, err := schema.DecodeCandidate(it.Value())
		if err != nil {
			return err
		}
		s.waiting[ino] = &candidate{ino: ino, step: c.Name, last: time.Now()}
	}
	return it.Error()
}

// run resolves changes and seals what is quiet.
func (s *sealer) run(ctx context.Context) {
	tick := time.NewTicker(min(time.Second, max(s.quiet/4, 10*time.Millisecond)))
	defer tick.Stop()
	if r := s.m.db.Recovery(); !r.Clean && !r.Fresh {
		if err := s.rescan(ctx); ctx.Err() == nil {
			s.m.fault("look for steps that wait", err)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.resolve()
		for _, c := range s.due() {
			s.m.fault("seal step "+c.step, s.try(ctx, c))
		}
	}
}

// resolve finds the step of each change noted since the last call.
func (s *sealer) resolve() {
	s.resolving.Lock()
	defer s.resolving.Unlock()
	s.resolveLocked()
}

func (s *sealer) resolveLocked() {
	start, ok := s.m.cfg.Now(), true
	s.mu.Lock()
	changes := s.changes
	s.changes = map[change]struct{}{}
	s.mu.Unlock()
	steps := map[uint64]*candidate{} // by directory: many changes share one
	for c := range changes {
		cand, known := steps[c.dir]
		if !known {
			cand = s.stepAbove(c.dir)
			steps[c.dir] = cand
		}
		if cand == nil {
			cand = s.stepAt(c)
		}
		if cand != nil {
			err := s.note(cand)
			s.m.fault("note step "+cand.step, err)
			ok = ok && err == nil
		}
	}
	if ok {
		s.resolved.Store(start.UnixNano())
	}
}

// without runs fn, a rollback of directory dir, so that what it changes there
// is not taken for steps that the job has written: sealing them once more
// would make an old step the latest.
func (s *sealer) without(dir uint64, fn func() error) error {
	s.resolving.Lock()
	defer s.resolving.Unlock()
	s.resolveLocked()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for c := range s.changes {
			if _, err := s.m.tree.PathOf(c.dir); err != nil || s.m.below(c.dir, dir) {
				delete(s.changes, c)
			}
		}
	}()
	return fn()
}

// stepAbove gives the outermost directory at or above dir that is named like
// a step: it owns whatever is inside.
func (s *sealer) stepAbove(dir uint64) *candidate {
	var found *candidate
	for depth := 0; dir != 1 && depth < maxDepth; depth++ {
		path, err := s.m.tree.PathOf(dir)
		if err != nil {
			return nil // removed meanwhile
		}
		if step, ok := stepOf(base(path), false); ok {
			found = &candidate{ino: dir, step: step}
		}
		if dir, err = s.m.tree.Parent(dir); err != nil {
			return nil
		}
	}
	return found
}

// stepAt says whether the changed entry itself, below no step, is one.
func (s *sealer) stepAt(c change) *candidate {
	_, asDir := stepOf(c.name, false)
	_, asFile := stepOf(c.name, true)
	if !asDir && !asFile {
		return nil // most changes: nothing to look up
	}
	_, dir, err := s.find(c)
	if err != nil {
		return nil
	}
	if step, ok := stepOf(c.name, !dir); ok {
		return &candidate{ino: c.ino, step: step}
	}
	return nil
}

// find resolves a change's entry as it is now.
func (s *sealer) find(c change) (ino uint64, dir bool, err error) {
	path, err := s.m.tree.PathOf(c.dir)
	if err != nil {
		return 0, false, err
	}
	ino, dir, err = s.m.tree.Find(join(path, c.name))
	if err == nil && ino != c.ino {
		err = ErrNotExist
	}
	return ino, dir, err
}

// note starts or restarts a candidate's quiet time.
func (s *sealer) note(c *candidate) error {
	c.last = time.Now()
	s.mu.Lock()
	old := s.waiting[c.ino]
	s.waiting[c.ino] = c
	s.mu.Unlock()
	if old != nil && !old.over {
		return nil
	}
	return s.record(c)
}

// record makes a restart remember the candidate.
func (s *sealer) record(c *candidate) error {
	_, err := s.m.db.Update(schema.KindCandidate, func(tx *state.Tx) error {
		tx.Put(schema.Numbered(schema.PrefixCandidate, c.ino), schema.Candidate{Name: c.step, Time: c.last.UnixNano()}.Encode())
		return nil
	})
	return err
}

// due gives the candidates whose quiet time is over.
func (s *sealer) due() (out []*candidate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.waiting {
		if time.Since(c.last) >= s.quiet {
			out = append(out, c)
		}
	}
	return out
}

// place is where a candidate is.
type place struct {
	path, scope string
	parent      uint64
	dir         bool
}

// where finds a candidate; ok is false when it is gone.
func (s *sealer) where(c *candidate) (p place, ok bool) {
	var err error
	if p.path, err = s.m.tree.PathOf(c.ino); err != nil {
		return p, false
	}
	ino, dir, err := s.m.tree.Find(p.path)
	if err != nil || ino != c.ino {
		return p, false
	}
	if p.parent, err = s.m.tree.Parent(c.ino); err != nil {
		return p, false
	}
	p.scope, err = s.m.tree.PathOf(p.parent)
	p.dir = dir
	return p, err == nil
}

// try seals a candidate, unless it is still being written, or gone, or holds
// no file.
func (s *sealer) try(ctx context.Context, c *candidate) error {
	p, ok := s.where(c)
	if !ok {
		return s.drop(c)
	}
	if s.writing(c.ino, p.dir) {
		s.again(c)
		return nil
	}
	if p.dir {
		if has, err := s.m.tree.HasFile(c.ino); err != nil || !has {
			return errors.Join(err, s.drop(c))
		}
	}
	_, err := s.m.seal(ctx, sealing{
		Snapshot: schema.Snapshot{ScopeIno: p.parent, Scope: p.scope, Name: c.step, Reason: "quiet", Verdict: VerdictUnverified},
		check:    func(v View) error { return s.check(c, p, v) },
		more:     func(tx *state.Tx) { s.unrecord(tx, c) },
	})
	switch {
	case err == nil:
		s.end(c)
		return nil
	case errors.Is(err, errNothing):
		return s.drop(c)
	case errors.Is(err, errNotQuiet), ctx.Err() != nil:
		err = nil
	}
	s.again(c)
	return err
}

// again restarts a candidate's quiet time, unless a newer change did.
func (s *sealer) again(c *candidate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if next := s.waiting[c.ino]; next == nil || next == c {
		c.last, c.over = time.Now(), false
		s.waiting[c.ino] = c
	}
}

// unrecord takes back the record of c with the transaction, unless a newer
// change needs it.
func (s *sealer) unrecord(tx *state.Tx, c *candidate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if next := s.waiting[c.ino]; next == nil || next == c {
		c.over = true
		tx.Delete(schema.Numbered(schema.PrefixCandidate, c.ino))
	}
}

// end ends the wait for c.
func (s *sealer) end(c *candidate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting[c.ino] == c {
		delete(s.waiting, c.ino)
	}
}

// drop gives up a candidate that is gone.
func (s *sealer) drop(c *candidate) error {
	_, err := s.m.db.Update(schema.KindCandidate, func(tx *state.Tx) error {
		s.unrecord(tx, c)
		return nil
	})
	s.end(c)
	return err
}

// writing says whether a file of the step is open for writing.
func (s *sealer) writing(step uint64, dir bool) (found bool) {
	s.m.tree.OpenForWriting(func(ino, parent uint64) {
		found = found || ino == step || dir && s.m.below(parent, step)
	})
	return found
}

// Waiting gives the steps that will be sealed once they are quiet.
func (m *Manager) Waiting() (steps []string) {
	m.sealer.mu.Lock()
	defer m.sealer.mu.Unlock()
	for _, c := range m.sealer.waiting {
		steps = append(steps, c.step)
	}
	return steps
}

// candidates gives the directories and files that wait to be sealed.
func (s *sealer) candidates() []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.waiting))
}

func base(path string) string {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			return path[i+1:]
		}
	}
	return path
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}
