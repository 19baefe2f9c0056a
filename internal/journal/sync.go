package journal

import "fmt"

// Sync returns when every record up to upTo is durable. Callers that arrive
// while a sync is running share the next one: the running one may have started
// before their record was written, and then says nothing about it. A failed sync
// fails everyone, for good: what reached the disk is unknown, and the kernel
// would report the next one as a success.
func (l *Log) Sync(upTo Pos) error {
	if err := l.usable(); err != nil {
		return err
	}
	if err := l.start(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		if err := l.usable(); err != nil {
			return err
		}
		if l.Synced() >= upTo {
			return nil
		}
		if end := l.End(); upTo > end {
			return fmt.Errorf("%w: sync up to %d, the log ends at %d", ErrBeyondEnd, upTo, end)
		}
		if l.mu.syncing {
			l.mu.changed.Wait()
			continue
		}
		l.syncLocked()
	}
}

// syncLocked makes everything written so far durable; mu is given up meanwhile.
func (l *Log) syncLocked() {
	l.mu.syncing = true
	// Read the end before the sync starts, and the segments after the end: a
	// record counts once it is written, and its segment was listed before that.
	target := l.end.Load()
	segs := append([]*segment(nil), l.mu.unsynced...)
	l.mu.Unlock()
	var err error
	for _, s := range segs { // oldest first: durability never skips a segment
		if err = s.file.SyncData(); err != nil {
			err = fmt.Errorf("sync segment %d: %w", s.number, err)
			break
		}
	}
	l.mu.Lock()
	l.mu.syncing = false
	l.mu.changed.Broadcast()
	if err != nil {
		_ = l.fail(err) // every waiter asks usable
		return
	}
	l.synced.Store(target)
	// All but the last had been rolled over when the sync started, so nothing
	// was or will be written to them any more.
	for _, s := range segs[:max(0, len(segs)-1)] {
		_ = s.file.Close() // synced: a failing close loses nothing
		l.mu.unsynced = l.mu.unsynced[1:]
	}
}
