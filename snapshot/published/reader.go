package published

import (
	"context"
	"sync"
	"sync/atomic"
)

const (
	aheadShare = 4       // of what was read in order, so many times is fetched ahead
	outOfOrder = 4 << 20 // how far apart requests are that the kernel makes at once
)

// Run is how much was read of a snapshot, one file after the other, up to the
// end of the last. Readers of programs share one: who has read files whole is
// believed to read the next one, too.
type Run struct{ bytes atomic.Int64 }

// reader finds out whether a file is read in order. Restore reads all that it
// announces; programs may look at the head of each file and go.
type reader struct {
	mu    sync.Mutex
	begun bool
	end   int64 // of the last read
	run   int64 // bytes read in order
	whole bool  // up to the file's end
}

// ReadInOrder is ReadAt for readers of whom nothing is known: what comes next is
// fetched ahead as far as they have read in order.
func (f *File) ReadInOrder(ctx context.Context, dst []byte, off int64, run *Run) (int, error) {
	n := min(int64(len(dst)), max(0, f.size-off))
	return f.read(ctx, dst, off, n+f.reader.window(off, n, f.size, run))
}

// window notes a read, and says how much to fetch behind it.
func (r *reader) window(off, n, size int64, run *Run) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch near := off - r.end; {
	case !r.begun && off == 0:
		r.run = run.bytes.Load()
		fallthrough
	case r.begun && -outOfOrder <= near && near <= outOfOrder:
		r.run += n
	default:
		r.run = 0
	}
	r.begun, r.end = true, off+n
	if off+n >= size && !r.whole {
		r.whole = true
		run.bytes.Store(r.run)
	}
	return min(aheadBytes, aheadShare*r.run)
}

// Leave ends reading: one that did not come to the end is no reason to expect
// more.
func (f *File) Leave(run *Run) {
	f.reader.mu.Lock()
	defer f.reader.mu.Unlock()
	if !f.reader.whole && f.size > 0 {
		run.bytes.Store(0)
	}
}
