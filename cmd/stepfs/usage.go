package main

import (
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"stepfs/chunkstore"
	"stepfs/internal/state"
	"stepfs/internal/storedir"
)

// diskUse knows what a store takes on its disk outside the staging directory.
// Each part keeps its own account; only the few files that belong to none are
// looked at, and that seldom.
type diskUse struct {
	dir    string
	engine *state.Engine
	chunks *chunkstore.Store

	mu      sync.Mutex
	sum     int64
	at      time.Time
	other   int64
	otherAt time.Time
}

const (
	useAge   = 100 * time.Millisecond // writers at full speed ask more often than it changes
	otherAge = 10 * time.Second
)

// rest is what journal, index, packs and everything else take but staging.
func (u *diskUse) rest() int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	if time.Since(u.at) < useAge {
		return u.sum
	}
	if time.Since(u.otherAt) > otherAge {
		if n, err := otherFiles(u.dir); err == nil {
			u.other = n // else the last number does: it is a small one
		}
		u.otherAt = time.Now()
	}
	index, journal := u.engine.Usage()
	u.sum, u.at = index+journal+u.chunks.Local()+u.other, time.Now()
	return u.sum
}

// otherFiles gives what the files take that lie in the store directory itself,
// and all directories in it.
func otherFiles(dir string) (sum int64, err error) {
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // just deleted
		}
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err == nil {
			sum += st.Blocks * 512
		}
		rel, _ := filepath.Rel(dir, path)
		switch {
		case !e.IsDir():
		case rel == storedir.JournalDir, rel == storedir.IndexDir, rel == storedir.PacksDir, filepath.Dir(rel) == storedir.StagingDir:
			return fs.SkipDir // itself is counted; what is in it, by its owner
		}
		return nil
	})
	return sum, err
}

// countUse completes the statistics by what the store takes, class by class.
func (l *local) countUse(s *Stats) error {
	u, err := l.parts.tree.Usage()
	if err != nil {
		return err
	}
	if s.Other, err = otherFiles(l.dir.Path()); err != nil {
		return err
	}
	s.Index, s.Journal = l.parts.engine.Usage()
	s.Staging, s.Hot = u.Staged, u.Hot
	s.Data = int64(s.PackBytes) - s.Dead
	s.Total = s.Data + s.Dead + s.Staging + s.Index + s.Journal + s.Other
	return nil
}

// describeUse completes the status.
func (l *local) describeUse(s *Status) error {
	u, err := l.parts.tree.Usage()
	if err != nil {
		return err
	}
	s.Limit, s.Used, s.Free, s.Reserve = u.Limit, u.Used, u.Free, u.Reserve
	c := l.parts.chunks.Stats()
	s.PackBytes, s.Away, s.Hot = int64(c.Size), int64(c.Away), u.Hot
	if u.Lasts > 0 {
		s.Growth, s.Lasts = int64(u.Growth*3600), int64(u.Lasts/time.Second)
	}
	s.Unstored, err = l.unstored()
	return err
}
