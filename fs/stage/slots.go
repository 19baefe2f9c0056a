package stage

import (
	"sync/atomic"
	"time"
)

// slots bounds how many staging files are open. A process that has used up its
// descriptors can't rotate its journal, which would end the store.
type slots struct {
	max     int64 // 0: any number
	open    atomic.Int64
	relieve func() bool // closes files that nobody needs open, or has them synced
}

// slotPatience bounds how long a write waits for others' files to be synced and
// closed.
const slotPatience = 10 * time.Second

// take waits until one more may be open. ErrTooManyFiles: none was closed.
func (s *slots) take() error {
	for end := time.Now().Add(slotPatience); s.open.Add(1) > s.max && s.max > 0; {
		s.open.Add(-1)
		if s.relieve == nil || !s.relieve() && time.Now().After(end) {
			return ErrTooManyFiles
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// relieve closes staging files that are not in use, and has those synced that
// can't be closed before: a descriptor is what a failed sync is told through. It
// says whether it closed any.
func (t *Tree) relieve() (closed bool) {
	gt := &t.gens
	gt.mu.Lock()
	defer gt.mu.Unlock()
	for id, g := range gt.all {
		switch {
		case g.refs > 0 || g.failed.Load() != nil:
		case g.marked:
			t.settler.add(g.rec.Ino)
		case g.file != nil:
			_ = g.file.Close() // everything in it is synced
			delete(gt.all, id)
			closed = true
		}
	}
	return closed
}
