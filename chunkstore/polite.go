package chunkstore

import (
	"io"
	"sync/atomic"
	"time"
)

const (
	// restTimes is how many times as long as a piece of an upload took the next one
	// is put off while somebody waits for the disk or the processors: all
	// uploadWorkers together then take a quarter of one.
	restTimes = 15
	// restMost bounds that: uploads are never stopped, since what is written all the
	// time has to arrive, too.
	restMost = 50 * time.Millisecond
)

// polite is a pack that is read to be uploaded: to be checked, hashed, and sent. All
// of that happens between one read and the next, so that is where it rests.
type polite struct {
	io.ReaderAt
	busy func() bool
	last atomic.Int64 // when the last read began, in ns
}

// Polite gives way to others, between one read and the next.
func (s *Store) Polite(r io.ReaderAt) io.ReaderAt { return s.polite(r) }

// polite gives way to others when a pack is read.
func (s *Store) polite(r io.ReaderAt) io.ReaderAt {
	if s.cfg.Busy == nil {
		return r
	}
	p := &polite{ReaderAt: r, busy: s.cfg.Busy}
	p.last.Store(time.Now().UnixNano())
	return p
}

func (p *polite) ReadAt(b []byte, off int64) (int, error) {
	if p.busy() {
		took := time.Duration(time.Now().UnixNano() - p.last.Load())
		time.Sleep(min(restTimes*took, restMost))
	}
	p.last.Store(time.Now().UnixNano())
	return p.ReaderAt.ReadAt(b, off)
}
