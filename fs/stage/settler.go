package stage

import (
	"sync"
	"sync/atomic"
	"time"
)

// settler syncs files in the background once they are closed, so that what a
// snapshot names becomes durable without anybody waiting for it.
//
// It must not get in the way of those who wait: a disk that has four gigabytes
// in its queue makes a small fsync wait for them. So it begins a moment after
// the close, hands the disk a few megabytes at a time, and pauses while a
// barrier is under way.
type settler struct {
	mu    sync.Mutex
	cond  *sync.Cond
	queue []closed
	in    map[uint64]bool
	busy  int
	quit  chan struct{}
	wg    sync.WaitGroup

	barriers atomic.Int32 // barriers under way
	lastEnd  atomic.Int64 // when the last one ended, in ns
	written  atomic.Int64 // when much was written last, in ns
}

// closed is a file that was closed at a time.
type closed struct {
	ino uint64
	at  time.Time
}

const (
	// settleWorkers is how many files are synced at a time.
	settleWorkers = 2
	// settleDelay is how long after a close its sync begins: a job that closes
	// a checkpoint and then syncs a small file finds the disk idle.
	settleDelay = 50 * time.Millisecond
	// settleStep is how much is handed to the disk at a time, in bytes: a few
	// milliseconds of work.
	settleStep = 4 << 20
	// settlePause bounds how long each step waits for barriers to end, so that
	// a stream of them can't keep files from settling for ever.
	settlePause = 100 * time.Millisecond
	// settleCalm is how long after a barrier the next one is expected.
	settleCalm = 10 * time.Millisecond

	// largeWrite is a write of a job that is in the middle of a checkpoint, and so
	// for busyAfter expected to go on.
	largeWrite = 64 << 10
	busyAfter  = 50 * time.Millisecond
)

func (s *settler) init() {
	s.cond, s.in, s.quit = sync.NewCond(&s.mu), map[uint64]bool{}, make(chan struct{})
}

func (s *settler) start(t *Tree) {
	for range settleWorkers {
		s.wg.Add(1)
		go s.run(t)
	}
}

func (s *settler) add(ino uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.in[ino] {
		s.in[ino] = true
		s.queue = append(s.queue, closed{ino, time.Now()})
		s.cond.Broadcast()
	}
}

// take gives the next file; ok is false at the end.
func (s *settler) take() (c closed, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) == 0 && !s.quitting() {
		s.cond.Wait()
	}
	if s.quitting() {
		return closed{}, false
	}
	c = s.queue[0]
	s.queue = s.queue[1:]
	delete(s.in, c.ino)
	s.busy++
	return c, true
}

func (s *settler) quitting() bool {
	select {
	case <-s.quit:
		return true
	default:
		return false
	}
}

func (s *settler) run(t *Tree) {
	defer s.wg.Done()
	for {
		c, ok := s.take()
		if !ok {
			return
		}
		t.fault("sync a closed file", t.settle(c.ino, func(f File) error {
			s.sleep(time.Until(c.at.Add(settleDelay)))
			return s.writeOut(f)
		}))
		s.mu.Lock()
		s.busy--
		s.cond.Broadcast()
		s.mu.Unlock()
	}
}

// sleep waits for d, or until the settler stops.
func (s *settler) sleep(d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-s.quit:
	case <-time.After(d):
	}
}

// writeOut has the disk write a file step by step. It promises nothing, the
// sync that follows does; but what failed here counts as a failed sync, since
// the kernel tells each descriptor only once.
func (s *settler) writeOut(f File) error {
	if m, ok := f.(*measured); ok {
		f = m.File
	}
	w, ok := f.(interface {
		Size() (int64, error)
		WriteOut(off, n int64) error
	})
	if !ok {
		return nil
	}
	size, err := w.Size()
	for off := int64(0); off < size && err == nil && !s.quitting(); off += settleStep {
		s.yield()
		err = w.WriteOut(off, settleStep)
	}
	return err
}

// yield waits while barriers are under way, or were a moment ago.
func (s *settler) yield() {
	for end := time.Now().Add(settlePause); time.Now().Before(end); s.sleep(time.Millisecond) {
		if s.quitting() || !s.barrierNow() {
			return
		}
	}
}

// barrierNow says whether barriers are under way, or were a moment ago.
func (s *settler) barrierNow() bool {
	return s.barriers.Load() != 0 || lately(&s.lastEnd, settleCalm)
}

// lately says whether a time, in ns, is less than d ago.
func lately(at *atomic.Int64, d time.Duration) bool {
	ago := time.Duration(time.Now().UnixNano() - at.Load())
	return ago >= 0 && ago <= d
}

// Busy says whether somebody waits for a barrier, or is writing much: what can
// wait better gives way.
func (t *Tree) Busy() bool { return t.settler.barrierNow() || lately(&t.settler.written, busyAfter) }

// barrierBegins and barrierEnds tell the settler to give way.
func (s *settler) barrierBegins() { s.barriers.Add(1) }

func (s *settler) barrierEnds() {
	s.lastEnd.Store(time.Now().UnixNano())
	s.barriers.Add(-1)
}

// wait returns once all that was added is settled.
func (s *settler) wait() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for (len(s.queue) > 0 || s.busy > 0) && !s.quitting() {
		s.cond.Wait()
	}
}

func (s *settler) stop() {
	s.mu.Lock()
	close(s.quit)
	s.cond.Broadcast()
	s.mu.Unlock()
	s.wg.Wait()
}
