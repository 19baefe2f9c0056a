package stage

import (
	"fmt"
	"sync"
	"time"
)

// spaceGauge answers writers whether the disk has room, without asking it each
// time: it asks again every spaceAge, or once spaceStep bytes were admitted.
type spaceGauge struct {
	cfg Config
	mu  struct {
		sync.Mutex
		space    Space
		at       time.Time
		admitted uint64
	}
}

const (
	spaceAge  = 200 * time.Millisecond
	spaceStep = 16 << 20
	// minInodes is how many inodes of the disk stay free for journal, index
	// and packs.
	minInodes = 256
)

func (s *spaceGauge) init(cfg Config) error {
	s.cfg = cfg
	sp, err := cfg.Disk.Space()
	if err != nil {
		return wrapDisk(err)
	}
	if s.cfg.Reserve == 0 {
		s.cfg.Reserve = min(128<<20, sp.Total/20)
	}
	s.mu.space, s.mu.at = sp, time.Now()
	return nil
}

// admit says ErrNoSpace if n more bytes would eat into the reserve.
func (s *spaceGauge) admit(n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.admitted += uint64(n)
	if s.mu.admitted > spaceStep || time.Since(s.mu.at) > spaceAge {
		sp, err := s.cfg.Disk.Space()
		if err != nil {
			return wrapDisk(err)
		}
		s.mu.space, s.mu.at, s.mu.admitted = sp, time.Now(), uint64(n)
	}
	sp := s.mu.space
	if sp.Free < s.cfg.Reserve+s.mu.admitted {
		return fmt.Errorf("%w: %d bytes free, %d of them reserved", ErrNoSpace, sp.Free, s.cfg.Reserve)
	}
	if sp.Files > 0 && sp.FilesFree < minInodes {
		return fmt.Errorf("%w: %d inodes free", ErrNoSpace, sp.FilesFree)
	}
	return nil
}

// free gives the disk's size and what writers may still use of it.
func (s *spaceGauge) free() (Space, error) {
	sp, err := s.cfg.Disk.Space()
	if err != nil {
		return Space{}, wrapDisk(err)
	}
	sp.Free -= min(sp.Free, s.cfg.Reserve)
	sp.FilesFree -= min(sp.FilesFree, minInodes)
	return sp, nil
}

// StatFS gives true numbers of the disk below, less the store's reserve.
func (t *Tree) StatFS() (StatFS, error) {
	sp, err := t.space.free()
	if err != nil {
		return StatFS{}, err
	}
	const b = 4096
	return StatFS{Blocks: sp.Total / b, Bfree: sp.Free / b, Bavail: sp.Free / b,
		Files: sp.Files, Ffree: sp.FilesFree, Bsize: b}, nil
}
