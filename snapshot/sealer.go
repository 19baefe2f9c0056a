package snapshot

import (
	"context"
	"errors"
	"sync"
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
			s.m.fault("note step "+cand.step, s.note(cand))
		}
	}
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
	_, known := s.waiting[c.ino]
	s.waiting[c.ino] = c
	s.mu.Unlock()
	if known {
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

// try seals a candidate, unless it is still being written, or gone, or holds
// no file.
func (s *sealer) try(ctx context.Context, c *candidate) error {
	path, err := s.m.tree.PathOf(c.ino)
	if err != nil {
		return s.drop(c)
	}
	ino, dir, err := s.m.tree.Find(path)
	if err != nil || ino != c.ino {
		return s.drop(c)
	}
	if s.writing(c.ino, dir) {
		s.mu.Lock()
		c.last = time.Now() // the quiet time starts when the last writer is gone
		s.mu.Unlock()
		return nil
	}
	parent, err := s.m.tree.Parent(c.ino)
	if err != nil {
		return s.drop(c)
	}
	scope, err := s.m.tree.PathOf(parent)
	if err != nil {
		return s.drop(c)
	}
	if dir {
		if has, err := s.m.tree.HasFile(c.ino); err != nil || !has {
			return errors.Join(err, s.drop(c))
		}
	}
	_, err = s.m.seal(ctx, schema.Snapshot{ScopeIno: parent, Scope: scope, Name: c.step, Reason: "quiet",
		Verdict: VerdictUnverified}, func(tx *state.Tx) {
		tx.Delete(schema.Numbered(schema.PrefixCandidate, c.ino))
	})
	s.mu.Lock()
	next := s.waiting[c.ino]
	switch {
	case err != nil:
		c.last = time.Now() // not again at once
	case next == c:
		delete(s.waiting, c.ino)
	}
	s.mu.Unlock()
	if err == nil && next != c && next != nil {
		return s.record(next) // a change came while it was sealed: the record is gone, the wait is not
	}
	return err
}

// drop gives up a candidate that is gone.
func (s *sealer) drop(c *candidate) error {
	s.mu.Lock()
	delete(s.waiting, c.ino)
	s.mu.Unlock()
	_, err := s.m.db.Update(schema.KindCandidate, func(tx *state.Tx) error {
		tx.Delete(schema.Numbered(schema.PrefixCandidate, c.ino))
		return nil
	})
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
