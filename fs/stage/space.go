package stage

import (
	"fmt"
	"sync"
	"time"
)

// spaceGauge answers writers whether the disk has room: for what they write,
// for the pack space that staged bytes will need once more, and for the
// reserve. So the disk is full at write(2), when the job can be told, and not
// at ingest, when it can't.
//
// It asks the disk again every spaceAge, or once spaceStep bytes were
// admitted. What staged bytes need it knows as an upper bound (all that was
// written since the last count), and counts only when that bound says no.
type spaceGauge struct {
	disk    Disk
	reserve uint64
	count   func() (int64, error) // bytes that no pack holds yet
	mu      struct {
		sync.Mutex
		space    Space
		asked    time.Time // when the disk was asked
		admitted uint64    // since then
		unstored uint64    // when they were last counted
		counted  time.Time
		written  uint64 // since then
	}
}

const (
	spaceAge  = 200 * time.Millisecond
	spaceStep = 16 << 20
	countAge  = 100 * time.Millisecond
	// minInodes is how many inodes of the disk stay free for journal, index
	// and packs.
	minInodes = 256
)

func (s *spaceGauge) init(cfg Config, count func() (int64, error)) error {
	sp, err := cfg.Disk.Space()
	if err != nil {
		return wrapDisk(err)
	}
	s.disk, s.reserve, s.count = cfg.Disk, cfg.Reserve, count
	if s.reserve == 0 {
		s.reserve = min(128<<20, sp.Total/20)
	}
	s.mu.space, s.mu.asked = sp, time.Now()
	return nil
}

// admit says ErrNoSpace if n more bytes would eat into what is spoken for. The
// caller holds no lock of an inode.
func (s *spaceGauge) admit(n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.admitted += uint64(n)
	s.mu.written += uint64(n)
	if s.mu.admitted > spaceStep || time.Since(s.mu.asked) > spaceAge {
		if err := s.ask(uint64(n)); err != nil {
			return err
		}
	}
	if s.fits() {
		return nil
	}
	if time.Since(s.mu.counted) > countAge {
		if err := s.recount(uint64(n)); err != nil {
			return err
		}
	}
	if s.fits() {
		return nil
	}
	s.mu.admitted -= min(s.mu.admitted, uint64(n)) // it will not be written
	s.mu.written -= min(s.mu.written, uint64(n))
	sp := s.mu.space
	if sp.Files > 0 && sp.FilesFree < minInodes {
		return fmt.Errorf("%w: %d inodes free", ErrNoSpace, sp.FilesFree)
	}
	return fmt.Errorf("%w: %d bytes free, %d of them reserved, %d for packs of what is staged", ErrNoSpace,
		sp.Free, s.reserve, s.mu.unstored+s.mu.written)
}

// fits says whether what was admitted has room. mu is held.
func (s *spaceGauge) fits() bool {
	sp := s.mu.space
	return sp.Free >= s.reserve+s.mu.admitted+s.mu.unstored+s.mu.written && (sp.Files == 0 || sp.FilesFree >= minInodes)
}

// ask asks the disk; n bytes are about to be written. mu is held.
func (s *spaceGauge) ask(n uint64) error {
	sp, err := s.disk.Space()
	if err != nil {
		return wrapDisk(err)
	}
	s.mu.space, s.mu.asked, s.mu.admitted = sp, time.Now(), n
	return nil
}

// recount counts what staged bytes need. mu is held, and released meanwhile.
func (s *spaceGauge) recount(n uint64) error {
	before := s.mu.written
	s.mu.Unlock()
	sum, err := s.count()
	s.mu.Lock()
	if err != nil {
		return err
	}
	// What was written while it was counted may or may not be in the sum.
	s.mu.unstored, s.mu.counted = uint64(sum), time.Now()
	s.mu.written -= min(s.mu.written, before)
	s.mu.written += n
	return s.ask(n)
}

// room gives the disk's state with what a writer may still use as free.
func (s *spaceGauge) room() (Space, error) {
	sum, err := s.count()
	if err != nil {
		return Space{}, err
	}
	sp, err := s.disk.Space()
	if err != nil {
		return Space{}, wrapDisk(err)
	}
	sp.Free -= min(sp.Free, s.reserve+uint64(sum))
	sp.FilesFree -= min(sp.FilesFree, minInodes)
	return sp, nil
}

// unstored counts the bytes that will need pack space: frozen content that
// waits for ingest, and what is being written.
func (t *Tree) unstored() (sum int64, err error) {
	err = t.Pending(func(f *Frozen) bool { sum += f.p.Content.Alloc; return true })
	for _, n := range t.inodes.open() {
		n.mu.RLock()
		if rec := n.rec; rec != nil && isReg(rec) && (rec.Committed == nil || rec.Committed.Gen != rec.Live.Gen) {
			sum += rec.Live.Alloc
		} else if rec != nil && isReg(rec) {
			sum += max(0, rec.Live.Alloc-rec.Committed.Alloc)
		}
		n.mu.RUnlock()
	}
	return sum, err
}

// StatFS gives true numbers of the disk below, less the store's reserve and
// the pack space that staged bytes will need. What a job may count on (Bavail)
// is half of what is free: a byte is staged before it is stored.
func (t *Tree) StatFS() (StatFS, error) {
	sp, err := t.space.room()
	if err != nil {
		return StatFS{}, err
	}
	const b = 4096
	return StatFS{Blocks: sp.Total / b, Bfree: sp.Free / b, Bavail: sp.Free / 2 / b,
		Files: sp.Files, Ffree: sp.FilesFree, Bsize: b}, nil
}

// FreeSpace gives the size of the disk below and what is free of it to
// writers, in bytes.
func (t *Tree) FreeSpace() (total, free uint64, err error) {
	sp, err := t.space.room()
	return sp.Total, sp.Free, err
}
