package attach

import (
	"container/list"
	"sync"
)

// cachedBytes is how much is kept of directories that were looked at, as read;
// decoded they take several times as much.
const cachedBytes = 8 << 20

// objectCache keeps decoded directory objects, the one used last longest. What
// is the same in two snapshots is one object.
type objectCache struct {
	mu    sync.Mutex
	all   map[[32]byte]*list.Element
	order list.List // of *cachedObject, the one used last in front
	bytes int64
}

type cachedObject struct {
	id   [32]byte
	size int64
	v    any // published.Page or published.Dir
}

func (c *objectCache) init() { c.all = map[[32]byte]*list.Element{} }

func (c *objectCache) get(id [32]byte) any {
	c.mu.Lock()
	defer c.mu.Unlock()
	el := c.all[id]
	if el == nil {
		return nil
	}
	c.order.MoveToFront(el)
	return el.Value.(*cachedObject).v
}

func (c *objectCache) put(id [32]byte, size int64, v any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all[id] != nil {
		return
	}
	c.all[id] = c.order.PushFront(&cachedObject{id, size, v})
	for c.bytes += size; c.bytes > cachedBytes && c.order.Len() > 1; {
		last := c.order.Remove(c.order.Back()).(*cachedObject)
		delete(c.all, last.id)
		c.bytes -= last.size
	}
}
