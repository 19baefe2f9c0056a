package codec

// A delta is the difference of two floats at the same place of two versions,
// taken of their bits as integers without the sign: neighbours among the
// floats are neighbours there, across exponents too, so a small step is a small
// number, whereas XOR turns a carry into a run of ones. The difference is
// folded so that its sign is its lowest bit; the highest bit says that the sign
// changed, which is rare. Whatever the elements really are, it can be undone.

// difference gives that of an element and its base.
func difference[W word](v, b W) W {
	size := 8 * width[W]()
	sign := W(1) << (size - 1)
	d := (v - b) &^ sign
	d = (d<<1 ^ -(d >> (size - 2))) &^ sign
	return d | (v^b)&sign
}

// undo is the inverse of difference.
func undo[W word](d, b W) W {
	sign := W(1) << (8*width[W]() - 1)
	m := d &^ sign
	return (b+(m>>1^-(m&1)))&^sign | (d^b)&sign
}

// subtract writes the differences from base to out.
func subtract[W word](out, w, base []W) {
	out, w = out[:len(base)], w[:len(base)]
	for i, b := range base {
		out[i] = difference(w[i], b)
	}
}

// add is the inverse of subtract.
func add[W word](d, base []W) {
	d = d[:len(base)]
	for i, b := range base {
		d[i] = undo(d[i], b)
	}
}

// How far an element moves, counted in its last bits, depends on its exponent,
// and both sides know the base's. So the differences are sorted by it: a
// context is a range of exponents, and each context's planes have a code of
// their own. Where most elements did not change they stay as they are: what did
// not change stands together, in rows of a table, and sorting would tear it up.

const (
	maxContexts = 8
	// A context has at least one in contextShare elements, or the tables of
	// its codes cost more than it saves.
	contextShare = 16
	// The elements are dealt out from as many places at a time, so that one
	// need not wait for the one before it.
	lanes = 4
)

// key is the exponent of an fp32 or a bf16, the exponent and the first bits
// behind it of an fp16, most of the exponent of an fp64.
func key[W word](b W) uint8 { return uint8(b << 1 >> (8*width[W]() - 8)) }

// order says where the elements of a block stand when they are sorted: by key,
// the largest first, and those of a key by lane. A context is a range of keys.
// It all follows from the base alone.
type order struct {
	n       int // contexts
	size    [maxContexts]int
	context [256]uint8         // of a key
	next    [lanes][256]uint32 // where the next element of a key goes
	count   [lanes][256]uint32
}

// unsorted is one context that holds n elements as they are.
func (o *order) unsorted(n int) { o.n, o.size[0] = 1, n }

// orderOf works out the order for a base.
func orderOf[W word](o *order, base []W) {
	o.count = [lanes][256]uint32{}
	lane := len(base) / lanes
	b0, b1, b2, b3 := base[:lane], base[lane:2*lane], base[2*lane:3*lane], base[3*lane:]
	b1, b2 = b1[:len(b0)], b2[:len(b0)]
	for i, b := range b0 {
		o.count[0][key(b)]++
		o.count[1][key(b1[i])]++
		o.count[2][key(b2[i])]++
		o.count[3][key(b3[i])]++
	}
	for _, b := range b3[lane:] {
		o.count[3][key(b)]++
	}
	o.settle(len(base))
}

// settle groups the keys into contexts and lays the elements out. The last
// context would be small: it joins the one before it.
func (o *order) settle(n int) {
	o.size, o.n = [maxContexts]int{}, 0
	share := max(n/contextShare, 1)
	at := uint32(0)
	for k := 255; k >= 0; k-- {
		if o.n < maxContexts-1 && o.size[o.n] >= share {
			o.n++
		}
		o.context[k] = uint8(o.n)
		for l := range lanes {
			o.next[l][k] = at
			at += o.count[l][k]
			o.size[o.n] += int(o.count[l][k])
		}
	}
	if last := o.n; last > 0 && o.size[last] < share {
		o.n--
		o.size[last-1] += o.size[last]
		for k := range o.context {
			o.context[k] = min(o.context[k], uint8(o.n))
		}
	}
	o.n++
}

// deal writes the differences from base to out, in the order. It and gather
// have a step for each lane, as closures: those are inlined, generic functions
// of this size are not.
func deal[W word](out, w, base []W, o *order) {
	lane := len(base) / lanes
	b0, b1, b2, b3 := base[:lane], base[lane:2*lane], base[2*lane:3*lane], base[3*lane:]
	w0, w1, w2, w3 := w[:lane], w[lane:2*lane], w[2*lane:3*lane], w[3*lane:len(base)]
	step := func(next *[256]uint32, v, b W) {
		k := key(b)
		at := next[k]
		next[k] = at + 1
		out[at] = difference(v, b)
	}
	for i, b := range b0 {
		step(&o.next[0], w0[i], b)
		step(&o.next[1], w1[i], b1[i])
		step(&o.next[2], w2[i], b2[i])
		step(&o.next[3], w3[i], b3[i])
	}
	for i := lane; i < len(b3); i++ {
		step(&o.next[3], w3[i], b3[i])
	}
}

// gather is the inverse of deal: base becomes the elements.
func gather[W word](base, sorted []W, o *order) {
	lane := len(base) / lanes
	b0, b1, b2, b3 := base[:lane], base[lane:2*lane], base[2*lane:3*lane], base[3*lane:]
	step := func(next *[256]uint32, b W) W {
		k := key(b)
		at := next[k]
		next[k] = at + 1
		return undo(sorted[at], b)
	}
	for i, b := range b0 {
		b0[i] = step(&o.next[0], b)
		b1[i] = step(&o.next[1], b1[i])
		b2[i] = step(&o.next[2], b2[i])
		b3[i] = step(&o.next[3], b3[i])
	}
	for i := lane; i < len(b3); i++ {
		b3[i] = step(&o.next[3], b3[i])
	}
}
