package inspect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
)

// A flaw is what is wrong with a file. Any other error is one of reading it.
type flaw string

func (f flaw) Error() string { return string(f) }

func flawf(format string, args ...any) error { return flaw(fmt.Sprintf(format, args...)) }

// errTooLarge: looking further would take more memory than a check may use.
var errTooLarge = errors.New("too large to be looked into")

// A span is a range of bytes of a file: what every check reads. All reading
// goes through it, so that it stays inside and ends with ctx.
type span struct {
	ctx  context.Context
	r    io.ReaderAt
	off  int64
	size int64
}

// memory is a span of bytes that were read already.
func (s span) memory(b []byte) span {
	return span{ctx: s.ctx, r: bytes.NewReader(b), size: int64(len(b))}
}

// sub is a range of s. The caller knows that it lies inside.
func (s span) sub(off, size int64) span {
	s.off, s.size = s.off+off, size
	return s
}

// has: size bytes from off on lie inside. No sum overflows here.
func (s span) has(off, size int64) bool {
	return off >= 0 && size >= 0 && off <= s.size && size <= s.size-off
}

// read fills b from off on.
func (s span) read(b []byte, off int64) error {
	if !s.has(off, int64(len(b))) {
		return flawf("ends too early: %d bytes at %d of %d", len(b), off, s.size)
	}
	if err := s.ctx.Err(); err != nil {
		return err
	}
	n, err := s.r.ReadAt(b, s.off+off)
	switch {
	case n == len(b):
		return nil
	case err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return flawf("ends at %d, before its size", s.off+off+int64(n))
	}
	return err
}

// head gives the first bytes, at most n.
func (s span) head(n int64) ([]byte, error) {
	b := make([]byte, min(n, s.size))
	return b, s.read(b, 0)
}

// tail gives the last bytes, at most n.
func (s span) tail(n int64) ([]byte, error) {
	b := make([]byte, min(n, s.size))
	return b, s.read(b, s.size-int64(len(b)))
}

// each hands the bytes of s to f, block by block; buf is used for them.
func (s span) each(buf []byte, f func(b []byte)) error {
	for off := int64(0); off < s.size; {
		b := buf[:min(int64(len(buf)), s.size-off)]
		if err := s.read(b, off); err != nil {
			return err
		}
		f(b)
		off += int64(len(b))
	}
	return nil
}
