package chunkstore

import (
	"context"
	"runtime"
)

// maxLoads is how many chunks are read and decoded at a time, on as many cores:
// each has two or three chunks in memory.
func maxLoads() int { return max(4, min(runtime.GOMAXPROCS(0), 8)) }

// Prefetch begins to decode a chunk that somebody is about to read, unless that
// has been done. It says whether there was room for it. What goes wrong is for
// the one who reads it to find.
func (s *Store) Prefetch(id [32]byte, rawLen uint32) bool {
	if s.cache.has(id) {
		return true
	}
	select {
	case s.prefetches <- struct{}{}:
	default:
		return false
	}
	go func() {
		defer func() { <-s.prefetches }()
		e, err := s.cache.acquire(context.Background(), id, func() (*buffer, error) { return s.prefetch(id, rawLen) })
		if err == nil {
			s.cache.release(e)
		}
	}()
	return true
}

// prefetch waits for the bucket before it takes a place in the queue, as readers do.
func (s *Store) prefetch(id ID, rawLen uint32) (*buffer, error) {
	release, err := s.bring(s.far.spans.ctx, id)
	if err != nil {
		return nil, err
	}
	defer release()
	return s.load(id, rawLen)
}
