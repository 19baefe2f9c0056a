package snapshot

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"stepfs/internal/schema"
	"stepfs/internal/state"
	"stepfs/snapshot/rules"
)

// sealer watches the live tree for steps: directories and files that a rule
// (package rules) takes for a checkpoint. One is sealed a moment after its
// rule's commit points were seen and its last file was closed, or else when it
// has been quiet for long.
//
// An event is noted in memory at once (event.go) and resolved to its step a
// moment later (watch.go), off the path of the operation that made it. A step
// that waits is also recorded (PrefixCandidate), so that a restart does not
// forget it. What a cut is worth as a step, judge.go decides.
type sealer struct {
	m     *Manager
	rules *rules.Set
	quiet time.Duration
	grace time.Duration // for stragglers

	nudge chan struct{}
	slots chan struct{} // one for each seal that may be under way

	held      atomic.Bool  // nothing is sealed for now: see SealOn
	atReady   atomic.Int32 // seals that wait for stragglers
	resolving sync.Mutex   // held while events are resolved; taken before mu
	resolved  atomic.Int64 // ns: changes before are resolved and recorded

	mu      sync.Mutex
	events  []Event
	missed  bool // events were forgotten
	waiting map[stepKey]*candidate
	refused map[string]string // trackers that named no step, and why
}

// maxSeals is how many steps are sealed at the same time: those of several
// runs, or while one waits for the disk.
const maxSeals = 8

func newSealer(m *Manager) *sealer {
	s := &sealer{m: m, rules: rules.New(m.cfg.Rules), quiet: m.cfg.SealQuiet, grace: m.cfg.SealGrace,
		nudge: make(chan struct{}, 1), slots: make(chan struct{}, maxSeals),
		waiting: map[stepKey]*candidate{}, refused: map[string]string{}}
	s.held.Store(m.cfg.HoldSeal)
	return s
}

// SealOn begins to seal steps, which Config.HoldSeal held back: the live tree was
// being made from elsewhere, and what is half of a step looks like one.
func (m *Manager) SealOn() {
	if m.sealer.held.Swap(false) {
		m.sealer.wake()
	}
}

// load brings back the steps that waited when the last daemon ended.
func (s *sealer) load() error {
	it, err := s.m.db.NewIter([]byte{schema.PrefixCandidate}, []byte{schema.PrefixCandidate + 1})
	if err != nil {
		return err
	}
	defer it.Close()
	w := &watcher{s: s, now: time.Now(), dirs: map[uint64]dirPlace{}}
	var gone []uint64
	for ok := it.First(); ok; ok = it.Next() {
		ino, err := schema.ParseNumbered(it.Key())
		if err != nil {
			return err
		}
		rec, err := schema.DecodeCandidate(it.Value())
		if err != nil {
			return err
		}
		if !w.again(ino, rec) {
			gone = append(gone, ino)
		}
	}
	return errors.Join(it.Error(), s.forget(gone))
}

// again notes a step that waited before.
func (w *watcher) again(ino uint64, rec schema.Candidate) bool {
	path, err := w.s.m.tree.PathOf(ino)
	if err != nil {
		return false
	}
	now, dir, err := w.s.m.tree.Find(path)
	parts := splitPath(path)
	m, ok := w.s.rules.Match(parts, dir)
	if err != nil || now != ino || !ok || rel(&m, parts) != "." {
		return false
	}
	w.note(&m, parts, ino, true, func(c *candidate) {
		c.version++
		c.id, c.wrote, c.recorded = ino, true, rec.Rule
		if r := w.s.rules.Named(rec.Rule); r != nil {
			for k := range r.Commits {
				c.commit(commitPoint{r, k}, w.now)
			}
		}
	})
	return true
}

// poll is how often a step that was committed is asked whether its files are
// closed.
const poll = 50 * time.Millisecond

// run resolves events and seals what is due.
func (s *sealer) run(ctx context.Context) {
	defer s.waitSeals()
	if r := s.m.db.Recovery(); !r.Clean && !r.Fresh {
		s.lookThrough(ctx)
	}
	tick := min(time.Second, max(s.quiet/4, 10*time.Millisecond))
	for ctx.Err() == nil {
		timer := time.NewTimer(min(tick, s.next()))
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-s.nudge:
			pause(ctx, soon)
		}
		timer.Stop()
		if s.takeMissed() {
			s.lookThrough(ctx)
		}
		s.resolve()
		s.start(ctx)
	}
}

// waitSeals returns once nothing is being sealed.
func (s *sealer) waitSeals() {
	for range maxSeals {
		s.slots <- struct{}{}
	}
}

func (s *sealer) takeMissed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	missed := s.missed
	s.missed = false
	return missed
}

func (s *sealer) lookThrough(ctx context.Context) {
	if err := s.rescan(ctx); ctx.Err() == nil {
		s.m.fault("look for steps that wait", err)
	}
}

// next says how long there is nothing to do if nothing happens.
func (s *sealer) next() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait := time.Duration(1<<63 - 1)
	if s.held.Load() {
		return wait
	}
	for _, c := range s.waiting {
		if c.busy {
			continue
		}
		if c.committedBy() != nil && c.tried != c.version {
			wait = min(wait, max(time.Millisecond, time.Until(c.retry)))
		}
		wait = min(wait, max(time.Millisecond, s.quiet-time.Since(c.last)))
	}
	return wait
}

// start begins to seal what is due.
func (s *sealer) start(ctx context.Context) {
	for _, c := range s.due() {
		select {
		case s.slots <- struct{}{}:
		default:
			s.release(c)
			continue
		}
		go func() {
			defer func() { <-s.slots }()
			defer s.wake()
			defer s.release(c)
			if err := s.try(ctx, c); ctx.Err() == nil {
				s.m.fault("seal step "+c.step, err)
			}
		}()
	}
}

func (s *sealer) release(c *candidate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.busy = false
}

// due gives the candidates that can be sealed, and makes them busy.
func (s *sealer) due() (out []*candidate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held.Load() {
		return nil
	}
	now := time.Now()
	for _, c := range s.waiting {
		if c.busy || now.Before(c.retry) {
			continue
		}
		if now.Sub(c.last) >= s.quiet || c.committedBy() != nil && c.tried != c.version {
			c.busy = true
			out = append(out, c)
		}
	}
	return out
}

// record makes a restart remember the candidates that it would not, and what
// is known of their commits. It says whether that went well.
func (s *sealer) record() bool {
	s.mu.Lock()
	var todo []*candidate
	for _, c := range s.waiting {
		if c.unrecorded() {
			todo = append(todo, c)
		}
	}
	s.mu.Unlock()
	if len(todo) == 0 {
		return true
	}
	_, err := s.m.db.Update(schema.KindCandidate, func(tx *state.Tx) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, c := range todo {
			if s.waiting[c.key] != c || !c.unrecorded() {
				continue
			}
			c.recorded = c.commitName()
			rec := schema.Candidate{Name: c.step, Time: s.m.cfg.Now().UnixNano(), Rule: c.recorded}
			tx.Put(schema.Numbered(schema.PrefixCandidate, c.id), rec.Encode())
		}
		return nil
	})
	s.m.fault("note steps that wait", err)
	return err == nil
}

// commitName is the rule that a candidate was committed by, "" when by none.
func (c *candidate) commitName() string {
	if r := c.committedBy(); r != nil {
		return r.Name
	}
	return ""
}

// forget takes back records of steps that are gone.
func (s *sealer) forget(inos []uint64) error {
	if len(inos) == 0 {
		return nil
	}
	_, err := s.m.db.Update(schema.KindCandidate, func(tx *state.Tx) error {
		for _, ino := range inos {
			tx.Delete(schema.Numbered(schema.PrefixCandidate, ino))
		}
		return nil
	})
	return err
}

// without runs fn, a rollback of directory dir, so that what it changes there
// is not taken for steps that the job has written: sealing them once more
// would make an old step the latest.
func (s *sealer) without(dir uint64, fn func() error) error {
	s.resolving.Lock()
	defer s.resolving.Unlock()
	s.resolveLocked()
	defer func() {
		var kept []Event
		for _, e := range s.takeEvents() {
			if _, err := s.m.tree.PathOf(e.Dir); err == nil && !s.m.below(e.Dir, dir) {
				kept = append(kept, e)
			}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.events = append(kept, s.events...)
	}()
	return fn()
}

// takeEvents gives the events that were not looked at. The tree is asked about them
// without the lock: who changes it tells of that (Happened) with locks of its own.
func (s *sealer) takeEvents() []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	events := s.events
	s.events = nil
	return events
}

// maxRefused bounds what is remembered of trackers that named no step.
const maxRefused = 64

// refuse remembers why a tracker named no step.
func (s *sealer) refuse(path string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for old := range s.refused {
		if len(s.refused) < maxRefused {
			break
		}
		delete(s.refused, old)
	}
	s.refused[path] = err.Error()
}

// Waiting gives the steps that will be sealed once they are committed or quiet.
func (m *Manager) Waiting() (steps []string) {
	m.sealer.mu.Lock()
	defer m.sealer.mu.Unlock()
	for _, c := range m.sealer.waiting {
		steps = append(steps, c.step)
	}
	return steps
}

// candidates gives the directories and files that wait to be sealed.
func (s *sealer) candidates() (inos []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.waiting {
		inos = append(inos, c.id)
	}
	return inos
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
