package snapshot

import (
	"context"
	"fmt"
	"slices"
	"time"

	"stepfs/chunkstore"
	"stepfs/internal/schema"
)

// HealSoon has what readers met damaged healed, where that can be done. It does
// not wait.
func (m *Manager) HealSoon() {
	select {
	case m.scrub.nudge <- struct{}{}:
	default:
	}
}

// maxLast bounds what waits to be healed from; a pass comes by the rest.
const maxLast = 1000

// healFrom has damaged chunks of a generation stored again from its own copy. It does
// not wait.
func (m *Manager) healFrom(gen uint64) {
	s := m.scrub
	s.mu.Lock()
	if len(s.last) < maxLast && !slices.Contains(s.last, gen) {
		s.last = append(s.last, gen)
	}
	s.mu.Unlock()
	m.HealSoon()
}

// healAll looks for another copy of each damaged chunk: first that of the bucket,
// which makes the pack what it was.
func (s *scrubber) healAll(ctx context.Context) {
	s.healPacks(ctx)
	s.mu.Lock()
	last := s.last
	s.last = nil
	s.mu.Unlock()
	for _, gen := range last {
		es, err := s.m.tree.CopyExtents(gen)
		s.m.fault("scrub", err)
		for _, e := range es {
			if is, err := s.m.cfg.Chunks.IsDamaged(e.ID); is && err == nil {
				s.healChunk(ctx, gen, e)
			}
		}
	}
	ids, err := s.m.cfg.Chunks.Damaged()
	s.m.fault("scrub", err)
	for _, id := range ids {
		if s.tried[id] {
			continue // the walk over the hot copies may still find one
		}
		s.tried[id] = true
		holders, err := s.m.cfg.Chunks.Holders(id, maxHeirs)
		if err != nil {
			s.m.fault("scrub", err)
			return
		}
		for _, gen := range holders {
			if ctx.Err() != nil || !schema.IsTreeHolder(gen) && s.healFrom(ctx, gen, id) {
				break
			}
		}
	}
}

// healPacks has packs fetched again. When that fails it is not tried for a while.
func (s *scrubber) healPacks(ctx context.Context) {
	if time.Since(s.unhealed) < scrubFail {
		return
	}
	n, err := s.m.cfg.Chunks.HealPacks(ctx)
	if n > 0 {
		s.healed(fmt.Errorf("%d packs were fetched again from the bucket", n))
	}
	if err != nil && ctx.Err() == nil {
		s.unhealed = time.Now()
		s.m.fault("fetch damaged packs again", err)
	}
}

func (s *scrubber) healFrom(ctx context.Context, gen uint64, id chunkstore.ID) bool {
	es, err := s.m.tree.CopyExtents(gen)
	if err != nil {
		return false
	}
	for _, e := range es {
		if e.ID == id && s.healChunk(ctx, gen, e) {
			return true
		}
	}
	return false
}

// healChunk stores a damaged chunk again from what a hot copy has of it.
func (s *scrubber) healChunk(ctx context.Context, gen uint64, e schema.ChunkExtent) bool {
	if !isWhole(e) {
		return false
	}
	plain, ok, err := s.readCopy(gen, e)
	return err == nil && ok && s.m.cfg.Chunks.IsNamed(e.ID, plain) && s.heal(ctx, e.ID, plain)
}

// heal stores a chunk again if it is damaged. plain has its name.
func (s *scrubber) heal(ctx context.Context, id chunkstore.ID, plain []byte) bool {
	damaged, err := s.m.cfg.Chunks.IsDamaged(id)
	if err == nil && !damaged {
		return false
	}
	if err == nil {
		err = s.m.cfg.Chunks.Heal(ctx, id, plain)
	}
	if err != nil {
		if ctx.Err() == nil {
			s.m.fault("scrub", err)
		}
		return false
	}
	delete(s.tried, id)
	s.healed(fmt.Errorf("chunk %x was stored again, from a hot copy", id))
	return true
}

// healed tells of what was healed.
func (s *scrubber) healed(what error) {
	s.mu.Lock()
	s.at.Now.Healed++
	s.mu.Unlock()
	s.m.fault("healed", what)
}
