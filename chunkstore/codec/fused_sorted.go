package codec

// The kernels for differences that are sorted by the base's exponent. They go
// through the lanes of an order side by side, a word of each at a time, and take
// an element of each in turn: what follows on an element of the same key in the
// same lane waits until its place has been counted up. They are written out,
// since loops over lanes keep the compiler from holding them in registers. What
// follows the last whole word of a lane is left to tails.

// quarters gives the first four parts of size bytes.
func quarters(b []byte, size int) (b0, b1, b2, b3 []byte) {
	return b[:size], b[size:][:size], b[2*size:][:size], b[3*size:][:size]
}

// tails calls fn for the elements of each lane that are left when whole words of
// per elements are done, in order.
func tails(n, per int, fn func(lane, i int)) {
	lane := n / orderLanes
	for l := range orderLanes {
		end := (l + 1) * lane
		if l == orderLanes-1 {
			end = n
		}
		for i := l*lane + lane/per*per; i < end; i++ {
			fn(l, i)
		}
	}
}

// take gives the place of the next element of a key in a lane.
func (o *order) take(lane int, key uint8) uint32 {
	at := o.next[lane][key]
	o.next[lane][key] = at + 1
	return at
}

// orderFor is orderOf for the elements that base holds.
func orderFor[W word](o *order, base []byte) {
	o.count = [orderLanes][256]uint32{}
	if width[W]() == 2 {
		count16(o, base)
	} else {
		count32(o, base)
	}
	o.settle(len(base) / width[W]())
}

func count16(o *order, base []byte) {
	n := len(base) / 2
	lane := n / orderLanes
	b0, b1, b2, b3 := quarters(base, 2*lane)
	for i := 0; i+8 <= len(b0); i += 8 {
		u0, u1, u2, u3 := le.Uint64(b0[i:i+8]), le.Uint64(b1[i:i+8]), le.Uint64(b2[i:i+8]), le.Uint64(b3[i:i+8])
		o.count[0][uint8(u0>>7)]++
		o.count[1][uint8(u1>>7)]++
		o.count[2][uint8(u2>>7)]++
		o.count[3][uint8(u3>>7)]++
		o.count[0][uint8(u0>>23)]++
		o.count[1][uint8(u1>>23)]++
		o.count[2][uint8(u2>>23)]++
		o.count[3][uint8(u3>>23)]++
		o.count[0][uint8(u0>>39)]++
		o.count[1][uint8(u1>>39)]++
		o.count[2][uint8(u2>>39)]++
		o.count[3][uint8(u3>>39)]++
		o.count[0][uint8(u0>>55)]++
		o.count[1][uint8(u1>>55)]++
		o.count[2][uint8(u2>>55)]++
		o.count[3][uint8(u3>>55)]++
	}
	tails(n, 4, func(l, i int) { o.count[l][key(le.Uint16(base[2*i:]))]++ })
}

func count32(o *order, base []byte) {
	n := len(base) / 4
	lane := n / orderLanes
	b0, b1, b2, b3 := quarters(base, 4*lane)
	for i := 0; i+8 <= len(b0); i += 8 {
		u0, u1, u2, u3 := le.Uint64(b0[i:i+8]), le.Uint64(b1[i:i+8]), le.Uint64(b2[i:i+8]), le.Uint64(b3[i:i+8])
		o.count[0][uint8(u0>>23)]++
		o.count[1][uint8(u1>>23)]++
		o.count[2][uint8(u2>>23)]++
		o.count[3][uint8(u3>>23)]++
		o.count[0][uint8(u0>>55)]++
		o.count[1][uint8(u1>>55)]++
		o.count[2][uint8(u2>>55)]++
		o.count[3][uint8(u3>>55)]++
	}
	tails(n, 2, func(l, i int) { o.count[l][key(le.Uint32(base[4*i:]))]++ })
}

// subtractDeal puts the differences of plain from base in the order, as sorted.
func subtractDeal[W word](sorted []W, plain, base []byte, o *order) {
	if width[W]() == 2 {
		deal16(sorted, plain, base, o)
	} else {
		deal32(sorted, plain, base, o)
	}
}

func deal16[W word](sorted []W, plain, base []byte, o *order) {
	n := len(base) / 2
	lane := n / orderLanes
	b0, b1, b2, b3 := quarters(base, 2*lane)
	d0, d1, d2, d3 := quarters(plain, 2*lane)
	for i := 2 * squeeze(sorted, plain, base, o); i+8 <= len(b0); i += 8 {
		u0, u1, u2, u3 := le.Uint64(b0[i:i+8]), le.Uint64(b1[i:i+8]), le.Uint64(b2[i:i+8]), le.Uint64(b3[i:i+8])
		v0 := subtractWord[uint16](le.Uint64(d0[i:i+8]), u0)
		v1 := subtractWord[uint16](le.Uint64(d1[i:i+8]), u1)
		v2 := subtractWord[uint16](le.Uint64(d2[i:i+8]), u2)
		v3 := subtractWord[uint16](le.Uint64(d3[i:i+8]), u3)
		p := o.next[0][uint8(u0>>7)]
		o.next[0][uint8(u0>>7)] = p + 1
		sorted[p] = W(v0)
		p = o.next[1][uint8(u1>>7)]
		o.next[1][uint8(u1>>7)] = p + 1
		sorted[p] = W(v1)
		p = o.next[2][uint8(u2>>7)]
		o.next[2][uint8(u2>>7)] = p + 1
		sorted[p] = W(v2)
		p = o.next[3][uint8(u3>>7)]
		o.next[3][uint8(u3>>7)] = p + 1
		sorted[p] = W(v3)
		p = o.next[0][uint8(u0>>23)]
		o.next[0][uint8(u0>>23)] = p + 1
		sorted[p] = W(v0 >> 16)
		p = o.next[1][uint8(u1>>23)]
		o.next[1][uint8(u1>>23)] = p + 1
		sorted[p] = W(v1 >> 16)
		p = o.next[2][uint8(u2>>23)]
		o.next[2][uint8(u2>>23)] = p + 1
		sorted[p] = W(v2 >> 16)
		p = o.next[3][uint8(u3>>23)]
		o.next[3][uint8(u3>>23)] = p + 1
		sorted[p] = W(v3 >> 16)
		p = o.next[0][uint8(u0>>39)]
		o.next[0][uint8(u0>>39)] = p + 1
		sorted[p] = W(v0 >> 32)
		p = o.next[1][uint8(u1>>39)]
		o.next[1][uint8(u1>>39)] = p + 1
		sorted[p] = W(v1 >> 32)
		p = o.next[2][uint8(u2>>39)]
		o.next[2][uint8(u2>>39)] = p + 1
		sorted[p] = W(v2 >> 32)
		p = o.next[3][uint8(u3>>39)]
		o.next[3][uint8(u3>>39)] = p + 1
		sorted[p] = W(v3 >> 32)
		p = o.next[0][uint8(u0>>55)]
		o.next[0][uint8(u0>>55)] = p + 1
		sorted[p] = W(v0 >> 48)
		p = o.next[1][uint8(u1>>55)]
		o.next[1][uint8(u1>>55)] = p + 1
		sorted[p] = W(v1 >> 48)
		p = o.next[2][uint8(u2>>55)]
		o.next[2][uint8(u2>>55)] = p + 1
		sorted[p] = W(v2 >> 48)
		p = o.next[3][uint8(u3>>55)]
		o.next[3][uint8(u3>>55)] = p + 1
		sorted[p] = W(v3 >> 48)
	}
	tails(n, 4, func(l, i int) {
		b := le.Uint16(base[2*i:])
		sorted[o.take(l, key(b))] = W(difference(le.Uint16(plain[2*i:]), b))
	})
}

func deal32[W word](sorted []W, plain, base []byte, o *order) {
	n := len(base) / 4
	lane := n / orderLanes
	b0, b1, b2, b3 := quarters(base, 4*lane)
	d0, d1, d2, d3 := quarters(plain, 4*lane)
	for i := 4 * squeeze(sorted, plain, base, o); i+8 <= len(b0); i += 8 {
		u0, u1, u2, u3 := le.Uint64(b0[i:i+8]), le.Uint64(b1[i:i+8]), le.Uint64(b2[i:i+8]), le.Uint64(b3[i:i+8])
		v0 := subtractWord[uint32](le.Uint64(d0[i:i+8]), u0)
		v1 := subtractWord[uint32](le.Uint64(d1[i:i+8]), u1)
		v2 := subtractWord[uint32](le.Uint64(d2[i:i+8]), u2)
		v3 := subtractWord[uint32](le.Uint64(d3[i:i+8]), u3)
		p := o.next[0][uint8(u0>>23)]
		o.next[0][uint8(u0>>23)] = p + 1
		sorted[p] = W(v0)
		p = o.next[1][uint8(u1>>23)]
		o.next[1][uint8(u1>>23)] = p + 1
		sorted[p] = W(v1)
		p = o.next[2][uint8(u2>>23)]
		o.next[2][uint8(u2>>23)] = p + 1
		sorted[p] = W(v2)
		p = o.next[3][uint8(u3>>23)]
		o.next[3][uint8(u3>>23)] = p + 1
		sorted[p] = W(v3)
		p = o.next[0][uint8(u0>>55)]
		o.next[0][uint8(u0>>55)] = p + 1
		sorted[p] = W(v0 >> 32)
		p = o.next[1][uint8(u1>>55)]
		o.next[1][uint8(u1>>55)] = p + 1
		sorted[p] = W(v1 >> 32)
		p = o.next[2][uint8(u2>>55)]
		o.next[2][uint8(u2>>55)] = p + 1
		sorted[p] = W(v2 >> 32)
		p = o.next[3][uint8(u3>>55)]
		o.next[3][uint8(u3>>55)] = p + 1
		sorted[p] = W(v3 >> 32)
	}
	tails(n, 2, func(l, i int) {
		b := le.Uint32(base[4*i:])
		sorted[o.take(l, key(b))] = W(difference(le.Uint32(plain[4*i:]), b))
	})
}

// gatherAdd is the inverse of subtractDeal: it fills dst.
func gatherAdd[W word](dst []byte, sorted []W, base []byte, o *order) {
	if width[W]() == 2 {
		gather16(dst, sorted, base, o)
	} else {
		gather32(dst, sorted, base, o)
	}
}

func gather16[W word](dst []byte, sorted []W, base []byte, o *order) {
	n := len(base) / 2
	lane := n / orderLanes
	b0, b1, b2, b3 := quarters(base, 2*lane)
	d0, d1, d2, d3 := quarters(dst, 2*lane)
	for i := 2 * spread(dst, sorted, base, o); i+8 <= len(b0); i += 8 {
		u0, u1, u2, u3 := le.Uint64(b0[i:i+8]), le.Uint64(b1[i:i+8]), le.Uint64(b2[i:i+8]), le.Uint64(b3[i:i+8])
		p := o.next[0][uint8(u0>>7)]
		o.next[0][uint8(u0>>7)] = p + 1
		v0 := uint64(sorted[p])
		p = o.next[1][uint8(u1>>7)]
		o.next[1][uint8(u1>>7)] = p + 1
		v1 := uint64(sorted[p])
		p = o.next[2][uint8(u2>>7)]
		o.next[2][uint8(u2>>7)] = p + 1
		v2 := uint64(sorted[p])
		p = o.next[3][uint8(u3>>7)]
		o.next[3][uint8(u3>>7)] = p + 1
		v3 := uint64(sorted[p])
		p = o.next[0][uint8(u0>>23)]
		o.next[0][uint8(u0>>23)] = p + 1
		v0 |= uint64(sorted[p]) << 16
		p = o.next[1][uint8(u1>>23)]
		o.next[1][uint8(u1>>23)] = p + 1
		v1 |= uint64(sorted[p]) << 16
		p = o.next[2][uint8(u2>>23)]
		o.next[2][uint8(u2>>23)] = p + 1
		v2 |= uint64(sorted[p]) << 16
		p = o.next[3][uint8(u3>>23)]
		o.next[3][uint8(u3>>23)] = p + 1
		v3 |= uint64(sorted[p]) << 16
		p = o.next[0][uint8(u0>>39)]
		o.next[0][uint8(u0>>39)] = p + 1
		v0 |= uint64(sorted[p]) << 32
		p = o.next[1][uint8(u1>>39)]
		o.next[1][uint8(u1>>39)] = p + 1
		v1 |= uint64(sorted[p]) << 32
		p = o.next[2][uint8(u2>>39)]
		o.next[2][uint8(u2>>39)] = p + 1
		v2 |= uint64(sorted[p]) << 32
		p = o.next[3][uint8(u3>>39)]
		o.next[3][uint8(u3>>39)] = p + 1
		v3 |= uint64(sorted[p]) << 32
		p = o.next[0][uint8(u0>>55)]
		o.next[0][uint8(u0>>55)] = p + 1
		v0 |= uint64(sorted[p]) << 48
		p = o.next[1][uint8(u1>>55)]
		o.next[1][uint8(u1>>55)] = p + 1
		v1 |= uint64(sorted[p]) << 48
		p = o.next[2][uint8(u2>>55)]
		o.next[2][uint8(u2>>55)] = p + 1
		v2 |= uint64(sorted[p]) << 48
		p = o.next[3][uint8(u3>>55)]
		o.next[3][uint8(u3>>55)] = p + 1
		v3 |= uint64(sorted[p]) << 48
		le.PutUint64(d0[i:i+8], addWord[uint16](v0, u0))
		le.PutUint64(d1[i:i+8], addWord[uint16](v1, u1))
		le.PutUint64(d2[i:i+8], addWord[uint16](v2, u2))
		le.PutUint64(d3[i:i+8], addWord[uint16](v3, u3))
	}
	tails(n, 4, func(l, i int) {
		b := le.Uint16(base[2*i:])
		le.PutUint16(dst[2*i:], undo(uint16(sorted[o.take(l, key(b))]), b))
	})
}

func gather32[W word](dst []byte, sorted []W, base []byte, o *order) {
	n := len(base) / 4
	lane := n / orderLanes
	b0, b1, b2, b3 := quarters(base, 4*lane)
	d0, d1, d2, d3 := quarters(dst, 4*lane)
	for i := 4 * spread(dst, sorted, base, o); i+8 <= len(b0); i += 8 {
		u0, u1, u2, u3 := le.Uint64(b0[i:i+8]), le.Uint64(b1[i:i+8]), le.Uint64(b2[i:i+8]), le.Uint64(b3[i:i+8])
		p := o.next[0][uint8(u0>>23)]
		o.next[0][uint8(u0>>23)] = p + 1
		v0 := uint64(sorted[p])
		p = o.next[1][uint8(u1>>23)]
		o.next[1][uint8(u1>>23)] = p + 1
		v1 := uint64(sorted[p])
		p = o.next[2][uint8(u2>>23)]
		o.next[2][uint8(u2>>23)] = p + 1
		v2 := uint64(sorted[p])
		p = o.next[3][uint8(u3>>23)]
		o.next[3][uint8(u3>>23)] = p + 1
		v3 := uint64(sorted[p])
		p = o.next[0][uint8(u0>>55)]
		o.next[0][uint8(u0>>55)] = p + 1
		v0 |= uint64(sorted[p]) << 32
		p = o.next[1][uint8(u1>>55)]
		o.next[1][uint8(u1>>55)] = p + 1
		v1 |= uint64(sorted[p]) << 32
		p = o.next[2][uint8(u2>>55)]
		o.next[2][uint8(u2>>55)] = p + 1
		v2 |= uint64(sorted[p]) << 32
		p = o.next[3][uint8(u3>>55)]
		o.next[3][uint8(u3>>55)] = p + 1
		v3 |= uint64(sorted[p]) << 32
		le.PutUint64(d0[i:i+8], addWord[uint32](v0, u0))
		le.PutUint64(d1[i:i+8], addWord[uint32](v1, u1))
		le.PutUint64(d2[i:i+8], addWord[uint32](v2, u2))
		le.PutUint64(d3[i:i+8], addWord[uint32](v3, u3))
	}
	tails(n, 2, func(l, i int) {
		b := le.Uint32(base[4*i:])
		le.PutUint32(dst[4*i:], undo(uint32(sorted[o.take(l, key(b))]), b))
	})
}
