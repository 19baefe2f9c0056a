package stage

import (
	"sync"

	"stepfs/internal/schema"
)

// A reader who goes through a file from chunk to chunk gets those that come next
// decoded while it reads. That takes the work of a chunk from whoever reads here
// and there, so it begins at the second step from one chunk to the next.

const (
	walkSteps  = 2 // in a row make a walk
	walkChunks = 8 // that come next are asked for, as far as there is room
)

// walk is where a generation was read last.
type walk struct {
	mu         sync.Mutex
	start, end int64 // of the chunk
	steps      int
}

// step notes that a chunk is read, and says whether that is a step of a walk. The
// kernel asks for several pieces at a time: that one of the chunk before comes
// late ends no walk.
func (w *walk) step(e schema.ChunkExtent) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	end := e.Off + int64(e.Len)
	switch {
	case e.Off == w.start && end == w.end || end == w.start:
		return false
	case e.Off == w.end && e.Off > 0:
		w.steps++
	default:
		w.steps = 0
	}
	w.start, w.end = e.Off, end
	return w.steps >= walkSteps
}

// readAhead has the chunks behind e decoded, if this is a walk through m.
func (gt *genTable) readAhead(g *generation, m *mapReader, e schema.ChunkExtent) {
	if !g.walk.step(e) {
		return
	}
	for range walkChunks {
		next := e.Off + int64(e.Len)
		if next >= g.rec.Stored {
			return
		}
		var err error
		if e, err = m.at(next); err != nil || !gt.t.cfg.Chunks.Prefetch(e.ID, e.Raw) {
			return // a hole, or enough is under way; whoever reads there learns of errors
		}
	}
}
