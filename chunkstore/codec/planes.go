package codec

import (
	"encoding/binary"
	"math/bits"
	"unsafe"
)

var le = binary.LittleEndian

// word is an element of a block. The bytes of a chunk are little-endian, as
// every framework writes them.
type word interface {
	uint8 | uint16 | uint32 | uint64
}

// wordsOf views scratch, which is aligned for any word, as words.
func wordsOf[W word](scratch []uint64, n int) []W {
	return unsafe.Slice((*W)(unsafe.Pointer(unsafe.SliceData(scratch))), n)
}

// width is the length of a W in bytes.
func width[W word]() int { return int(unsafe.Sizeof(W(0))) }

// bigEndian is true on machines whose words have to be turned.
var bigEndian = binary.NativeEndian.Uint16([]byte{0, 1}) == 1

// load fills scratch with the elements that src holds.
func load[W word](scratch []uint64, src []byte) {
	copy(wordsOf[byte](scratch, len(src)), src)
	if bigEndian {
		swap(wordsOf[W](scratch, len(src)/width[W]()))
	}
}

// store is the inverse of load. It leaves scratch in disorder on big-endian
// machines.
func store[W word](dst []byte, scratch []uint64) {
	if bigEndian {
		swap(wordsOf[W](scratch, len(dst)/width[W]()))
	}
	copy(dst, wordsOf[byte](scratch, len(dst)))
}

func swap[W word](w []W) {
	for i, v := range w {
		w[i] = W(bits.ReverseBytes64(uint64(v)) >> (64 - 8*width[W]()))
	}
}

// Elements are worked on as many at a time as 64 bits hold, each a lane that
// never carries into the next. What scratch holds behind the last one is worked
// on too, and means nothing.

// lanes gives the lowest and the highest bit of each W in 64 bits.
func lanes[W word]() (one, sign uint64) {
	one = ^uint64(0) / uint64(^W(0))
	return one, one << (8*width[W]() - 1)
}

// rotate moves the sign to the low end, so that the exponent of a float fills
// its highest plane and the sign, which is noise, spoils no other.
func rotate[W word](w []uint64) {
	one, _ := lanes[W]()
	top := 8*width[W]() - 1
	for i, v := range w {
		w[i] = v<<1&^one | v>>top&one
	}
}

func unrotate[W word](w []uint64) {
	_, sign := lanes[W]()
	top := 8*width[W]() - 1
	for i, v := range w {
		w[i] = v>>1&^sign | v<<top&sign
	}
}

// split writes plane k, the bytes of weight 256^k of n elements, to
// planes[k*n:].
func split[W word](planes []byte, w []uint64, n int) {
	done := 0
	if !bigEndian {
		done = n &^ 7
		plane := func(k int) []byte { return planes[k*n:][:n] }
		switch width[W]() {
		case 1:
			done = copy(plane(0), wordsOf[byte](w, n))
		case 2:
			split16(plane(0), plane(1), w)
		case 4:
			split32(plane(0), plane(1), plane(2), plane(3), w)
		case 8:
			split64(planes, w, n)
		}
	}
	splitRest[W](planes, w, n, done)
}

// splitRest splits what follows those that are done, one by one.
func splitRest[W word](planes []byte, w []uint64, n, done int) {
	for i, v := range wordsOf[W](w, n)[done:] {
		for k := range width[W]() {
			planes[k*n+done+i] = byte(v >> (8 * k))
		}
	}
}

// merge is the inverse of split.
func merge[W word](w []uint64, planes []byte, n int) {
	done := 0
	if !bigEndian {
		done = n &^ 7
		plane := func(k int) []byte { return planes[k*n:][:n] }
		switch width[W]() {
		case 1:
			done = copy(wordsOf[byte](w, n), plane(0))
		case 2:
			merge16(w, plane(0), plane(1))
		case 4:
			merge32(w, plane(0), plane(1), plane(2), plane(3))
		case 8:
			merge64(w, planes, n)
		}
	}
	mergeRest[W](w, planes, n, done)
}

// mergeRest is the inverse of splitRest.
func mergeRest[W word](w []uint64, planes []byte, n, done int) {
	rest := wordsOf[W](w, n)[done:]
	for i := range rest {
		v := W(0)
		for k := range width[W]() {
			v |= W(planes[k*n+done+i]) << (8 * k)
		}
		rest[i] = v
	}
}

// A square of bytes is turned by exchanges: of halves, then of their halves, as
// a matrix is transposed. Each exchange is its own inverse, so merging is
// splitting backwards.

func exchange32(a, b uint64) (uint64, uint64) {
	const low = 0x00000000ffffffff
	return a&low | b<<32, a>>32 | b&^low
}

func exchange16(a, b uint64) (uint64, uint64) {
	const low = 0x0000ffff0000ffff
	return a&low | b&low<<16, a>>16&low | b&^low
}

func exchange8(a, b uint64) (uint64, uint64) {
	const low = 0x00ff00ff00ff00ff
	return a&low | b&low<<8, a>>8&low | b&^low
}

// split16 and its like take eight elements at a time and leave what is less.
func split16(p0, p1 []byte, w []uint64) {
	n := len(p0)
	p1 = p1[:n]
	for i := 0; i+8 <= n; i += 8 {
		e := (*[2]uint64)(w[i/4:])
		a, b := exchange32(e[0], e[1])
		a, b = exchange16(a, b)
		a, b = exchange8(a, b)
		le.PutUint64(p0[i:i+8], a)
		le.PutUint64(p1[i:i+8], b)
	}
}

func merge16(w []uint64, p0, p1 []byte) {
	n := len(p0)
	p1 = p1[:n]
	for i := 0; i+8 <= n; i += 8 {
		a, b := exchange8(le.Uint64(p0[i:i+8]), le.Uint64(p1[i:i+8]))
		a, b = exchange16(a, b)
		e := (*[2]uint64)(w[i/4:])
		e[0], e[1] = exchange32(a, b)
	}
}

func split32(p0, p1, p2, p3 []byte, w []uint64) {
	n := len(p0)
	p1, p2, p3 = p1[:n], p2[:n], p3[:n]
	for i := 0; i+8 <= n; i += 8 {
		e := (*[4]uint64)(w[i/2:])
		a, b := exchange32(e[0], e[2])
		c, d := exchange32(e[1], e[3])
		a, c = exchange16(a, c)
		b, d = exchange16(b, d)
		a, b = exchange8(a, b)
		c, d = exchange8(c, d)
		le.PutUint64(p0[i:i+8], a)
		le.PutUint64(p1[i:i+8], b)
		le.PutUint64(p2[i:i+8], c)
		le.PutUint64(p3[i:i+8], d)
	}
}

func merge32(w []uint64, p0, p1, p2, p3 []byte) {
	n := len(p0)
	p1, p2, p3 = p1[:n], p2[:n], p3[:n]
	for i := 0; i+8 <= n; i += 8 {
		a, b := exchange8(le.Uint64(p0[i:i+8]), le.Uint64(p1[i:i+8]))
		c, d := exchange8(le.Uint64(p2[i:i+8]), le.Uint64(p3[i:i+8]))
		a, c = exchange16(a, c)
		b, d = exchange16(b, d)
		e := (*[4]uint64)(w[i/2:])
		e[0], e[2] = exchange32(a, b)
		e[1], e[3] = exchange32(c, d)
	}
}

// turn transposes eight by eight bytes. It is its own inverse.
func turn(w *[8]uint64) {
	for i := range 4 {
		w[i], w[i+4] = exchange32(w[i], w[i+4])
	}
	for _, i := range [...]int{0, 1, 4, 5} {
		w[i], w[i+2] = exchange16(w[i], w[i+2])
	}
	for i := 0; i < 8; i += 2 {
		w[i], w[i+1] = exchange8(w[i], w[i+1])
	}
}

func split64(planes []byte, w []uint64, n int) {
	for i := 0; i+8 <= n; i += 8 {
		square := [8]uint64(w[i:])
		turn(&square)
		for k, v := range square {
			le.PutUint64(planes[k*n+i:], v)
		}
	}
}

func merge64(w []uint64, planes []byte, n int) {
	for i := 0; i+8 <= n; i += 8 {
		var square [8]uint64
		for k := range square {
			square[k] = le.Uint64(planes[k*n+i:])
		}
		turn(&square)
		copy(w[i:], square[:])
	}
}
