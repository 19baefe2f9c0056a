package bucket

import (
	"encoding/binary"
	"fmt"
)

// reader takes fields off the front of a body. After the first that is not there
// it gives zeros, and err says so.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrFormat, what)
	}
	r.b = nil
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail("a number is cut short")
		return 0
	}
	r.b = r.b[n:]
	return v
}

// bytes takes n bytes; they are those of the body, not a copy.
func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.fail("a field is cut short")
		return nil
	}
	p := r.b[:n:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) take(dst []byte) { copy(dst, r.bytes(uint64(len(dst)))) }

func (r *reader) string() []byte { return r.bytes(r.uvarint()) }

// count takes the number of things of which each needs at least size bytes.
func (r *reader) count(size int) int {
	n := r.uvarint()
	if n > uint64(len(r.b)/size) {
		r.fail("more things than it has bytes for")
		return 0
	}
	return int(n)
}

// length takes a number of bytes that fits an int64.
func (r *reader) length() int64 {
	n := r.uvarint()
	if n > 1<<62 {
		r.fail("a length that nothing has")
		return 0
	}
	return int64(n)
}

func (r *reader) done() error {
	if r.err == nil && len(r.b) > 0 {
		r.fail(fmt.Sprintf("%d bytes too many", len(r.b)))
	}
	return r.err
}

func appendString(b, s []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
