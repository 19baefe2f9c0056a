package snapshot

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// storer has frozen content stored in the background: what sealed steps show
// first, in the order of their sealing; other content only once it is older
// than BarrierAge, since most of it is dropped before; what a Drain waits for.
// What only barriers show and was partly overwritten since is never stored
// (stage.Frozen.Lasting; store_due.go says what is due).
// A sealed step whose content is stored gets its Merkle tree written and is
// marked as stored.
//
// Work is done in passes. What fails, be it one content or one step, is tried
// again after a while and keeps nothing else back; what fails as a whole (a
// full disk) ends the pass.
type storer struct {
	m     *Manager
	nudge chan struct{} // there may be work
	hurry chan struct{} // somebody waits: do not wait for the disk to get well

	mu      sync.Mutex
	cond    *sync.Cond        // signalled after each pass, and when closed
	steps   []*step           // sealed, not stored, oldest first
	bad     map[uint64]*retry // by inode: contents that could not be stored
	later   map[uint64]bool   // by inode: contents that were put off
	drains  map[*drain]struct{}
	passes  uint64 // that have begun
	ended   uint64
	done    uint64 // number of the last pass that left nothing to do, or failed
	lastErr error  // of pass `done` as a whole
	left    int64  // bytes that wait, as last counted
	stored  uint64 // contents so far
	closed  bool
	rests   bool // after a failed pass

	pressed atomic.Bool // room is scarce: what snapshots hold is due, whatever its age

	// Changed by the goroutine of run alone:
	scan  time.Time // until then no content becomes due by its age
	room  uint64    // free when no two steps waited, hot copies among it
	hasty bool      // what is stored now is stored as fast as it can be
}

// step is a sealed snapshot that is not stored yet.
type step struct {
	seq uint64
	retry
	barrier bool // it is to be published all the same
}

// retry says when what failed is tried again.
type retry struct {
	err  error
	next time.Time
	wait time.Duration
}

const firstRetry, lastRetry = time.Second, time.Minute

func (r *retry) failed(err error) {
	r.err = err
	r.wait = min(max(2*r.wait, firstRetry), lastRetry)
	r.next = time.Now().Add(r.wait)
}

func (r *retry) due(now time.Time) bool { return !now.Before(r.next) }

func newStorer(m *Manager) *storer {
	s := &storer{m: m, nudge: make(chan struct{}, 1), hurry: make(chan struct{}, 1), bad: map[uint64]*retry{}, later: map[uint64]bool{}, drains: map[*drain]struct{}{}}
	s.cond = sync.NewCond(&s.mu)
	return s
}

// load finds the steps that an earlier daemon sealed and did not store.
func (s *storer) load() error {
	const page = 1024
	for after := uint64(0); ; {
		is, err := s.m.Barriers(after, page)
		if err != nil {
			return err
		}
		for _, i := range is {
			if i.Name != "" && i.State != StateStored && i.Forgotten == nil {
				s.steps = append(s.steps, &step{seq: i.Seq})
			}
			after = i.Seq
		}
		if len(is) < page {
			return nil
		}
	}
}

// sealed queues a step, once.
func (s *storer) sealed(seq uint64) {
	s.mu.Lock()
	if !slices.ContainsFunc(s.steps, func(st *step) bool { return st.seq == seq }) {
		s.steps = append(s.steps, &step{seq: seq})
	}
	s.mu.Unlock()
	s.wake()
}

// barrier queues a barrier that is to be published.
func (s *storer) barrier(seq uint64) {
	s.mu.Lock()
	s.steps = append(s.steps, &step{seq: seq, barrier: true})
	s.mu.Unlock()
	s.wake()
}

// press has everything stored that a snapshot holds, and not only what is due.
// What the live tree alone has waits on: the job may be about to delete it, and
// would get dead packs for it.
func (s *storer) press() {
	s.pressed.Store(true)
	s.wake()
}

// progress waits until a pass ends, but not for long. It says how many contents
// were stored so far, and whether more are about to be.
func (s *storer) progress(ctx context.Context) (stored uint64, more bool) {
	stop := context.AfterFunc(ctx, s.cond.Broadcast)
	defer stop()
	timer := time.AfterFunc(progressWait, s.cond.Broadcast)
	defer timer.Stop()
	begin := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	ended := s.ended
	for {
		more = !s.rests && (s.pressed.Load() || s.passes != s.ended)
		if s.closed || ctx.Err() != nil || !more || s.ended != ended || time.Since(begin) >= progressWait {
			return s.stored, more
		}
		s.cond.Wait()
	}
}

// progressWait bounds how long progress waits: others ask the evictor, too.
const progressWait = 100 * time.Millisecond

// newest is the newest snapshot; 0: there is none.
func (m *Manager) newest() (seq uint64, err error) {
	it, err := m.db.NewIter([]byte{schema.PrefixSnapshot}, []byte{schema.PrefixSnapshot + 1})
	if err != nil {
		return 0, err
	}
	if it.Last() {
		seq, err = schema.ParseNumbered(it.Key())
	}
	return seq, errors.Join(err, it.Error(), it.Close())
}

func (s *storer) wake() {
	select {
	case s.nudge <- struct{}{}:
	default:
	}
}

// idleTick is how often storer and evictor look at the clock and at the disk.
const idleTick = 5 * time.Second

// run stores what is due until ctx ends.
func (s *storer) run(ctx context.Context) {
	tick := time.NewTicker(idleTick)
	defer tick.Stop()
	var broken retry
	for ctx.Err() == nil {
		s.mu.Lock()
		s.passes++
		s.mu.Unlock()
		more, err := s.pass(ctx)
		if ctx.Err() != nil {
			break
		}
		s.m.fault("store", err)
		s.mu.Lock()
		if !more || err != nil {
			s.done, s.lastErr = s.passes, err
		}
		s.ended++
		s.cond.Broadcast()
		s.mu.Unlock()
		switch {
		case err != nil: // not in a tight loop
			broken.failed(err)
			s.rest(true)
			s.sleep(ctx, broken.wait)
			s.rest(false)
			continue
		case more:
			continue
		}
		broken = retry{}
		select {
		case <-ctx.Done():
		case <-s.nudge:
		case <-tick.C:
		}
	}
	s.mu.Lock()
	s.closed = true
	s.cond.Broadcast()
	s.mu.Unlock()
}

func (s *storer) rest(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rests = on
}

func (s *storer) sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-s.hurry:
	case <-time.After(d):
	}
}

// pass stores one batch, and finishes a step that is complete with it. more
// says that it did not do all.
func (s *storer) pass(ctx context.Context) (more bool, err error) {
	st, goal := s.target()
	batch, pressed, more, err := s.collect(goal)
	if err != nil {
		return false, err
	}
	var errs []error
	if len(batch) > 0 {
		haste, err := s.haste(pressed)
		s.hasty = pressed
		s.m.cfg.Chunks.Hurry(haste)
		errs = append(errs, err, s.ingest(ctx, batch))
		more = more || s.putOff()
		s.m.evict.wake() // there are more hot copies, and more packs
	}
	if !more && st != nil {
		// Even after an error: one content that can't be read does not keep a
		// step back that does not name it.
		errs = append(errs, s.finish(ctx, st))
		more = true // perhaps another step is due
	}
	return more, errors.Join(errs...)
}

// putOff says whether contents have been put off.
func (s *storer) putOff() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.later) > 0
}

// finish marks a waiting step as stored if all that it names is: with its
// accounts, and its tree in packs.
func (s *storer) finish(ctx context.Context, st *step) error {
	s.m.pin(st.seq, 1) // it does not expire while its tree is written
	defer s.m.pin(st.seq, -1)
	info, err := s.m.Get(st.seq)
	if errors.Is(err, ErrNotExist) || err == nil && !st.barrier && (info.Name == "" || info.Forgotten != nil) {
		s.remove(st)
		if st.barrier {
			s.m.publisher.failBarrier(st.seq, err)
		}
		return nil
	}
	if err == nil && !(st.barrier && info.State == StateStored) { // a step that is stored may be a barrier's, too
		err = s.m.writeTree(ctx, info)
	}
	if err == nil {
		s.remove(st)
		if !st.barrier {
			s.m.verifySoon(info)
		}
		s.m.publisher.wake()
		return nil
	}
	if ctx.Err() != nil {
		return nil // the next daemon does it
	}
	err = fmt.Errorf("store %s: %w", info.ID(), err)
	if st.barrier { // whoever waits for it is told, and may try again
		s.remove(st)
		s.m.publisher.failBarrier(st.seq, err)
		return nil
	}
	s.mu.Lock()
	st.failed(err)
	s.mu.Unlock()
	s.m.fault("store", err) // the step is tried again: no failure of the pass
	return nil
}

func (s *storer) remove(st *step) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, t := range s.steps {
		if t == st {
			s.steps = append(s.steps[:i:i], s.steps[i+1:]...)
			return
		}
	}
}

// amend changes a snapshot's record, if it has not expired meanwhile.
func (m *Manager) amend(seq uint64, change func(s *schema.Snapshot)) error {
	return m.amendTx(seq, func(_ *state.Tx, s *schema.Snapshot) error { change(s); return nil })
}

// amendTx is amend with what goes with it in one transaction.
func (m *Manager) amendTx(seq uint64, change func(tx *state.Tx, s *schema.Snapshot) error) error {
	_, err := m.db.Update(schema.KindRegistry, func(tx *state.Tx) error {
		s, err := readSnapshot(tx, seq)
		if errors.Is(err, ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := change(tx, s); err != nil {
			return err
		}
		tx.Put(schema.Numbered(schema.PrefixSnapshot, seq), s.Encode())
		return nil
	})
	if err != nil {
		return fmt.Errorf("change the record of snapshot %d: %w", seq, err)
	}
	return nil
}

// Progress says how many bytes wait to be stored, as last counted, and how
// many steps.
func (m *Manager) Progress() (left int64, steps int) {
	m.store.mu.Lock()
	defer m.store.mu.Unlock()
	return m.store.left, len(m.store.steps)
}
