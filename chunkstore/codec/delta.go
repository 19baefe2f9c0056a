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

// subtract turns elements into their differences from base, as difference does,
// all lanes of 64 bits at once. A lane's highest bit is set before another is
// taken from it, so nothing is borrowed from the next.
func subtract[W word](w, base []uint64) {
	one, sign := lanes[W]()
	top := 8*width[W]() - 1
	base = base[:len(w)]
	for i, v := range w {
		b := base[i]
		d := (v | sign) - b&^sign
		negative := d >> (top - 1) & one
		w[i] = (d<<1&^one^(negative<<top-negative))&^sign | (v^b)&sign
	}
}

// add is the inverse of subtract.
func add[W word](d, base []uint64) {
	one, sign := lanes[W]()
	top := 8*width[W]() - 1
	base = base[:len(d)]
	for i, v := range d {
		b := base[i]
		negative := v & one
		m := v&^sign>>1&^sign ^ (negative<<top - negative)
		d[i] = (b&^sign+m)&^sign | (v^b)&sign
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
	orderLanes = 4
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
	context [256]uint8              // of a key
	next    [orderLanes][256]uint32 // where the next element of a key goes
	count   [orderLanes][256]uint32
}

// unsorted is one context that holds n elements as they are.
func (o *order) unsorted(n int) { o.n, o.size[0] = 1, n }

// orderOf works out the order for a base.
func orderOf[W word](o *order, base []W) {
	o.count = [orderLanes][256]uint32{}
	n := len(base)
	lane, i, shift := n/orderLanes, 0, 8*width[W]()-8 // shift is what key does
	for ; i < lane; i++ {
		j := i
		o.count[0][uint8(uint64(base[j])<<1>>shift)]++
		j += lane
		o.count[1][uint8(uint64(base[j])<<1>>shift)]++
		j += lane
		o.count[2][uint8(uint64(base[j])<<1>>shift)]++
		j += lane
		o.count[3][uint8(uint64(base[j])<<1>>shift)]++
	}
	for _, b := range base[orderLanes*lane:] {
		o.count[3][key(b)]++
	}
	o.settle(n)
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
		for l := range orderLanes {
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

// deal puts the elements of w in the order, as out. It and gather take one of
// each lane in turn: what follows on an element of the same key waits until its
// place has been counted up. They are written out, with few variables: closures
// and slices of the lanes keep the compiler from holding them in registers.
func deal[W word](out, w, base []W, o *order) {
	n := len(base)
	out, w = out[:n], w[:n]
	lane, i, shift := n/orderLanes, 0, 8*width[W]()-8 // shift is what key does
	for ; i < lane; i++ {
		j := i
		k := uint8(uint64(base[j]) << 1 >> shift)
		at := o.next[0][k]
		o.next[0][k] = at + 1
		out[at] = w[j]
		j += lane
		k = uint8(uint64(base[j]) << 1 >> shift)
		at = o.next[1][k]
		o.next[1][k] = at + 1
		out[at] = w[j]
		j += lane
		k = uint8(uint64(base[j]) << 1 >> shift)
		at = o.next[2][k]
		o.next[2][k] = at + 1
		out[at] = w[j]
		j += lane
		k = uint8(uint64(base[j]) << 1 >> shift)
		at = o.next[3][k]
		o.next[3][k] = at + 1
		out[at] = w[j]
	}
	for i = orderLanes * lane; i < n; i++ {
		k := uint8(uint64(base[i]) << 1 >> shift)
		at := o.next[3][k]
		o.next[3][k] = at + 1
		out[at] = w[i]
	}
}

// gather is the inverse of deal: it fills w.
func gather[W word](w, sorted, base []W, o *order) {
	n := len(base)
	w, sorted = w[:n], sorted[:n]
	lane, i, shift := n/orderLanes, 0, 8*width[W]()-8 // shift is what key does
	for ; i < lane; i++ {
		j := i
		k := uint8(uint64(base[j]) << 1 >> shift)
		at := o.next[0][k]
		o.next[0][k] = at + 1
		w[j] = sorted[at]
		j += lane
		k = uint8(uint64(base[j]) << 1 >> shift)
		at = o.next[1][k]
		o.next[1][k] = at + 1
		w[j] = sorted[at]
		j += lane
		k = uint8(uint64(base[j]) << 1 >> shift)
		at = o.next[2][k]
		o.next[2][k] = at + 1
		w[j] = sorted[at]
		j += lane
		k = uint8(uint64(base[j]) << 1 >> shift)
		at = o.next[3][k]
		o.next[3][k] = at + 1
		w[j] = sorted[at]
	}
	for i = orderLanes * lane; i < n; i++ {
		k := uint8(uint64(base[i]) << 1 >> shift)
		at := o.next[3][k]
		o.next[3][k] = at + 1
		w[i] = sorted[at]
	}
}
