package snapshot

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"stepfs/chunkstore"
	"stepfs/internal/pace"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// The scrub reads all that is stored, so that damage is found while there may
// still be a second copy: first the packs, in the order of their numbers, then
// the hot copies, which readers get as long as they are there. Where one of the
// two is damaged, the other heals it: the chunk is stored again from a hot copy
// whose bytes have its name; a hot copy that is wrong goes if its chunks are
// whole, so that readers get those. What a reader meets damaged is healed at
// once in the same way (scrub_heal.go).
//
// It works at a rate, rests as other background work does, and gives way to
// whoever needs the disk by its thread's priority. Where it is outlives the
// daemon: a record for each pack.

const (
	scrubDays = 30              // in which the whole store is read, if no rate is given,
	scrubLow  = 1 << 20         // at so many bytes a second at least,
	scrubGap  = 24 * time.Hour  // and with this time from the begin of one pass to the next
	scrubWait = time.Second     // between two passes at a given rate
	scrubSave = 64              // hot copies between two records
	maxHeirs  = 1000            // holders of a chunk that are asked for a copy of it
	scrubCalm = time.Minute     // after a start, for recovery and the job's own start
	scrubFail = 5 * time.Minute // rest after an error
)

// ScrubReport says where the scrub is and how the last pass went.
type ScrubReport struct {
	Off  bool
	Rate int64 // bytes a second
	Done float64
	schema.Scrub
}

// ScrubPass is how a pass of the scrub went, or goes.
type ScrubPass = schema.ScrubPass

type scrubber struct {
	m     *Manager
	nudge chan struct{} // a reader met damage

	mu   sync.Mutex
	at   schema.Scrub
	last []uint64 // generations whose own copies may be the last of damaged chunks

	// Used by the goroutine of run alone:
	tried map[chunkstore.ID]bool // damaged chunks of which no other copy was found
	buf   []byte
	pace  *pace.Pace
	start time.Time // of what the rate is counted for
	read  int64
	rate  int64

	unhealed time.Time // when packs could not be fetched
}

func newScrubber(m *Manager) *scrubber {
	s := &scrubber{m: m, nudge: make(chan struct{}, 1), tried: map[chunkstore.ID]bool{}}
	v, err := m.db.Get(schema.MetaKey(schema.MetaScrub))
	if err == nil {
		s.at, err = schema.DecodeScrub(v)
	}
	if err != nil && !errors.Is(err, state.ErrNotFound) {
		m.fault("scrub", err) // begins afresh
	}
	return s
}

// ScrubReport looks.
func (m *Manager) ScrubReport() ScrubReport {
	s := m.scrub
	s.mu.Lock()
	defer s.mu.Unlock()
	r := ScrubReport{Off: m.cfg.ScrubRate < 0 || m.cfg.ReadOnly, Rate: s.wanted(), Scrub: s.at}
	switch {
	case r.Copies:
		r.Done = 1 // but for the hot copies
	case r.End > 0:
		r.Done = math.Min(1, float64(r.Pos)/float64(r.End))
	}
	return r
}

// wanted is the rate in bytes a second.
func (s *scrubber) wanted() int64 {
	if s.m.cfg.ScrubRate > 0 {
		return s.m.cfg.ScrubRate
	}
	return max(scrubLow, int64(s.m.cfg.Chunks.Stats().Size)/(scrubDays*24*60*60))
}

// run scrubs and heals until ctx ends.
func (s *scrubber) run(ctx context.Context) {
	BeNice()
	s.pace = pace.New(ctx, true)
	first := s.due()
	if s.m.cfg.ScrubRate == 0 {
		first = max(first, scrubCalm)
	}
	wait := time.NewTimer(first)
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.nudge:
			s.healAll(ctx)
			continue
		case <-wait.C:
		}
		next := scrubFail
		if err := s.pass(ctx); err == nil {
			next = s.due()
		} else if ctx.Err() == nil {
			s.m.fault("scrub", err)
		}
		wait.Reset(next)
	}
}

// due is how long it is until the next pass.
func (s *scrubber) due() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.m.cfg.ScrubRate < 0:
		return math.MaxInt64
	case s.at.Now.Began != 0 || s.at.Last.Began == 0:
		return 0 // one is under way, or there was none
	case s.m.cfg.ScrubRate > 0:
		return scrubWait
	}
	return max(0, time.Unix(0, s.at.Last.Began).Add(scrubGap).Sub(s.m.cfg.Now()))
}

// pass does what is left of a pass.
func (s *scrubber) pass(ctx context.Context) error {
	s.mu.Lock()
	s.rate, s.start, s.read = s.wanted(), time.Now(), 0
	if s.at.Now.Began == 0 {
		s.at = schema.Scrub{Now: schema.ScrubPass{Began: s.m.cfg.Now().UnixNano()}, Last: s.at.Last}
	}
	begin := time.Now()
	took := s.at.Now.Took
	s.mu.Unlock()
	worked := func() { s.at.Now.Took = took + int64(time.Since(begin)) }
	err := s.packs(ctx, worked)
	if err == nil {
		err = s.copies(ctx, worked)
	}
	if err != nil {
		return err
	}
	return s.save(func() {
		worked()
		s.at = schema.Scrub{Last: s.at.Now}
	})
}

// save changes where the scrub is, and records it.
func (s *scrubber) save(change func()) error {
	s.mu.Lock()
	change()
	v := s.at.Encode()
	s.mu.Unlock()
	_, err := s.m.db.Update(schema.KindRegistry, func(tx *state.Tx) error {
		tx.Put(schema.MetaKey(schema.MetaScrub), v)
		return nil
	})
	return err
}

// rest counts what was read, and waits as the rate and the pace have it.
func (s *scrubber) rest(ctx context.Context, bytes int64) error {
	s.mu.Lock()
	s.at.Now.Bytes += uint64(bytes)
	s.mu.Unlock()
	s.read += bytes
	due := s.start.Add(time.Duration(float64(s.read) / float64(s.rate) * float64(time.Second)))
	for left := time.Until(due); left > 0; left = time.Until(due) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.nudge:
			s.healAll(ctx)
		case <-time.After(left):
		}
		s.pace.Skip()
	}
	return s.pace.Rest()
}

// found tells of damage.
func (s *scrubber) found(err error) {
	s.mu.Lock()
	s.at.Now.Findings++
	s.mu.Unlock()
	s.m.fault("scrub found damage", err)
}

// packs reads the packs that there were when the pass began.
func (s *scrubber) packs(ctx context.Context, took func()) error {
	s.mu.Lock()
	pos, end, done := s.at.Pos, s.at.End, s.at.Copies
	s.mu.Unlock()
	if done {
		return nil
	}
	if end == 0 {
		for after := uint64(0); ; after = end {
			n, err := s.m.cfg.Chunks.NextPack(after)
			if err != nil {
				return err
			}
			if n == 0 {
				break
			}
			end = n
		}
		end++
	}
	for {
		n, err := s.m.cfg.Chunks.NextPack(pos)
		if err != nil {
			return err
		}
		if n == 0 || n >= end {
			return s.save(func() { s.at.Copies, s.at.Pos = true, 0 })
		}
		err = s.m.cfg.Chunks.Scrub(ctx, n, s.found, func(bytes int64) error { return s.rest(ctx, bytes) })
		if err != nil {
			return err
		}
		s.healAll(ctx)
		pos = n
		if err := s.save(func() { s.at.Pos, s.at.End = pos, end; took() }); err != nil {
			return err
		}
	}
}

// copies reads the hot copies.
func (s *scrubber) copies(ctx context.Context, took func()) error {
	for {
		s.mu.Lock()
		pos := s.at.Pos
		s.mu.Unlock()
		var gens []uint64
		err := s.m.tree.HotAfter(pos, func(gen uint64, _ int64) bool {
			gens = append(gens, gen)
			return len(gens) < scrubSave
		})
		if err != nil || len(gens) == 0 {
			return err
		}
		for _, gen := range gens {
			if err := s.copy(ctx, gen); err != nil {
				return err
			}
		}
		if err := s.save(func() { s.at.Pos = gens[len(gens)-1]; took() }); err != nil {
			return err
		}
	}
}

// copy holds a hot copy against the names of its chunks.
func (s *scrubber) copy(ctx context.Context, gen uint64) error {
	es, err := s.m.tree.CopyExtents(gen)
	if err != nil {
		return err
	}
	var bad []schema.ChunkExtent
	for _, e := range es {
		if !isWhole(e) {
			continue
		}
		plain, ok, err := s.readCopy(gen, e)
		if err != nil { // the disk does not give it; its chunks may be whole
			ok, err = s.m.tree.IsHot(gen)
			if err != nil {
				return err
			}
			plain = nil
		}
		switch {
		case !ok:
			return nil // it went
		case plain == nil || !s.m.cfg.Chunks.IsNamed(e.ID, plain):
			bad = append(bad, e)
		default:
			s.heal(ctx, e.ID, plain)
		}
		if err := s.rest(ctx, int64(e.Len)); err != nil {
			return err
		}
	}
	if len(bad) == 0 {
		return nil
	}
	return s.dropCopy(ctx, gen, es, bad)
}

// isWhole says whether an extent is all of its chunk.
func isWhole(e schema.ChunkExtent) bool { return e.Skip == 0 && e.Len == e.Raw }

// readCopy reads what a hot copy has of a chunk.
func (s *scrubber) readCopy(gen uint64, e schema.ChunkExtent) (plain []byte, ok bool, err error) {
	s.buf = slices.Grow(s.buf[:0], int(e.Len))[:e.Len]
	ok, err = s.m.tree.ReadCopy(gen, s.buf, e.Off)
	return s.buf, ok, err
}

// dropCopy gives up a hot copy of which some is wrong. From now on its chunks are
// read; it goes only once all of these were: until then it may be the last copy of
// one of them, in another place than where it is wrong.
func (s *scrubber) dropCopy(ctx context.Context, gen uint64, es, bad []schema.ChunkExtent) error {
	path := fmt.Sprintf("generation %d", gen)
	s.m.tree.Distrust(gen)
	s.found(fmt.Errorf("the hot copy of %s is not what was stored, at %d", path, bad[0].Off))
	lost := false
	var buf []byte
	for _, e := range es {
		var err error
		if buf, err = s.m.cfg.Chunks.ReadBack(ctx, e.ID, buf); err != nil && ctx.Err() == nil {
			lost = !s.healChunk(ctx, gen, e) || lost
		}
		if err := s.rest(ctx, int64(e.Len)); err != nil {
			return err
		}
	}
	if lost {
		return nil // both are damaged; that of the chunk was said
	}
	if err := s.m.tree.Evict(gen); err != nil {
		return err
	}
	hot, err := s.m.tree.IsHot(gen)
	if err != nil || hot {
		return err // it holds something that is not stored yet: the next pass sees to it
	}
	s.healed(fmt.Errorf("the hot copy of %s was dropped: its chunks are whole", path))
	return s.m.tree.UnlinkEvicted()
}
