package journal

import (
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// start is the passage from a log that was read to one that is written: it makes
// what Open found durable and takes away what lies behind its end. It runs once,
// before the first Append, Sync or Trim does anything.
func (l *Log) start() error {
	if l.started.Load() {
		return nil
	}
	l.dirMu.Lock()
	defer l.dirMu.Unlock()
	if l.started.Load() {
		return nil
	}
	if err := l.usable(); err != nil {
		return err
	}
	l.mu.Lock()
	live := slices.Clone(l.mu.live)
	l.mu.Unlock()
	if len(live) == 0 {
		if err := l.syncParent(); err != nil {
			return noSpace(err)
		}
	}
	for _, s := range live {
		if s.end <= l.rec.Synced {
			continue // no record knows itself durable, so this is never the last
		}
		if err := l.harden(s); err != nil {
			return l.fail(fmt.Errorf("make segment %d durable: %w", s.number, err))
		}
	}
	if err := l.clearLeftovers(); err != nil {
		return noSpace(err)
	}
	l.synced.Store(l.end.Load())
	l.started.Store(true)
	return nil
}

// harden makes a segment found by Open durable. After kill -9 its tail may be in
// the page cache alone, and, if a sync had failed there, in pages that the kernel
// takes for clean: so the part not known durable is written again, the same
// bytes to the same place, and then synced.
func (l *Log) harden(s liveSegment) error {
	f, err := l.fs.OpenReadWrite(l.path(segmentName(s.number)), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	off := int64(0)
	if l.rec.Synced > s.first {
		off = segmentHeaderLen + int64(l.rec.Synced-s.first)
	}
	to := segmentHeaderLen + int64(s.end-s.first)
	buf := make([]byte, min(scanWindow, max(0, to-off)))
	for off < to {
		b := buf[:min(int64(len(buf)), to-off)]
		if _, err = f.ReadAt(b, off); err != nil {
			break
		}
		if _, err = f.WriteAt(b, off); err != nil {
			break
		}
		off += int64(len(b))
	}
	if err == nil {
		err = f.SyncData()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// clearLeftovers takes everything that is not part of the log out of its way:
// spares of the last run, and segments behind a torn tail, whose positions will
// now be used again. A few become spares, under fresh numbers, since they may
// hold records that are valid under their own. The newest goes first, and the
// directory is synced after each, so that whatever a crash leaves is still a
// chain without a gap, ending in a torn tail.
func (l *Log) clearLeftovers() error {
	slices.SortFunc(l.leftovers, func(a, b leftover) int {
		if a.name > b.name {
			return -1
		}
		return 1
	})
	for len(l.leftovers) > 0 {
		f := l.leftovers[0]
		if err := l.retire(f.name, f.size, !f.tmp); err != nil {
			return err
		}
		l.leftovers = l.leftovers[1:]
	}
	return nil
}
