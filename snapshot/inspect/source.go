package inspect

import (
	"errors"
	"io"
)

const (
	// sourceBlock is read at once where little is asked for.
	sourceBlock = 2 << 10
	sourceSlots = 8
)

// A source is an open file. It counts what it reads and keeps a few blocks: the
// structure of an archive is many small pieces close together, at its beginning
// and at its end, and DCP has thousands of archives in a file.
type source struct {
	r     io.ReaderAt
	count *int64
	slots [sourceSlots]struct {
		next int64 // the block's number and one
		b    []byte
	}
}

// ReadAt reads from the kept blocks, or, what is larger, past them.
func (s *source) ReadAt(b []byte, off int64) (n int, err error) {
	if len(b) >= sourceBlock {
		n, err = s.r.ReadAt(b, off)
		*s.count += int64(n)
		return n, err
	}
	for n < len(b) {
		at := off + int64(n)
		block, err := s.block(at / sourceBlock)
		if err != nil {
			return n, err
		}
		from := int(at % sourceBlock)
		if from >= len(block) {
			return n, io.EOF
		}
		n += copy(b[n:], block[from:])
	}
	return n, nil
}

// block gives a block; the last of a file is shorter.
func (s *source) block(i int64) ([]byte, error) {
	slot := &s.slots[i%sourceSlots]
	if slot.next == i+1 {
		return slot.b, nil
	}
	if slot.b == nil {
		slot.b = make([]byte, sourceBlock)
	}
	slot.next = 0
	n, err := s.r.ReadAt(slot.b[:sourceBlock], i*sourceBlock)
	*s.count += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	slot.b, slot.next = slot.b[:n], i+1
	return slot.b, nil
}
