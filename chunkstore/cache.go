package chunkstore

import (
	"container/list"
	"context"
	"sync"
)

// chunkCache keeps decoded, verified chunks, least recently used out first,
// and makes concurrent readers of one chunk share one load. Entries in use are
// never recycled; they may hold the cache over its limit for a moment.
type chunkCache struct {
	pool *bufferPool
	max  int64

	mu      sync.Mutex
	entries map[ID]*cached
	lru     list.List // of *cached that are loaded, most recently used in front
	bytes   int64     // of the buffers of entries in lru
}

type cached struct {
	id    ID
	refs  int
	elem  *list.Element // nil: not in the cache (being loaded, failed, or evicted in use)
	ready chan struct{} // closed when buf or err is set
	buf   *buffer
	err   error
}

func newChunkCache(max int64, pool *bufferPool) *chunkCache {
	return &chunkCache{pool: pool, max: max, entries: make(map[ID]*cached)}
}

// acquire gives the chunk, calling load if it is not there and nobody else is
// loading it. Every successful acquire needs a release.
func (c *chunkCache) acquire(ctx context.Context, id ID, load func() (*buffer, error)) (*cached, error) {
	c.mu.Lock()
	e := c.entries[id]
	if e != nil {
		e.refs++
		if e.elem != nil {
			c.lru.MoveToFront(e.elem)
		}
		c.mu.Unlock()
		return c.await(ctx, e)
	}
	e = &cached{id: id, refs: 1, ready: make(chan struct{})}
	c.entries[id] = e
	c.mu.Unlock()

	e.buf, e.err = load()
	c.loaded(e)
	if e.err != nil {
		return nil, e.err
	}
	return e, nil
}

func (c *chunkCache) loaded(e *cached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.err != nil {
		e.refs--
		delete(c.entries, e.id)
	} else if c.entries[e.id] == e {
		e.elem = c.lru.PushFront(e)
		c.bytes += int64(cap(e.buf.bytes))
		c.trimLocked()
	}
	close(e.ready)
}

func (c *chunkCache) await(ctx context.Context, e *cached) (*cached, error) {
	select {
	case <-e.ready:
	case <-ctx.Done():
		// The loader fills e later; whoever holds it last recycles it.
		c.release(e)
		return nil, ctx.Err()
	}
	if e.err != nil {
		c.release(e)
		return nil, e.err
	}
	return e, nil
}

// has says whether the chunk is there, or being loaded.
func (c *chunkCache) has(id ID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.entries[id] != nil
}

// peek is acquire without a load: nil if the chunk is not there.
func (c *chunkCache) peek(id ID) *cached {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[id]
	if e == nil || e.elem == nil {
		return nil
	}
	e.refs++
	c.lru.MoveToFront(e.elem)
	return e
}

func (c *chunkCache) release(e *cached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.refs--
	if e.elem == nil {
		c.recycleLocked(e)
		return
	}
	c.trimLocked()
}

// recycleLocked gives the buffer of an entry that left the cache back to the
// pool, once nobody reads it.
func (c *chunkCache) recycleLocked(e *cached) {
	if e.refs == 0 && c.entries[e.id] != e {
		c.pool.put(e.buf)
		e.buf = nil
	}
}

func (c *chunkCache) trimLocked() {
	for el := c.lru.Back(); el != nil && c.bytes > c.max; {
		e := el.Value.(*cached)
		el = el.Prev()
		if e.refs == 0 {
			c.removeLocked(e)
		}
	}
}

func (c *chunkCache) removeLocked(e *cached) {
	c.lru.Remove(e.elem)
	e.elem = nil
	delete(c.entries, e.id)
	c.bytes -= int64(cap(e.buf.bytes))
	c.recycleLocked(e)
}

// drop empties the cache; entries in use are recycled when they are released,
// and loads under way do not enter it.
func (c *chunkCache) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, e := range c.entries {
		if e.elem != nil {
			c.removeLocked(e)
		} else {
			delete(c.entries, id)
		}
	}
}
