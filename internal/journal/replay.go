package journal

import "fmt"

// Replay calls fn for every record behind from that Open found, in order, with
// the position behind the record. from is 0 or a position that Append returned.
// payload is fn's only until fn returns. An error of fn ends the replay and is
// returned as it is. Replay is for the time before the first Append.
func (l *Log) Replay(from Pos, fn func(pos Pos, payload []byte) error) error {
	if err := l.usable(); err != nil {
		return err
	}
	l.mu.Lock()
	live := append([]liveSegment(nil), l.mu.live...)
	started := l.cur != nil
	l.mu.Unlock()
	if started {
		return ErrStarted
	}
	if from > l.End() {
		return fmt.Errorf("%w: replay from %d, the log ends at %d", ErrBeyondEnd, from, l.End())
	}
	if len(live) > 0 && from < live[0].prevEnd {
		return l.missingBelow(from, live[0])
	}
	for _, s := range live {
		if s.end <= from {
			continue
		}
		if err := l.replaySegment(s, from, fn); err != nil {
			return err
		}
	}
	return nil
}

// missingBelow tells a segment that was trimmed from one whose header is broken.
func (l *Log) missingBelow(from Pos, oldest liveSegment) error {
	name := segmentName(oldest.prev)
	for _, f := range l.leftovers {
		if f.name == name {
			return &CorruptError{File: l.path(name), Reason: fmt.Sprintf(
				"its header does not read back, but records from %d on are wanted", from)}
		}
	}
	return fmt.Errorf("%w: replay from %d, the oldest record is at %d", ErrTrimmed, from, oldest.first)
}

func (l *Log) replaySegment(s liveSegment, from Pos, fn func(Pos, []byte) error) error {
	path := l.path(segmentName(s.number))
	sr, err := openSegmentReader(l.fs, path, s.number)
	if err != nil {
		return err
	}
	defer sr.close()
	pos := max(from, s.first)
	for pos < s.end {
		off := segmentHeaderLen + int64(pos-s.first)
		h, payload, ok, err := sr.record(off)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if !ok {
			return &CorruptError{File: path, Offset: off, Reason: "no record starts here"}
		}
		pos += Pos(recordSize(int64(h.length)))
		if h.kind != kindData {
			continue
		}
		if err := fn(pos, payload); err != nil {
			return err
		}
	}
	return nil
}
