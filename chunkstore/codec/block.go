package codec

import (
	"fmt"
	"math/bits"
)

// blockElements is how many elements a block of planes has at most: enough to
// make nothing of the tables of its codes, few enough to stay in the cache and
// to tell one tensor from the next.
const blockElements = 1 << 16

// How a block is kept.
const (
	modeRaw    = 0
	modeZstd   = 1
	modePlanes = 2
	modeDelta  = 3
)

// blockHeader: 1 mode, 1 layout, 4 plain length. The layout of planes is the
// logarithm of the width in bits 0 and 1, and in bits 4 to 6 the number of
// bytes before the first element.
const blockHeader = 6

// block is a part of a chunk: head bytes, elements, and fewer bytes behind them
// than an element has.
type block struct {
	mode  byte
	log   uint8 // of the width
	head  int
	plain int // length
}

func (b block) elements() int { return (b.plain - b.head) >> b.log }

// ends gives where the elements begin and end.
func (b block) ends() (from, to int) { return b.head, b.head + b.elements()<<b.log }

func (b block) appendHeader(dst []byte) []byte {
	dst = append(dst, b.mode, b.log|uint8(b.head)<<4)
	return le.AppendUint32(dst, uint32(b.plain))
}

// parseBlock reads a header, of a block that may have up to left plain bytes.
func parseBlock(src []byte, left int) (block, error) {
	if len(src) < blockHeader {
		return block{}, fmt.Errorf("%w: block header cut short", ErrCorrupt)
	}
	b := block{mode: src[0], log: src[1] & 3, head: int(src[1] >> 4)}
	plain := le.Uint32(src[2:])
	if plain == 0 || uint64(plain) > uint64(left) {
		return block{}, fmt.Errorf("%w: block of %d bytes where %d are left", ErrCorrupt, plain, left)
	}
	b.plain = int(plain)
	switch {
	case b.mode > modeDelta || src[1]&0x8c != 0:
		return block{}, fmt.Errorf("%w: unknown block %d %#x", ErrCorrupt, b.mode, src[1])
	case b.mode < modePlanes && src[1] != 0:
		return block{}, fmt.Errorf("%w: block without elements has layout %#x", ErrCorrupt, src[1])
	case b.head > b.plain || b.head >= 1<<b.log || b.elements() > blockElements:
		return block{}, fmt.Errorf("%w: block of %d bytes, %d of them before the first element", ErrCorrupt, b.plain, b.head)
	}
	return b, nil
}

// appendBlock codes one block; base is nil or as long as plain.
func (c *Coder) appendBlock(dst []byte, b block, plain, base []byte) []byte {
	switch b.mode {
	case modeZstd:
		at := len(dst) + blockHeader
		out := c.appendZstd(append(b.appendHeader(dst), 0, 0, 0), plain)
		if out != nil && len(out)-at-3 < len(plain) {
			putUint24(out[at:], len(out)-at-3)
			return out
		}
		b = block{mode: modeRaw, plain: b.plain}
		return append(b.appendHeader(dst), plain...)
	case modeRaw:
		return append(b.appendHeader(dst), plain...)
	}
	from, to := b.ends()
	dst = b.appendHeader(dst)
	dst = append(append(dst, plain[:from]...), plain[to:]...)
	elements, under := plain[from:to], []byte(nil)
	if b.mode == modeDelta {
		under = base[from:to]
	}
	switch b.log {
	case 0:
		return appendElements[uint8](c, dst, elements, under)
	case 1:
		return appendElements[uint16](c, dst, elements, under)
	case 2:
		return appendElements[uint32](c, dst, elements, under)
	default:
		return appendElements[uint64](c, dst, elements, under)
	}
}

// appendElements codes elements as planes, or over base, if there is one.
func appendElements[W word](c *Coder, dst, elements, base []byte) []byte {
	n := len(elements) / width[W]()
	w := wordsOf[W](c.words(0), n)
	load(w, elements)
	c.planes = grow(c.planes, len(elements))
	if base == nil {
		rotate(w)
		split(c.planes, w)
		for k := range width[W]() {
			dst = c.appendSegment(dst, c.planes[k*n:(k+1)*n], false)
		}
		return dst
	}
	under, sorted := wordsOf[W](c.words(1), n), wordsOf[W](c.words(2), n)
	load(under, base)
	orderOf(&c.order, under)
	deal(sorted, w, under, &c.order)
	split(c.planes, sorted)
	rest := c.planes
	for range width[W]() {
		for _, size := range c.order.size[:c.order.n] {
			dst = c.appendSegment(dst, rest[:size], false)
			rest = rest[size:]
		}
	}
	return dst
}

// decodeBlock fills dst from the start of src, behind its header, and gives
// what follows.
func (c *Coder) decodeBlock(b block, dst, src, base []byte) ([]byte, error) {
	switch b.mode {
	case modeRaw:
		if len(src) < len(dst) {
			return nil, fmt.Errorf("%w: block of %d bytes holds %d", ErrCorrupt, len(dst), len(src))
		}
		copy(dst, src)
		return src[len(dst):], nil
	case modeZstd:
		frame, rest, err := cut24(src)
		if err != nil {
			return nil, err
		}
		return rest, c.decodeZstd(dst, frame)
	}
	from, to := b.ends()
	if len(src) < from+len(dst)-to {
		return nil, fmt.Errorf("%w: block cut short", ErrCorrupt)
	}
	src = src[copy(dst[:from], src):]
	src = src[copy(dst[to:], src):]
	elements, under := dst[from:to], []byte(nil)
	if b.mode == modeDelta {
		under = base[from:to]
	}
	switch b.log {
	case 0:
		return decodeElements[uint8](c, elements, src, under)
	case 1:
		return decodeElements[uint16](c, elements, src, under)
	case 2:
		return decodeElements[uint32](c, elements, src, under)
	default:
		return decodeElements[uint64](c, elements, src, under)
	}
}

func decodeElements[W word](c *Coder, dst, src, base []byte) ([]byte, error) {
	n := len(dst) / width[W]()
	w := wordsOf[W](c.words(0), n)
	c.planes = grow(c.planes, len(dst))
	var err error
	if base == nil {
		for k := range width[W]() {
			if src, err = c.decodeSegment(c.planes[k*n:(k+1)*n], src, false); err != nil {
				return nil, err
			}
		}
		merge(w, c.planes)
		unrotate(w)
		store(dst, w)
		return src, nil
	}
	under := wordsOf[W](c.words(1), n)
	load(under, base)
	orderOf(&c.order, under)
	rest := c.planes
	for range width[W]() {
		for _, size := range c.order.size[:c.order.n] {
			if src, err = c.decodeSegment(rest[:size], src, false); err != nil {
				return nil, err
			}
			rest = rest[size:]
		}
	}
	merge(w, c.planes)
	gather(under, w, &c.order)
	store(dst, under)
	return src, nil
}

// words gives the scratch for a block of elements of any width.
func (c *Coder) words(i int) []uint64 {
	if c.scratch[i] == nil {
		c.scratch[i] = make([]uint64, blockElements)
	}
	return c.scratch[i]
}

func log2(w int) uint8 { return uint8(bits.TrailingZeros(uint(w))) }
