package codec

import (
	"bytes"
	"fmt"
	"math/bits"

	"github.com/klauspost/compress/huff0"
)

// A segment is a plane, or what of it belongs to one context: a run of bytes
// that look alike. Its length is known to the decoder; a segment of none has no
// bytes. The first byte says how it is coded.
const (
	segRaw    = 0 // the bytes
	segRun    = 1 // one byte: all are that
	segHuff   = 2 // u24 length, table and four streams of huff0
	segZstd   = 3 // u24 length, a frame
	segSparse = 4 // a segment of which bytes are not zero, one of those bytes
)

const (
	minCoded   = 64   // a shorter segment is raw, or a run
	segSample  = 2048 // bytes that a decision looks at
	gainHuff   = 0.97 // what coding must come to, to be worth its decoding
	gainSparse = 0.95 // the same, over huff0
)

// appendSegment codes src. deep segments are parts of a sparse one.
func (c *Coder) appendSegment(dst, src []byte, deep bool) []byte {
	n := len(src)
	switch {
	case n == 0:
		return dst
	case bytes.Equal(src[1:], src[:n-1]):
		return append(dst, segRun, src[0])
	case n < minCoded:
		return append(append(dst, segRaw), src...)
	}
	var out []byte
	switch c.sample.segment(src, deep) {
	case segHuff:
		out = c.appendHuff(dst, src)
	case segZstd:
		out = c.appendZstdSegment(dst, src)
	case segSparse:
		out = c.appendSparse(dst, src)
	}
	if out == nil || len(out)-len(dst) > n {
		return append(append(dst, segRaw), src...)
	}
	return out
}

func (c *Coder) appendHuff(dst, src []byte) []byte {
	c.huff.Reuse = huff0.ReusePolicyNone
	out, _, err := huff0.Compress4X(src, &c.huff)
	if err != nil {
		return nil // it does not get smaller
	}
	return append(append(dst, segHuff, byte(len(out)), byte(len(out)>>8), byte(len(out)>>16)), out...)
}

func (c *Coder) appendZstdSegment(dst, src []byte) []byte {
	at := len(dst)
	dst = c.appendZstd(append(dst, segZstd, 0, 0, 0), src)
	if dst != nil {
		putUint24(dst[at+1:], len(dst)-at-4)
	}
	return dst
}

// appendSparse splits src, most of which is zero.
func (c *Coder) appendSparse(dst, src []byte) []byte {
	c.bitmap = grow(c.bitmap, (len(src)+7)/8)
	c.values = grow(c.values, len(src)+8)
	values, at := c.values, 0
	for i := range c.bitmap {
		rest := src[8*i:]
		m := byte(0)
		if len(rest) >= 8 {
			x := le.Uint64(rest)
			if m = nonZero(x); m == 0xff { // as most are where whole rows are zero, or none of one
				le.PutUint64(values[at:], x)
				at += 8
			} else {
				for left := m; left != 0; left &= left - 1 {
					values[at] = byte(x >> (8 * bits.TrailingZeros8(left)))
					at++
				}
			}
		} else {
			for k, b := range rest {
				if b != 0 {
					m |= 1 << k
					values[at] = b
					at++
				}
			}
		}
		c.bitmap[i] = m
	}
	dst = c.appendSegment(append(dst, segSparse), c.bitmap, true)
	return c.appendSegment(dst, values[:at], true)
}

// nonZero gives a bit for each byte of x, set where that is not zero.
func nonZero(x uint64) byte {
	const low7 = 0x7f7f7f7f7f7f7f7f
	high := ((x&low7 + low7) | x) &^ low7 // bit 7 of each byte
	return byte(high >> 7 * 0x0102040810204080 >> 56)
}

// decodeSegment fills dst from the start of src and gives what follows.
func (c *Coder) decodeSegment(dst, src []byte, deep bool) ([]byte, error) {
	n := len(dst)
	if n == 0 {
		return src, nil
	}
	if len(src) < 2 {
		return nil, fmt.Errorf("%w: segment cut short", ErrCorrupt)
	}
	kind, src := src[0], src[1:]
	switch {
	case kind == segRaw:
		if len(src) < n {
			return nil, fmt.Errorf("%w: segment of %d bytes holds %d", ErrCorrupt, n, len(src))
		}
		copy(dst, src)
		return src[n:], nil
	case kind == segRun:
		fill(dst, src[0])
		return src[1:], nil
	case kind == segSparse && !deep:
		return c.decodeSparse(dst, src)
	case kind != segHuff && kind != segZstd:
		return nil, fmt.Errorf("%w: unknown segment %d", ErrCorrupt, kind)
	}
	coded, rest, err := cut24(src)
	if err != nil {
		return nil, err
	}
	if kind == segZstd {
		return rest, c.DecodeZstd(dst, coded)
	}
	return rest, c.decodeHuff(dst, coded)
}

func (c *Coder) decodeHuff(dst, coded []byte) error {
	if len(dst) > huff0.BlockSizeMax {
		return fmt.Errorf("%w: huff0 of %d bytes", ErrCorrupt, len(dst))
	}
	s, streams, err := huff0.ReadTable(coded, &c.huff)
	if err != nil {
		return fmt.Errorf("%w: huff0 table: %w", ErrCorrupt, err)
	}
	// Its capacity is what the decoder takes for the length.
	out, err := s.Decoder().Decompress4X(dst[:0:len(dst)], streams)
	if err != nil {
		return fmt.Errorf("%w: huff0: %w", ErrCorrupt, err)
	}
	if len(out) != len(dst) {
		return fmt.Errorf("%w: huff0 of %d bytes instead of %d", ErrCorrupt, len(out), len(dst))
	}
	return nil
}

func (c *Coder) decodeSparse(dst, src []byte) ([]byte, error) {
	c.bitmap = grow(c.bitmap, (len(dst)+7)/8)
	src, err := c.decodeSegment(c.bitmap, src, true)
	if err != nil {
		return nil, err
	}
	n := 0
	for _, m := range c.bitmap {
		n += bits.OnesCount8(m)
	}
	if used := len(dst) % 8; used != 0 && c.bitmap[len(c.bitmap)-1]>>used != 0 {
		return nil, fmt.Errorf("%w: sparse segment beyond its end", ErrCorrupt)
	}
	c.values = grow(c.values, n)
	if src, err = c.decodeSegment(c.values, src, true); err != nil {
		return nil, err
	}
	clear(dst)
	values := c.values
	for i, m := range c.bitmap {
		if m == 0xff {
			values = values[copy(dst[8*i:8*i+8], values):]
			continue
		}
		for ; m != 0; m &= m - 1 {
			dst[8*i+bits.TrailingZeros8(m)] = values[0]
			values = values[1:]
		}
	}
	return src, nil
}

func fill(dst []byte, b byte) {
	if b == 0 {
		clear(dst)
		return
	}
	for i := range dst {
		dst[i] = b
	}
}

// grow gives b the length n; its content is lost. Callers ask for no more than
// a block.
func grow(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}

func putUint24(b []byte, n int) { b[0], b[1], b[2] = byte(n), byte(n>>8), byte(n>>16) }

func uint24(b []byte) int { return int(b[0]) | int(b[1])<<8 | int(b[2])<<16 }

// cut24 takes a length and as many bytes from src.
func cut24(src []byte) (part, rest []byte, err error) {
	if len(src) < 3 {
		return nil, nil, fmt.Errorf("%w: length cut short", ErrCorrupt)
	}
	n, src := uint24(src), src[3:]
	if n > len(src) {
		return nil, nil, fmt.Errorf("%w: %d bytes of %d", ErrCorrupt, len(src), n)
	}
	return src[:n], src[n:], nil
}
