package inspect

import "bytes"

// streamBlock is what a stream reads at once.
const streamBlock = 64 << 10

// A stream reads a span from its beginning to its end. What it skips it does
// not read.
type stream struct {
	span
	buf []byte // what was read ahead
	i   int    // the next byte in buf
	pos int64  // of buf's end
}

func newStream(s span) *stream { return &stream{span: s} }

// at is the position of the next byte.
func (s *stream) at() int64 { return s.pos - int64(len(s.buf)-s.i) }

func (s *stream) left() int64 { return s.size - s.at() }

// fill reads the next block, once buf is used up. False at the end.
func (s *stream) fill() (bool, error) {
	if s.i < len(s.buf) {
		return true, nil
	}
	n := min(streamBlock, s.size-s.pos)
	if n == 0 {
		return false, nil
	}
	if int64(cap(s.buf)) < n {
		s.buf = make([]byte, n)
	}
	s.buf, s.i = s.buf[:n], 0
	if err := s.read(s.buf, s.pos); err != nil {
		s.buf = s.buf[:0]
		return false, err
	}
	s.pos += n
	return true, nil
}

func (s *stream) byte() (byte, error) {
	if s.i >= len(s.buf) {
		if ok, err := s.fill(); err != nil {
			return 0, err
		} else if !ok {
			return 0, flawf("ends too early, at %d", s.size)
		}
	}
	s.i++
	return s.buf[s.i-1], nil
}

// take gives the next n bytes, which are the caller's. The caller bounds n.
func (s *stream) take(n int) ([]byte, error) {
	if int64(n) > s.left() {
		return nil, flawf("ends too early: %d bytes at %d of %d", n, s.at(), s.size)
	}
	b := make([]byte, n)
	return b, s.fillIn(b)
}

// fillIn reads the next bytes into all of b.
func (s *stream) fillIn(b []byte) error {
	if int64(len(b)) > s.left() {
		return flawf("ends too early: %d bytes at %d of %d", len(b), s.at(), s.size)
	}
	for len(b) > 0 {
		if _, err := s.fill(); err != nil {
			return err
		}
		n := copy(b, s.buf[s.i:])
		s.i, b = s.i+n, b[n:]
	}
	return nil
}

// uint reads a little-endian number of n bytes, at most 8.
func (s *stream) uint(n int) (uint64, error) {
	var v uint64
	for k := range n {
		b, err := s.byte()
		if err != nil {
			return 0, err
		}
		v |= uint64(b) << (8 * k)
	}
	return v, nil
}

// skip goes n bytes on. n is what the input says: anything.
func (s *stream) skip(n uint64) error {
	if n > uint64(s.left()) {
		return flawf("%d bytes at %d run past the end, %d", n, s.at(), s.size)
	}
	if n <= uint64(len(s.buf)-s.i) {
		s.i += int(n)
		return nil
	}
	s.pos = s.at() + int64(n)
	s.buf, s.i = s.buf[:0], 0
	return nil
}

// line reads up to a newline and gives at most max bytes of it.
func (s *stream) line(max int) (string, error) {
	var line []byte
	for {
		if ok, err := s.fill(); err != nil {
			return "", err
		} else if !ok {
			return "", flaw("ends within a line")
		}
		b := s.buf[s.i:]
		end := bytes.IndexByte(b, '\n')
		if end >= 0 {
			b = b[:end]
		}
		line = append(line, b[:min(len(b), max-len(line))]...)
		s.i += len(b)
		if end >= 0 {
			s.i++
			return string(line), nil
		}
	}
}
