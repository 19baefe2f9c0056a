package codec

import (
	"fmt"
	"math/bits"
)

// A block of planes has at most so many bytes, and so many elements: enough to
// make nothing of the tables of its codes, few enough to stay in the cache, to
// tell one tensor from the next, and for huff0.
const (
	blockBytes    = 256 << 10
	blockElements = 128 << 10
)

// most is how many elements of 1<<log bytes a block has at most.
func most(log uint8) int { return min(blockElements, blockBytes>>log) }

// How a block is kept.
const (
	modeRaw    = 0
	modeZstd   = 1
	modePlanes = 2
	modeDelta  = 3
)

// blockHeader: 1 mode, 1 layout, 4 plain length. The layout of planes is the
// logarithm of the width in bits 0 and 1, whether a delta is sorted in bit 3,
// and in bits 4 to 6 the number of bytes before the first element.
const (
	blockHeader  = 6
	layoutSorted = 0x08
)

// block is a part of a chunk: head bytes, elements, and fewer bytes behind them
// than an element has.
type block struct {
	mode   byte
	log    uint8 // of the width
	sorted bool
	head   int
	plain  int // length
}

func (b block) elements() int { return (b.plain - b.head) >> b.log }

// ends gives where the elements begin and end.
func (b block) ends() (from, to int) { return b.head, b.head + b.elements()<<b.log }

func (b block) appendHeader(dst []byte) []byte {
	layout := b.log | uint8(b.head)<<4
	if b.sorted {
		layout |= layoutSorted
	}
	dst = append(dst, b.mode, layout)
	return le.AppendUint32(dst, uint32(b.plain))
}

// parseBlock reads a header, of a block that may have up to left plain bytes.
func parseBlock(src []byte, left int) (block, error) {
	if len(src) < blockHeader {
		return block{}, fmt.Errorf("%w: block header cut short", ErrCorrupt)
	}
	b := block{mode: src[0], log: src[1] & 3, sorted: src[1]&layoutSorted != 0, head: int(src[1] >> 4)}
	plain := le.Uint32(src[2:])
	if plain == 0 || uint64(plain) > uint64(left) {
		return block{}, fmt.Errorf("%w: block of %d bytes where %d are left", ErrCorrupt, plain, left)
	}
	b.plain = int(plain)
	switch {
	case b.mode > modeDelta || src[1]&0x84 != 0 || b.sorted && b.mode != modeDelta:
		return block{}, fmt.Errorf("%w: unknown block %d %#x", ErrCorrupt, b.mode, src[1])
	case b.mode < modePlanes && src[1] != 0:
		return block{}, fmt.Errorf("%w: block without elements has layout %#x", ErrCorrupt, src[1])
	case b.mode >= modePlanes && (b.head > b.plain || b.head >= 1<<b.log || b.elements() > most(b.log)):
		return block{}, fmt.Errorf("%w: block of %d bytes, %d of them before the first element", ErrCorrupt, b.plain, b.head)
	}
	return b, nil
}

// under gives what a delta block at at of a chunk of n bytes is based on.
func (c *Coder) under(b block, base []byte, at, n int) []byte {
	if len(base) == n {
		return base[at : at+b.plain]
	}
	c.narrow = grow(c.narrow, b.plain)
	round(c.narrow, base[2*at:2*(at+b.plain)], b.head)
	return c.narrow
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
		return appendElements[uint8](c, dst, elements, under, b.sorted)
	case 1:
		return appendElements[uint16](c, dst, elements, under, b.sorted)
	case 2:
		return appendElements[uint32](c, dst, elements, under, b.sorted)
	default:
		return appendElements[uint64](c, dst, elements, under, b.sorted)
	}
}

// appendElements codes elements as planes, or over base, if there is one.
func appendElements[W word](c *Coder, dst, elements, base []byte, sorted bool) []byte {
	c.planes = grow(c.planes, len(elements))
	o := &c.order
	o.unsorted(len(elements) / width[W]())
	switch {
	case !c.fused(log2(width[W]())):
		plainPlanes[W](c, elements, base, sorted)
	case sorted:
		n := len(elements) / width[W]()
		w := c.words(0, len(elements))
		orderFor[W](o, base)
		subtractDeal(wordsOf[W](w, n), elements, base, o)
		splitFast[W](c.planes, w, n)
	default:
		planesOf[W](c.planes, elements, base)
	}
	rest := c.planes
	for range width[W]() {
		for _, size := range o.size[:o.n] {
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
		return rest, c.DecodeZstd(dst, frame)
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
		return decodeElements[uint8](c, elements, src, under, b.sorted)
	case 1:
		return decodeElements[uint16](c, elements, src, under, b.sorted)
	case 2:
		return decodeElements[uint32](c, elements, src, under, b.sorted)
	default:
		return decodeElements[uint64](c, elements, src, under, b.sorted)
	}
}

func decodeElements[W word](c *Coder, dst, src, base []byte, sorted bool) ([]byte, error) {
	o, fused := &c.order, c.fused(log2(width[W]()))
	o.unsorted(len(dst) / width[W]())
	if sorted && fused {
		orderFor[W](o, base)
	} else if sorted {
		orderOf(o, loaded[W](c, base))
	}
	c.planes = grow(c.planes, len(dst))
	rest := c.planes
	var err error
	for range width[W]() {
		for _, size := range o.size[:o.n] {
			if src, err = c.decodeSegment(rest[:size], src, false); err != nil {
				return nil, err
			}
			rest = rest[size:]
		}
	}
	switch {
	case !fused:
		plainElements[W](c, dst, base, sorted)
	case sorted:
		n := len(dst) / width[W]()
		w := c.words(0, len(dst))
		mergeFast[W](w, c.planes, n)
		gatherAdd(dst, wordsOf[W](w, n), base, o)
	default:
		elementsOf[W](dst, c.planes, base)
	}
	return src, nil
}

// loaded gives the elements of a base.
func loaded[W word](c *Coder, base []byte) []W {
	under := c.words(1, len(base))
	load[W](under, base)
	return wordsOf[W](under, len(base)/width[W]())
}

// plainPlanes fills c.planes, of which there are as many bytes as elements.
func plainPlanes[W word](c *Coder, elements, base []byte, sorted bool) {
	n := len(elements) / width[W]()
	w := c.words(0, len(elements))
	load[W](w, elements)
	if base == nil {
		rotate[W](w)
	} else {
		under := loaded[W](c, base)
		subtract[W](w, c.words(1, len(base)))
		if sorted {
			out := c.words(2, len(elements))
			orderOf(&c.order, under)
			deal(wordsOf[W](out, n), wordsOf[W](w, n), under, &c.order)
			w = out
		}
	}
	split[W](c.planes, w, n)
}

// plainElements is the inverse of plainPlanes; the order is known.
func plainElements[W word](c *Coder, dst, base []byte, sorted bool) {
	n := len(dst) / width[W]()
	w := c.words(0, len(dst))
	merge[W](w, c.planes, n)
	if base == nil {
		unrotate[W](w)
	} else {
		under := loaded[W](c, base)
		if sorted {
			out := c.words(2, len(dst))
			gather(wordsOf[W](out, n), wordsOf[W](w, n), under, &c.order)
			w = out
		}
		add[W](w, c.words(1, len(base)))
	}
	store[W](dst, w)
}

// words gives scratch for size bytes of elements.
func (c *Coder) words(i, size int) []uint64 {
	if c.scratch[i] == nil {
		c.scratch[i] = make([]uint64, blockBytes/8)
	}
	return c.scratch[i][:(size+7)/8]
}

func log2(w int) uint8 { return uint8(bits.TrailingZeros(uint(w))) }
