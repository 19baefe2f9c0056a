package journal

// Trim gives up whole segments whose records all lie at or below before: they
// become spares or are deleted. The newest segment always stays, since it alone
// knows the position. Trim waits for the disk; call it from the background.
func (l *Log) Trim(before Pos) error {
	if err := l.usable(); err != nil {
		return err
	}
	if err := l.start(); err != nil {
		return err
	}
	if !l.canTrim(before) {
		return nil
	}
	// What stays must be able to tell the position by itself after a crash:
	// trimmable asks for that, and without a sync would rarely find it so.
	if err := l.Sync(l.End()); err != nil {
		return err
	}
	l.dirMu.Lock()
	defer l.dirMu.Unlock()
	for {
		if err := l.usable(); err != nil {
			return err
		}
		victim, ok := l.trimmable(before)
		if !ok {
			return nil
		}
		if err := l.retire(segmentName(victim.number), victim.size, true); err != nil {
			return err
		}
		l.mu.Lock()
		l.mu.live = l.mu.live[1:]
		l.mu.Unlock()
	}
}

// canTrim tells whether there may be something to trim below before.
func (l *Log) canTrim(before Pos) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.mu.live) > 1 && l.mu.live[0].end <= before
}

// trimmable returns the oldest segment if it may go: nothing in it is wanted, it
// is durable, and so is the header of the one after it, which may be on its way
// to disk at this moment.
func (l *Log) trimmable(before Pos) (victim liveSegment, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.mu.live) < 2 {
		return victim, false
	}
	victim, next := l.mu.live[0], l.mu.live[1]
	return victim, victim.end <= before && (next.found || next.first < l.Synced())
}
