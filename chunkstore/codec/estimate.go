package codec

import "math"

// What to do with a chunk is decided by histograms of samples, one block at a
// time. Nothing is compressed to find out, but for a sample of what has no
// elements, since text cannot be told from its bytes alone.

const (
	window    = 256 << 10 // of the plain bytes, that one decision covers
	pieces    = 16        // of a window are looked at
	pieceSize = 1 << 10

	minGain      = 0.02 // of a chunk, to be encoded at all
	minDeltaGain = 0.02 // of a chunk, over encoding without the base
	gainWidth    = 0.985
	gainSorted   = 0.99
	maybeText    = 0.55 // planes of floats come to more
	gainZstd     = 0.88 // of a sample
)

// sampler has the histograms. Counts of up to a sample's length occur.
type sampler struct {
	nlog   []float32 // n log2 n
	count  [8][256]uint32
	merged [8][256]uint32
	ctx    [maxContexts][8][256]uint32
	bytes  []byte // pieces, of the plain bytes and of the base
	under  []byte
	wide   []byte // of a wide base, before it is rounded
	order  order
	words  [2][maxSample / 8]uint64 // the elements of both
}

const maxSample = max(pieces*pieceSize, segSample)

func (s *sampler) n(count uint32) float32 {
	if s.nlog == nil {
		s.nlog = make([]float32, maxSample+1)
		for i := 2; i < len(s.nlog); i++ {
			s.nlog[i] = float32(float64(i) * math.Log2(float64(i)))
		}
	}
	return s.nlog[count]
}

// entropy gives how many bits the bytes of a histogram take. A sample shows
// fewer of the rare values than there are: Miller and Madow's correction.
func (s *sampler) entropy(h *[256]uint32) (total float64, n uint32) {
	sum, kinds := float32(0), 0
	for _, c := range h {
		if c > 0 {
			n += c
			kinds++
			sum += s.n(c)
		}
	}
	if n == 0 {
		return 0, 0
	}
	bits := float64(s.n(n)-sum) + float64(kinds-1)/(2*math.Ln2)
	return min(bits, 8*float64(n)), n
}

// take copies pieces of b to dst; piece starts are multiples of 8. times is how
// many bytes of b there are for one of the chunk.
func take(dst, b []byte, times int) []byte {
	n := len(b) / times
	if n <= pieces*pieceSize {
		return append(dst[:0], b...)
	}
	dst = dst[:0]
	for i := range pieces {
		at := i * (n - pieceSize) / (pieces - 1) &^ 7
		dst = append(dst, b[times*at:times*(at+pieceSize)]...)
	}
	return dst
}

// segment says how a segment of at least minCoded bytes is best coded.
func (s *sampler) segment(src []byte, deep bool) byte {
	h := &s.merged
	h[0], h[1], h[2], h[3] = [256]uint32{}, [256]uint32{}, [256]uint32{}, [256]uint32{}
	same, nulls, pairs, n := 0, 0, 0, 0 // nulls are the same because they are zero
	step, part := max(1, len(src)/8), len(src)
	if len(src) > segSample {
		part = segSample / 8
	} else {
		step = len(src)
	}
	for at := 0; at+part <= len(src); at += step {
		p := src[at : at+part]
		for i := 0; i+4 <= len(p); i += 4 {
			a, b, c, d := p[i], p[i+1], p[i+2], p[i+3]
			h[0][a]++
			h[1][b]++
			h[2][c]++
			h[3][d]++
			same += isZero(a^b) + isZero(c^d)
			nulls += isZero(a|b) + isZero(c|d)
			pairs += 2
		}
	}
	most, squares := uint32(0), 0.0
	for v := range 256 {
		c := h[0][v] + h[1][v] + h[2][v] + h[3][v]
		h[0][v] = c
		n += int(c)
		most = max(most, c)
		squares += float64(c) * float64(c)
	}
	total, _ := s.entropy(&h[0])
	zeros := float64(h[0][0])
	if !deep && together(float64(same), float64(pairs), squares/float64(n*n)) &&
		!together(float64(same-nulls), float64(pairs-nulls), (squares-zeros*zeros)/max(1, (float64(n)-zeros)*(float64(n)-zeros))) {
		return segSparse // rows of zeros: that is faster than zstd, and no longer
	}
	return pick(float64(n), total/float64(n), float64(most), zeros, squares, float64(same)/float64(pairs), deep)
}

// isZero is 1 or 0, without a branch that nobody can foresee.
func isZero(b byte) int { return int((uint32(b) - 1) >> 31) }

// pick decides for n bytes of entropy bits each.
func pick(n, entropy, most, zeros, squares, same float64, deep bool) byte {
	// A byte that is as frequent as all others together takes a whole bit.
	huff := entropy
	if p := most / n; p > 0.5 {
		huff = 1 + entropy - binary2(p)
	}
	// Equal bytes stand together far more than by chance: zstd finds that.
	if together(same, 1, squares/(n*n)) {
		return segZstd
	}
	if p := zeros / n; !deep && p > 0.5 {
		values := max(entropy-binary2(p), 0) / (1 - p + 1e-9) // bits of one that is not zero
		sparse := max(binary2(p), 0.125) + (1-p)*max(values, 1)
		if sparse < gainSparse*huff {
			return segSparse
		}
	}
	if huff > 8*gainHuff {
		return segRaw
	}
	return segHuff
}

// together says whether equal bytes stand together far more than by chance.
func together(same, pairs, chance float64) bool {
	return pairs-same < 0.5*pairs*(1-chance) || same > pairs*max(0.3, 0.05+1.5*chance)
}

// binary2 is the entropy of a coin.
func binary2(p float64) float64 {
	if p <= 0 || p >= 1 {
		return 0
	}
	return -p*math.Log2(p) - (1-p)*math.Log2(1-p)
}

// choose makes the plan of a chunk.
func (c *Coder) choose(plain, base []byte, hint Hint) Form {
	const small = 64 // below, headers eat the gain
	c.plan = c.plan[:0]
	if len(plain) < small {
		return Raw
	}
	without, with := 0.0, 0.0 // bytes
	for at := 0; at < len(plain); {
		var under []byte
		if base != nil {
			under = base[at*len(base)/len(plain):]
		}
		b, alone, over := c.plans(plain[at:], under, hint, hint.Offset+int64(at))
		without, with = without+alone, with+min(alone, over)
		c.add(b)
		at += b.plain
	}
	need := hint.MinGain
	if need == 0 {
		need = minDeltaGain
	}
	size := float64(len(plain))
	if base != nil && with > without-need*size {
		return c.choose(plain, nil, hint)
	}
	if with > (1-minGain)*size {
		return Raw
	}
	if len(c.plan) == 1 && c.plan[0].mode == modeZstd {
		return Zstd
	}
	form := Blocks
	for _, b := range c.plan {
		if b.mode == modeDelta {
			form = Delta
			if wide(base, plain) {
				form = Rounded
			}
		}
	}
	return form
}

// add puts b on the plan. Blocks without elements may have any length.
func (c *Coder) add(b block) {
	if n := len(c.plan); n > 0 && b.mode < modePlanes && c.plan[n-1].mode == b.mode {
		c.plan[n-1].plain += b.plain
		return
	}
	c.plan = append(c.plan, b)
}

// plans decides for the block at the start of plain, and says what it would
// take without and with the base, in bytes.
func (c *Coder) plans(plain, base []byte, hint Hint, offset int64) (b block, alone, over float64) {
	s := &c.sample
	view := plain[:min(len(plain), window)]
	s.bytes = take(s.bytes, view, 1)
	log, head, bits := s.layout(offset, hint)
	b = block{mode: modePlanes, log: log, head: head}
	b.plain = min(len(plain), head+most(log)<<log)

	perByte := 1 / (8 * float64(len(s.bytes)))
	planes, delta, sorted := bits*perByte, math.Inf(1), false
	if base != nil {
		if wide(base, plain) {
			delta, sorted = s.deltaWide(base[:2*len(view)], log, head)
		} else {
			s.under = take(s.under, base[:len(view)], 1)
			delta, sorted = s.delta(log, head)
		}
		delta *= perByte
	}
	flat, mode := 1.0, byte(modeRaw)
	short := len(view) < pieces*pieceSize
	if short { // zstd costs next to nothing, and may be best for any of it
		flat, mode = c.flat(log, planes, short)
	}
	if delta < (1-minGain)*min(planes, flat) {
		b.mode, b.sorted = modeDelta, sorted
		return b, min(planes, flat) * float64(b.plain), delta * float64(b.plain)
	}
	if !short {
		flat, mode = c.flat(log, planes, short)
	}
	if planes > (1-minGain)*flat {
		b = block{mode: mode, plain: len(view)}
		planes = flat
	}
	return b, planes * float64(b.plain), math.Inf(1)
}

// flat says what the sample takes per byte without elements: raw, or zstd where
// it may be text, since text cannot be told from its bytes alone.
func (c *Coder) flat(log uint8, planes float64, short bool) (size float64, mode byte) {
	s := &c.sample
	if !short && (log == 0 && planes > 7.9/8 || log > 0 && planes > maybeText) || planes == 0 {
		return 1, modeRaw
	}
	c.values = c.appendZstd(c.values[:0], s.bytes)
	if size = float64(len(c.values)) / float64(len(s.bytes)); size < gainZstd {
		return size, modeZstd
	}
	return 1, modeRaw
}

// layout finds the width and place of the elements of the sample, which starts
// at offset of the file, and how many bits they take as planes.
func (s *sampler) layout(offset int64, hint Hint) (log uint8, head int, bits float64) {
	s.count = [8][256]uint32{}
	from := int(offset & 7)
	for i, v := range s.bytes {
		s.count[(from+i)&7][v]++
	}
	var total [4]float64
	var top [4]int // the place of the byte of least entropy, which is the highest
	for l := range uint8(4) {
		total[l], top[l] = s.planes(l)
		if l > log && total[l] < gainWidth*total[log] {
			log = l
		} else if l == 0 {
			log = 0
		}
	}
	phase := (top[log] + 1) & (1<<log - 1)
	if w := hint.Width; w == 1 || w == 2 || w == 4 || w == 8 {
		// Believed, unless the bytes say clearly otherwise.
		if h := log2(w); total[log] > 0.95*total[h] {
			log, phase = h, hint.Phase&(w-1)
		}
	}
	head = (phase - int(offset&7)) & (1<<log - 1)
	if head > len(s.bytes) {
		return 0, 0, total[0]
	}
	return log, head, total[log]
}

// planes gives what the sample takes as planes of elements of 1<<l bytes, and
// the place, modulo that, of the element's last byte. Elements are aligned
// unless the bytes say clearly otherwise.
func (s *sampler) planes(l uint8) (total float64, top int) {
	w := 1 << l
	least, own := math.Inf(1), 0.0
	top = w - 1
	for r := range w {
		h := &s.merged[0]
		*h = s.count[r]
		for k := r + w; k < 8; k += w {
			for v, n := range s.count[k] {
				h[v] += n
			}
		}
		bits, n := s.entropy(h)
		total += bits
		if n > 0 && bits/float64(n) < least {
			least, top = bits/float64(n), r
		}
		if r == w-1 && n > 0 {
			own = bits / float64(n)
		}
	}
	if own < least+0.5 {
		top = w - 1
	}
	return total, top
}

// delta gives how many bits the sample takes over its base, and whether sorting
// pays.
func (s *sampler) delta(log uint8, head int) (bits float64, sorted bool) {
	n := (len(s.bytes) - head) >> log << log
	if n <= 0 {
		return math.Inf(1), false
	}
	a, b := s.bytes[head:head+n], s.under[head:head+n]
	switch log {
	case 0:
		return sampleDelta[uint8](s, a, b)
	case 1:
		return sampleDelta[uint16](s, a, b)
	case 2:
		return sampleDelta[uint32](s, a, b)
	default:
		return sampleDelta[uint64](s, a, b)
	}
}

// elements gives the elements in b; scratch may take them.
func elements[W word](scratch *[maxSample / 8]uint64, b []byte) []W {
	load[W](scratch[:], b)
	return wordsOf[W](scratch[:], len(b)/width[W]())
}

func sampleDelta[W word](s *sampler, v, under []byte) (bits float64, sorted bool) {
	w := width[W]()
	a, b := elements[W](&s.words[0], v), elements[W](&s.words[1], under)
	a = a[:len(b)]
	s.order.count = [orderLanes][256]uint32{}
	for _, u := range b {
		s.order.count[0][key(u)]++
	}
	s.order.settle(len(b))
	for c := range s.order.n {
		for k := range w {
			s.ctx[c][k] = [256]uint32{}
		}
	}
	same, pairs, last := 0, 0, W(1)
	for i, u := range b {
		d := difference(a[i], u)
		if last == 0 {
			pairs++
			if d == 0 {
				same++
			}
		}
		last = d
		h := &s.ctx[s.order.context[key(u)]]
		for k := range w {
			h[k][byte(d>>(8*k))]++
		}
	}
	inOrder, asIs := 0.0, 0.0
	for k := range w {
		s.merged[0] = [256]uint32{}
		for c := range s.order.n {
			h := &s.ctx[c][k]
			bits, _ := s.entropy(h)
			inOrder += bits
			for v, n := range h {
				s.merged[0][v] += n
			}
		}
		bits, _ := s.entropy(&s.merged[0])
		asIs += bits
	}
	// Unchanged elements stand together if one is mostly followed by another,
	// though not all are unchanged.
	n := len(b)
	together := float64(same) > 0.9*float64(pairs) && pairs > n/8
	if together || inOrder > gainSorted*asIs {
		return asIs, false
	}
	return inOrder, true
}
