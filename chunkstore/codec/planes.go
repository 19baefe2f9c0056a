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

// load fills dst with the elements that src holds; it has as many bytes.
func load[W word](dst []W, src []byte) {
	if len(dst) == 0 {
		return
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&dst[0])), len(dst)*width[W]()), src)
	if bigEndian {
		swap(dst)
	}
}

// store is the inverse of load. It leaves src in disorder on big-endian machines.
func store[W word](dst []byte, src []W) {
	if len(src) == 0 {
		return
	}
	if bigEndian {
		swap(src)
	}
	copy(dst, unsafe.Slice((*byte)(unsafe.Pointer(&src[0])), len(src)*width[W]()))
}

func swap[W word](w []W) {
	for i, v := range w {
		w[i] = W(bits.ReverseBytes64(uint64(v)) >> (64 - 8*width[W]()))
	}
}

// rotate moves the sign to the low end, so that the exponent of a float fills
// its highest plane and the sign, which is noise, spoils no other.
func rotate[W word](w []W) {
	top := 8*width[W]() - 1
	for i, v := range w {
		w[i] = v<<1 | v>>top
	}
}

func unrotate[W word](w []W) {
	top := 8*width[W]() - 1
	for i, v := range w {
		w[i] = v>>1 | v<<top
	}
}

// split writes plane k, the bytes of weight 256^k, to planes[k*len(w):].
func split[W word](planes []byte, w []W) {
	n := len(w)
	switch w := any(w).(type) {
	case []uint8:
		copy(planes, w)
	case []uint16:
		split16(planes[:n], planes[n:2*n], w)
	case []uint32:
		split32(planes[:n], planes[n:2*n], planes[2*n:3*n], planes[3*n:4*n], w)
	case []uint64:
		for k := range 8 {
			plane := planes[k*n:][:n]
			for i, v := range w {
				plane[i] = byte(v >> (8 * k))
			}
		}
	}
}

// merge is the inverse of split.
func merge[W word](w []W, planes []byte) {
	n := len(w)
	switch w := any(w).(type) {
	case []uint8:
		copy(w, planes)
	case []uint16:
		merge16(w, planes[:n], planes[n:2*n])
	case []uint32:
		merge32(w, planes[:n], planes[n:2*n], planes[2*n:3*n], planes[3*n:4*n])
	case []uint64:
		clear(w)
		for k := range 8 {
			for i, b := range planes[k*n:][:n] {
				w[i] |= uint64(b) << (8 * k)
			}
		}
	}
}

// evens gives the four bytes of even weight in x.
func evens(x uint64) uint64 {
	x &= 0x00ff00ff00ff00ff
	x = (x | x>>8) & 0x0000ffff0000ffff
	return (x | x>>16) & 0xffffffff
}

// spread is the inverse of evens.
func spread(x uint64) uint64 {
	x = (x | x<<16) & 0x0000ffff0000ffff
	return (x | x<<8) & 0x00ff00ff00ff00ff
}

// four packs four elements of 16 bits.
func four(w []uint16) uint64 {
	_ = w[3]
	return uint64(w[0]) | uint64(w[1])<<16 | uint64(w[2])<<32 | uint64(w[3])<<48
}

func split16(p0, p1 []byte, w []uint16) {
	n := len(w)
	p0, p1 = p0[:n], p1[:n]
	i := 0
	for ; i+8 <= n; i += 8 {
		x, y := four(w[i:i+4]), four(w[i+4:i+8])
		le.PutUint64(p0[i:i+8], evens(x)|evens(y)<<32)
		le.PutUint64(p1[i:i+8], evens(x>>8)|evens(y>>8)<<32)
	}
	for ; i < n; i++ {
		p0[i], p1[i] = byte(w[i]), byte(w[i]>>8)
	}
}

func merge16(w []uint16, p0, p1 []byte) {
	n := len(w)
	p0, p1 = p0[:n], p1[:n]
	i := 0
	for ; i+8 <= n; i += 8 {
		x, y := le.Uint64(p0[i:i+8]), le.Uint64(p1[i:i+8])
		put(w[i:i+4], spread(x&0xffffffff)|spread(y&0xffffffff)<<8)
		put(w[i+4:i+8], spread(x>>32)|spread(y>>32)<<8)
	}
	for ; i < n; i++ {
		w[i] = uint16(p0[i]) | uint16(p1[i])<<8
	}
}

func put(w []uint16, x uint64) {
	_ = w[3]
	w[0], w[1], w[2], w[3] = uint16(x), uint16(x>>16), uint16(x>>32), uint16(x>>48)
}

func split32(p0, p1, p2, p3 []byte, w []uint32) {
	n := len(w)
	p0, p1, p2, p3 = p0[:n], p1[:n], p2[:n], p3[:n]
	i := 0
	for ; i+8 <= n; i += 8 {
		e := w[i : i+8 : i+8]
		// The low and the high halves of four elements each.
		la, ha := halves(e[0], e[1], e[2], e[3])
		lb, hb := halves(e[4], e[5], e[6], e[7])
		le.PutUint64(p0[i:i+8], evens(la)|evens(lb)<<32)
		le.PutUint64(p1[i:i+8], evens(la>>8)|evens(lb>>8)<<32)
		le.PutUint64(p2[i:i+8], evens(ha)|evens(hb)<<32)
		le.PutUint64(p3[i:i+8], evens(ha>>8)|evens(hb>>8)<<32)
	}
	for ; i < n; i++ {
		v := w[i]
		p0[i], p1[i], p2[i], p3[i] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
	}
}

func halves(a, b, c, d uint32) (low, high uint64) {
	low = uint64(a&0xffff) | uint64(b&0xffff)<<16 | uint64(c&0xffff)<<32 | uint64(d)<<48
	high = uint64(a>>16) | uint64(b>>16)<<16 | uint64(c>>16)<<32 | uint64(d>>16)<<48
	return low, high
}

func merge32(w []uint32, p0, p1, p2, p3 []byte) {
	n := len(w)
	p0, p1, p2, p3 = p0[:n], p1[:n], p2[:n], p3[:n]
	i := 0
	for ; i+4 <= n; i += 4 {
		low := spread(uint64(le.Uint32(p0[i:i+4]))) | spread(uint64(le.Uint32(p1[i:i+4])))<<8
		high := spread(uint64(le.Uint32(p2[i:i+4]))) | spread(uint64(le.Uint32(p3[i:i+4])))<<8
		e := w[i : i+4 : i+4]
		e[0] = uint32(low&0xffff) | uint32(high)<<16
		e[1] = uint32(low>>16&0xffff) | uint32(high>>16)<<16
		e[2] = uint32(low>>32&0xffff) | uint32(high>>32)<<16
		e[3] = uint32(low>>48) | uint32(high>>48)<<16
	}
	for ; i < n; i++ {
		w[i] = uint32(p0[i]) | uint32(p1[i])<<8 | uint32(p2[i])<<16 | uint32(p3[i])<<24
	}
}
