package fs

import (
	"bytes"
	"io"
	"os"
	"sync"
	"unsafe"
)

// bufferPool hands out large buffers of one size, at most max of them at a
// time: it is what bounds the memory of concurrent large requests. Freed
// buffers are kept, last one first, so that a quiet server touches few.
type bufferPool struct {
	size, align int
	mu          sync.Mutex
	free        [][]byte
	out, max    int
	returned    sync.Cond
}

// newBufferPool makes a pool of buffers of size bytes, whose byte at offset
// align begins a page.
func newBufferPool(max, size, align int) *bufferPool {
	p := &bufferPool{max: max, size: size, align: align}
	p.returned.L = &p.mu
	return p
}

// get takes a buffer, waiting for one when all are in use.
func (p *bufferPool) get() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.out == p.max {
		p.returned.Wait()
	}
	p.out++
	if n := len(p.free); n > 0 {
		b := p.free[n-1]
		p.free = p.free[:n-1]
		return b
	}
	page := os.Getpagesize()
	b := make([]byte, p.size+page)
	misfit := (int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) + p.align) % page
	skip := (page - misfit) % page
	return b[skip : skip+p.size : skip+p.size]
}

// put gives a buffer back.
func (p *bufferPool) put(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = append(p.free, b)
	p.out--
	p.returned.Signal()
}

// lineWriter passes what is written, line by line, to a func.
type lineWriter func(line string)

func (w lineWriter) Write(b []byte) (int, error) {
	w(string(bytes.TrimRight(b, "\n")))
	return len(b), nil
}

// loggerTo makes a logger of the type that go-fuse's options want (a
// *log.Logger, which this package does not import: the core does not log),
// whose lines go to fn.
func loggerTo[L any, P interface {
	*L
	SetOutput(io.Writer)
}](_ P, fn func(line string)) P {
	p := P(new(L))
	p.SetOutput(lineWriter(fn))
	return p
}
