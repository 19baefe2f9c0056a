package codec

import "math"

// The bf16 weights of a step are often its fp32 weights, rounded. So the fp32 may
// be the base of the bf16: it is rounded as frameworks do it, and what remains is
// the delta from that, which is nothing but where it was rounded otherwise. The
// base of the bytes from i to j of the one are those from 2i to 2j of the other,
// counted from where a tensor begins in both.

// fits says whether base can be that of plain.
func fits(base, plain []byte) bool { return len(base) == len(plain) || wide(base, plain) }

// wide says whether base holds elements of twice the width.
func wide(base, plain []byte) bool { return len(plain) > 0 && len(base) == 2*len(plain) }

func (f Form) usesBase() bool { return f == Delta || f == Rounded }

// round fills dst with the bf16 of the fp32 in base, which is twice as long. The
// first element is behind head bytes of dst.
func round(dst, base []byte, head int) {
	base = base[2*head:]
	for i := range dst[:head] {
		dst[i] = 0
	}
	dst = dst[head:]
	for len(dst) >= 8 && len(base) >= 16 {
		x, y := le.Uint64(base), le.Uint64(base[8:])
		le.PutUint64(dst, half(uint32(x))|half(uint32(x>>32))<<16|half(uint32(y))<<32|half(uint32(y>>32))<<48)
		dst, base = dst[8:], base[16:]
	}
	for len(dst) >= 2 {
		le.PutUint16(dst, uint16(half(le.Uint32(base))))
		dst, base = dst[2:], base[4:]
	}
}

// half rounds an fp32 to the nearest bf16, of two as near to the even one. A NaN
// may become anything.
func half(v uint32) uint64 { return uint64((v + 0x7fff + v>>16&1) >> 16) }

// deltaWide is delta over a wide base.
func (s *sampler) deltaWide(base []byte, log uint8, head int) (bits float64, sorted bool) {
	if log != 1 {
		return math.Inf(1), false
	}
	s.wide = take(s.wide, base, 2)
	s.under = grow(s.under, len(s.bytes))
	round(s.under, s.wide, head)
	return s.delta(log, head)
}
