package bucket

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"maps"
	"math"
	"slices"
)

// PackID is what makes a pack's key one that was never used before.
type PackID struct {
	Writer Writer
	Seq    uint64
}

// ID tells a pack from all others.
func (p Pack) ID() PackID { return PackID{p.Writer, p.Seq} }

// PackSet is a set of packs. Of each writer it has spans of numbers, so what was
// deleted in years takes no more room than what is left. It is never changed.
type PackSet map[Writer][]span

// span is the numbers from first to last.
type span struct{ first, last uint64 }

// NewPackSet makes a set.
func NewPackSet(ids ...PackID) PackSet {
	s := PackSet{}
	for _, id := range ids {
		s[id.Writer] = append(s[id.Writer], span{id.Seq, id.Seq})
	}
	for w := range s {
		s[w] = joined(s[w])
	}
	return s
}

// joined sorts spans and joins those that touch.
func joined(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.first, b.first) })
	out := spans[:0]
	for _, n := range spans {
		if k := len(out) - 1; k >= 0 && (out[k].last == math.MaxUint64 || n.first <= out[k].last+1) {
			out[k].last = max(out[k].last, n.last)
		} else {
			out = append(out, n)
		}
	}
	return out
}

// Has says whether a pack is in the set.
func (s PackSet) Has(id PackID) bool {
	spans := s[id.Writer]
	k, _ := slices.BinarySearchFunc(spans, id.Seq, func(n span, seq uint64) int { return cmp.Compare(n.last, seq) })
	return k < len(spans) && spans[k].first <= id.Seq
}

// Union gives what is in one of the two.
func (s PackSet) Union(o PackSet) PackSet {
	u := PackSet{}
	for w := range s {
		u[w] = joined(slices.Concat(s[w], o[w]))
	}
	for w := range o {
		if _, both := s[w]; !both {
			u[w] = o[w]
		}
	}
	return u
}

// Minus gives what is in s alone.
func (s PackSet) Minus(o PackSet) PackSet {
	left := PackSet{}
	for w, spans := range s {
		if rest := without(spans, o[w]); len(rest) > 0 {
			left[w] = rest
		}
	}
	return left
}

func without(spans, holes []span) (rest []span) {
	for _, n := range spans {
		for len(holes) > 0 && holes[0].last < n.first {
			holes = holes[1:]
		}
		whole := true // what is left of n begins at n.first
		for _, h := range holes {
			if h.first > n.last {
				break
			}
			if h.first > n.first {
				rest = append(rest, span{n.first, h.first - 1})
			}
			if whole = h.last < n.last; !whole {
				break
			}
			n.first = h.last + 1
		}
		if whole {
			rest = append(rest, n)
		}
	}
	return rest
}

// Empty says whether nothing is in the set.
func (s PackSet) Empty() bool { return len(s) == 0 }

// appendTo encodes the set: uv writers, in ascending order, and for each: its 8
// bytes, uv spans, and for each: uv numbers between it and the one before that
// are left out (at least one, and not counted; of the first: those from 0 on),
// uv numbers in it but for the first.
func (s PackSet) appendTo(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	for _, w := range slices.SortedFunc(maps.Keys(s), func(a, b Writer) int { return bytes.Compare(a[:], b[:]) }) {
		b = append(b, w[:]...)
		b = binary.AppendUvarint(b, uint64(len(s[w])))
		least := uint64(0)
		for _, n := range s[w] {
			b = binary.AppendUvarint(b, n.first-least)
			b = binary.AppendUvarint(b, n.last-n.first)
			least = n.last + 2
		}
	}
	return b
}

// packSet takes a set off the front.
func (r *reader) packSet() PackSet {
	s := PackSet{}
	var before Writer
	for k := range r.count(len(before) + 3) {
		var w Writer
		r.take(w[:])
		if k > 0 && bytes.Compare(before[:], w[:]) >= 0 {
			r.fail("writers out of order")
		}
		spans := make([]span, r.count(2))
		least, full := uint64(0), false
		for j := range spans {
			gap, more := r.uvarint(), r.uvarint()
			if full || gap > math.MaxUint64-least || more > math.MaxUint64-least-gap {
				r.fail("numbers out of range")
				return s
			}
			spans[j] = span{least + gap, least + gap + more}
			full = spans[j].last >= math.MaxUint64-1
			least = spans[j].last + 2
		}
		if len(spans) == 0 {
			r.fail("a writer of no packs")
			return s
		}
		s[w], before = spans, w
	}
	return s
}
