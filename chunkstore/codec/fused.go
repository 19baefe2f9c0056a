package codec

import "runtime"

// Elements of two and four bytes, which is what checkpoints are made of, have
// kernels of their own, that do in one pass over the memory what load, rotate,
// subtract, deal, split and their inverses do one after the other. They take
// elements from where they are, eight bytes at a time, at any address. The plain
// ones remain, for other widths and machines, and are what these are held
// against (TestFused, FuzzFused).
//
// A kernel asks for slices of the lengths that it says; what is less than a
// word at the end is done element by element.

// direct says that the machine is little-endian and loads words from anywhere.
const direct = runtime.GOARCH == "amd64" || runtime.GOARCH == "arm64"

// fused says whether there are kernels for elements of 1<<log bytes.
func (c *Coder) fused(log uint8) bool { return direct && !c.plain && (log == 1 || log == 2) }

// The operations on all elements of a word at a time. What they are is said
// where they are for slices: rotate, unrotate, subtract, add.

func rotateWord[W word](v uint64) uint64 {
	one, _ := lanes[W]()
	return v<<1&^one | v>>(8*width[W]()-1)&one
}

func unrotateWord[W word](v uint64) uint64 {
	_, sign := lanes[W]()
	return v>>1&^sign | v<<(8*width[W]()-1)&sign
}

func subtractWord[W word](v, b uint64) uint64 {
	one, sign := lanes[W]()
	top := 8*width[W]() - 1
	d := (v | sign) - b&^sign
	negative := d >> (top - 1) & one
	return (d<<1&^one^(negative<<top-negative))&^sign | (v^b)&sign
}

func addWord[W word](d, b uint64) uint64 {
	one, sign := lanes[W]()
	top := 8*width[W]() - 1
	negative := d & one
	m := d&^sign>>1&^sign ^ (negative<<top - negative)
	return (b&^sign+m)&^sign | (d^b)&sign
}

// planesOf fills planes with those of the elements of plain: rotated, or, if
// there is a base, their differences from it. All are of one length.
func planesOf[W word](planes, plain, base []byte) {
	if width[W]() == 2 {
		planes16(planes, plain, base)
	} else {
		planes32(planes, plain, base)
	}
}

// elementsOf is the inverse of planesOf: it fills dst.
func elementsOf[W word](dst, planes, base []byte) {
	if width[W]() == 2 {
		elements16(dst, planes, base)
	} else {
		elements32(dst, planes, base)
	}
}

// splitFast is split, and mergeFast merge, by vectors where the machine has them.
func splitFast[W word](planes []byte, w []uint64, n int) {
	if done := splitVectors[W](planes, wordsOf[byte](w, n*width[W]()), 0); done > 0 {
		splitRest[W](planes, w, n, done)
		return
	}
	split[W](planes, w, n)
}

func mergeFast[W word](w []uint64, planes []byte, n int) {
	if done := mergeVectors[W](wordsOf[byte](w, n*width[W]()), planes, 0); done > 0 {
		mergeRest[W](w, planes, n, done)
		return
	}
	merge[W](w, planes, n)
}

func planes16(planes, plain, base []byte) {
	n := len(plain) / 2
	p0, p1 := planes[:n], planes[n:2*n]
	i := 0
	if base == nil {
		i = splitVectors[uint16](planes, plain, 1)
	}
	for ; i+8 <= n; i += 8 {
		v := plain[2*i : 2*i+16]
		a, b := le.Uint64(v), le.Uint64(v[8:])
		if base == nil {
			a, b = rotateWord[uint16](a), rotateWord[uint16](b)
		} else {
			u := base[2*i : 2*i+16]
			a, b = subtractWord[uint16](a, le.Uint64(u)), subtractWord[uint16](b, le.Uint64(u[8:]))
		}
		a, b = exchange32(a, b)
		a, b = exchange16(a, b)
		a, b = exchange8(a, b)
		le.PutUint64(p0[i:i+8], a)
		le.PutUint64(p1[i:i+8], b)
	}
	for ; i < n; i++ {
		v := le.Uint16(plain[2*i:])
		if base == nil {
			v = v<<1 | v>>15
		} else {
			v = difference(v, le.Uint16(base[2*i:]))
		}
		p0[i], p1[i] = byte(v), byte(v>>8)
	}
}

func elements16(dst, planes, base []byte) {
	n := len(dst) / 2
	p0, p1 := planes[:n], planes[n:2*n]
	i := 0
	if base == nil {
		i = mergeVectors[uint16](dst, planes, 1)
	}
	for ; i+8 <= n; i += 8 {
		a, b := exchange8(le.Uint64(p0[i:i+8]), le.Uint64(p1[i:i+8]))
		a, b = exchange16(a, b)
		a, b = exchange32(a, b)
		if base == nil {
			a, b = unrotateWord[uint16](a), unrotateWord[uint16](b)
		} else {
			u := base[2*i : 2*i+16]
			a, b = addWord[uint16](a, le.Uint64(u)), addWord[uint16](b, le.Uint64(u[8:]))
		}
		v := dst[2*i : 2*i+16]
		le.PutUint64(v, a)
		le.PutUint64(v[8:], b)
	}
	for ; i < n; i++ {
		v := uint16(p0[i]) | uint16(p1[i])<<8
		if base == nil {
			v = v>>1 | v<<15
		} else {
			v = undo(v, le.Uint16(base[2*i:]))
		}
		le.PutUint16(dst[2*i:], v)
	}
}

func planes32(planes, plain, base []byte) {
	n := len(plain) / 4
	p0, p1, p2, p3 := planes[:n], planes[n:2*n], planes[2*n:3*n], planes[3*n:4*n]
	i := 0
	if base == nil {
		i = splitVectors[uint32](planes, plain, 1)
	}
	for ; i+8 <= n; i += 8 {
		v := plain[4*i : 4*i+32]
		e0, e1, e2, e3 := le.Uint64(v), le.Uint64(v[8:]), le.Uint64(v[16:]), le.Uint64(v[24:])
		if base == nil {
			e0, e1 = rotateWord[uint32](e0), rotateWord[uint32](e1)
			e2, e3 = rotateWord[uint32](e2), rotateWord[uint32](e3)
		} else {
			u := base[4*i : 4*i+32]
			e0, e1 = subtractWord[uint32](e0, le.Uint64(u)), subtractWord[uint32](e1, le.Uint64(u[8:]))
			e2, e3 = subtractWord[uint32](e2, le.Uint64(u[16:])), subtractWord[uint32](e3, le.Uint64(u[24:]))
		}
		a, b := exchange32(e0, e2)
		c, d := exchange32(e1, e3)
		a, c = exchange16(a, c)
		b, d = exchange16(b, d)
		a, b = exchange8(a, b)
		c, d = exchange8(c, d)
		le.PutUint64(p0[i:i+8], a)
		le.PutUint64(p1[i:i+8], b)
		le.PutUint64(p2[i:i+8], c)
		le.PutUint64(p3[i:i+8], d)
	}
	for ; i < n; i++ {
		v := le.Uint32(plain[4*i:])
		if base == nil {
			v = v<<1 | v>>31
		} else {
			v = difference(v, le.Uint32(base[4*i:]))
		}
		p0[i], p1[i], p2[i], p3[i] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
	}
}

func elements32(dst, planes, base []byte) {
	n := len(dst) / 4
	p0, p1, p2, p3 := planes[:n], planes[n:2*n], planes[2*n:3*n], planes[3*n:4*n]
	i := 0
	if base == nil {
		i = mergeVectors[uint32](dst, planes, 1)
	}
	for ; i+8 <= n; i += 8 {
		a, b := exchange8(le.Uint64(p0[i:i+8]), le.Uint64(p1[i:i+8]))
		c, d := exchange8(le.Uint64(p2[i:i+8]), le.Uint64(p3[i:i+8]))
		a, c = exchange16(a, c)
		b, d = exchange16(b, d)
		e0, e2 := exchange32(a, b)
		e1, e3 := exchange32(c, d)
		if base == nil {
			e0, e1 = unrotateWord[uint32](e0), unrotateWord[uint32](e1)
			e2, e3 = unrotateWord[uint32](e2), unrotateWord[uint32](e3)
		} else {
			u := base[4*i : 4*i+32]
			e0, e1 = addWord[uint32](e0, le.Uint64(u)), addWord[uint32](e1, le.Uint64(u[8:]))
			e2, e3 = addWord[uint32](e2, le.Uint64(u[16:])), addWord[uint32](e3, le.Uint64(u[24:]))
		}
		v := dst[4*i : 4*i+32]
		le.PutUint64(v, e0)
		le.PutUint64(v[8:], e1)
		le.PutUint64(v[16:], e2)
		le.PutUint64(v[24:], e3)
	}
	for ; i < n; i++ {
		v := uint32(p0[i]) | uint32(p1[i])<<8 | uint32(p2[i])<<16 | uint32(p3[i])<<24
		if base == nil {
			v = v>>1 | v<<31
		} else {
			v = undo(v, le.Uint32(base[4*i:]))
		}
		le.PutUint32(dst[4*i:], v)
	}
}
