package journal

import (
	"fmt"
)

// keepBuffer is the largest record buffer that is kept for the next Append.
const keepBuffer = 2 << 20

// Append adds one record, the concatenation of parts, and returns the position
// behind it. When it returns, the record is in the kernel's hands: it survives
// the process, and Sync makes it survive a power cut. Calls must be serialised
// by the caller; Sync and Trim may run at the same time.
//
// ErrNoSpace means that the log is as before, and the same Append may succeed later; any
// other failure of the disk is final and returns ErrFailed from now on.
func (l *Log) Append(parts ...[]byte) (end Pos, err error) {
	return l.append(kindData, parts...)
}

func (l *Log) append(kind uint32, parts ...[]byte) (Pos, error) {
	if err := l.usable(); err != nil {
		return 0, err
	}
	var n int64
	for _, p := range parts {
		n += int64(len(p))
	}
	if n > MaxRecord {
		return 0, fmt.Errorf("%w: %d bytes", ErrTooLarge, n)
	}
	size := recordSize(n)
	if l.cur == nil || !l.cur.fits(size, kind) {
		return l.appendToNext(kind, size, parts)
	}
	b := l.buffer(size)
	l.fill(b, l.cur, kind, parts)
	if n, err := l.cur.file.WriteAt(b, l.cur.off); isNoSpace(err) && l.unwrite(n) {
		return 0, noSpace(fmt.Errorf("write record at %d of segment %d: %w", l.cur.off, l.cur.number, err))
	} else if err != nil {
		return 0, l.fail(fmt.Errorf("write record at %d of segment %d: %w", l.cur.off, l.cur.number, err))
	}
	return l.written(size), nil
}

// unwrite takes back n bytes of a record for which a filesystem that copies on
// write had no more room: what was refused must not come back after a crash.
// The next record goes to the same place.
func (l *Log) unwrite(n int) bool {
	if n == 0 {
		return true
	}
	_, err := l.cur.file.WriteAt(zeros[:min(n, recordHeaderLen)], l.cur.off)
	return err == nil
}

// fits keeps room for the record of a clean shutdown, which therefore never has
// to ask a full disk for a segment.
func (s *segment) fits(size int64, kind uint32) bool {
	if kind != kindClean {
		size += recordHeaderLen
	}
	return s.off+size <= s.size
}

// appendToNext rolls over: the next segment's header and its first record go out
// in one write. Until that write nothing has changed, so a failure to get a
// segment leaves the log as it was.
func (l *Log) appendToNext(kind uint32, size int64, parts [][]byte) (Pos, error) {
	if err := l.start(); err != nil {
		return 0, err
	}
	s, err := l.takeSpare(roundUp(segmentHeaderLen+size+recordHeaderLen, segmentGrain))
	if err != nil {
		return 0, err
	}
	h := l.activate(s)
	b := l.buffer(segmentHeaderLen + size)
	h.encode(b)
	l.fill(b[segmentHeaderLen:], s, kind, parts)
	if _, err := s.file.WriteAt(b, 0); err != nil {
		return 0, l.fail(fmt.Errorf("write header of segment %d: %w", s.number, err))
	}
	l.prepareInBackground()
	return l.written(size), nil
}

// activate makes s the current segment.
func (l *Log) activate(s *segment) segmentHeader {
	h := segmentHeader{number: s.number, first: l.End(), prevEnd: l.End(), boot: l.boot}
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.mu.live); n > 0 {
		last := &l.mu.live[n-1]
		if l.cur != nil {
			last.end = h.first
		}
		h.prev, h.prevEnd = last.number, last.end
	} else {
		h.prevEnd = 0
	}
	s.off = segmentHeaderLen
	l.cur = s
	l.mu.live = append(l.mu.live, liveSegment{
		number: s.number, prev: h.prev, prevEnd: h.prevEnd, first: h.first, size: s.size,
	})
	l.mu.unsynced = append(l.mu.unsynced, s)
	return h
}

// buffer returns n bytes to build a record in.
func (l *Log) buffer(n int64) []byte {
	if int64(cap(l.buf)) < n {
		l.buf = make([]byte, max(n, 4096))
	}
	return l.buf[:n]
}

// fill builds the record that goes to s.off; b is exactly as long as it.
func (l *Log) fill(b []byte, s *segment, kind uint32, parts [][]byte) {
	n := recordHeaderLen
	for _, p := range parts {
		n += copy(b[n:], p)
	}
	clear(b[n:])
	l.seal.encode(b[:n], s.number, s.off, kind, l.claim())
}

// written publishes a record: from here on Sync covers it.
func (l *Log) written(size int64) Pos {
	l.cur.off += size
	end := l.end.Load() + uint64(size)
	l.end.Store(end)
	if cap(l.buf) > keepBuffer {
		l.buf = nil
	}
	return Pos(end)
}
