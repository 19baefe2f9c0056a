package chunkstore

import (
	"math/bits"
	"sync"
)

// bufferPool keeps buffers for reuse, because the first touch of new memory
// costs more than decoding into it. Buffers come in classes, four to each
// power of two, so that at most a fifth of one is unused.
type bufferPool struct {
	mu   sync.Mutex
	free map[int][]*buffer // by capacity
	held int64
	max  int64
}

// buffer is a slice from the pool; its capacity is its class.
type buffer struct{ bytes []byte }

// content gives the bytes of a buffer, which may be nil.
func (b *buffer) content() []byte {
	if b == nil {
		return nil
	}
	return b.bytes
}

func newBufferPool(max int64) *bufferPool {
	return &bufferPool{free: make(map[int][]*buffer), max: max}
}

// class rounds n up to the capacity of its class.
func class(n int) int {
	const smallest = 4 << 10
	if n <= smallest {
		return smallest
	}
	step := 1 << (bits.Len(uint(n-1)) - 3)
	return (n + step - 1) / step * step
}

// get gives a buffer of n bytes whose content is arbitrary. One that is up to
// three classes too large is better than a new one.
func (p *bufferPool) get(n int) *buffer {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := class(n)
	for range 4 {
		if l := p.free[c]; len(l) > 0 {
			b := l[len(l)-1]
			p.free[c] = l[:len(l)-1]
			p.held -= int64(c)
			b.bytes = b.bytes[:n]
			return b
		}
		c = class(c + 1)
	}
	return &buffer{bytes: make([]byte, n, class(n))}
}

// put takes a buffer back, or leaves it to the collector when enough are kept.
func (p *bufferPool) put(b *buffer) {
	if b == nil {
		return
	}
	c := cap(b.bytes)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held+int64(c) > p.max {
		return
	}
	p.held += int64(c)
	p.free[c] = append(p.free[c], b)
}
