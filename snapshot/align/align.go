// Package align says where a file's chunks may be cut and what they may be made
// from when its tensors lie elsewhere than in an earlier file: in the version
// before whose layout has moved (Moved), or in the file that holds in fp32 what
// this one has in bf16 (Rounded).
//
// Both are the same: ranges of the file lie in the other one at a distance
// (stretch), and the chunks of the other one, moved by that, are the pieces of a
// plan. What headers say is a hint: it decides where chunks end, and what is tried
// as their base.
package align

import (
	"cmp"
	"slices"

	"stepfs/chunkstore"
	"stepfs/chunkstore/pack"
	"stepfs/snapshot/inspect"
)

// Limits are those of chunks.
type Limits struct{ Min, Max int64 }

// stretch is a range of a file: its byte x lies at scale*x+move of the other one.
type stretch struct {
	begin, end  int64
	scale, move int64
	phase       uint8 // where scale is 2: the offset of an element, modulo 2
}

func (s stretch) there(x int64) int64 { return s.scale*x + s.move }

// here gives the first byte that lies at y of the other file, or behind it.
func (s stretch) here(y int64) int64 {
	y -= s.move
	x := y / s.scale
	if x*s.scale < y {
		x++
	}
	return x
}

// plan cuts a file of which stretches are known where the other one is cut.
func plan(all []stretch, size int64, other []chunkstore.Ref, limits Limits) chunkstore.Plan {
	all = join(all, size, limits.Min)
	p := chunkstore.Plan{Whole: true}
	for i := 0; i < len(all); {
		n := i + 1
		for n < len(all) && all[n].begin == all[n-1].end {
			n++
		}
		c := cutter{all: all[i:n], other: other, limits: limits}
		p.Pieces = append(p.Pieces, c.pieces(size)...)
		i = n
	}
	if len(p.Pieces) == 0 {
		return chunkstore.Plan{}
	}
	return p
}

// join has stretches with the same distance that follow each other become one,
// and gives what little lies between two to the second. Where more lies between
// them, which is new, the chunker is left to it.
func join(in []stretch, size, little int64) (out []stretch) {
	for _, s := range in {
		end := int64(0)
		if n := len(out); n > 0 {
			end = out[n-1].end
			if out[n-1].scale == s.scale && out[n-1].move == s.move && s.begin-end < little {
				out[n-1].end = s.end
				continue
			}
		}
		if s.begin-end < little {
			s.begin = end
		}
		out = append(out, s)
	}
	if n := len(out); n > 0 && size-out[n-1].end < little {
		out[n-1].end = size
	}
	return out
}

// cutter cuts stretches without anything in between.
type cutter struct {
	all    []stretch
	other  []chunkstore.Ref
	limits Limits
}

// pieces gives chunks within the limits. A cut of the other file is left out if a
// chunk would be too small; one is added where a chunk would be too large. What
// lies before the first cut, and behind the last, belongs to the chunker, unless
// it begins or ends the file.
func (c *cutter) pieces(size int64) (out []chunkstore.Piece) {
	cuts := c.cuts()
	last := c.all[0].begin
	if last > 0 {
		if len(cuts) == 0 {
			return nil
		}
		last = cuts[0]
	}
	add := func(end int64) {
		for end-last > c.limits.Max {
			n := min(c.limits.Max, end-last-c.limits.Min) // what is left is large enough
			out = append(out, c.piece(last, last+n))
			last += n
		}
		out = append(out, c.piece(last, end))
		last = end
	}
	for _, cut := range cuts {
		if cut-last >= c.limits.Min {
			add(cut)
		}
	}
	if end := c.all[len(c.all)-1].end; end == size && end > last {
		add(end)
	}
	return out
}

// cuts gives where the other file is cut, and where one stretch ends and the next
// begins if that leaves room for a chunk on both sides.
func (c *cutter) cuts() (cuts []int64) {
	var borders []int64
	for i, s := range c.all {
		if i > 0 {
			borders = append(borders, s.begin)
		}
		first, _ := slices.BinarySearchFunc(c.other, s.there(s.begin), func(r chunkstore.Ref, at int64) int {
			return cmp.Compare(r.End(), at)
		})
		for _, r := range c.other[first:] {
			x := s.here(r.End())
			if x >= s.end {
				break
			}
			if x > s.begin {
				cuts = append(cuts, x)
			}
		}
	}
	for _, b := range borders {
		i, there := slices.BinarySearch(cuts, b)
		if !there && (i == 0 || b-cuts[i-1] >= c.limits.Min) && (i == len(cuts) || cuts[i]-b >= c.limits.Min) {
			cuts = slices.Insert(cuts, i, b)
		}
	}
	return cuts
}

// piece gives [from, to) with the chunk of the other file of which most lies there.
func (c *cutter) piece(from, to int64) chunkstore.Piece {
	p := chunkstore.Piece{Off: from, Len: uint32(to - from)}
	most := int64(0)
	near, _ := slices.BinarySearchFunc(c.all, from+1, func(s stretch, at int64) int { return cmp.Compare(s.end, at) })
	for _, s := range c.all[near:] {
		if s.begin >= to {
			break
		}
		a, b := s.there(max(from, s.begin)), s.there(min(to, s.end))
		first, _ := slices.BinarySearchFunc(c.other, a, func(r chunkstore.Ref, at int64) int {
			return cmp.Compare(r.End(), at+1)
		})
		for _, r := range c.other[first:] {
			n := (min(b, r.End()) - max(a, r.Off)) / s.scale
			if r.Off >= b {
				break
			}
			if n > most {
				most, p.ID, p.At, p.Phase = n, r.ID, r.Off, s.phase
				p.Window = pack.Window{Raw: r.Len, Skip: int32(s.there(from) - r.Off), Wide: s.scale == 2}.Normal(p.Len)
			}
		}
	}
	return p
}

// shareMoved is how much of a file has to be found in its version before for a plan.
const shareMoved = 0.5

// Moved gives a plan for a file whose tensors lie elsewhere than in its version
// before, of which refs are the chunks; none, if too few are found.
func Moved(now, before []inspect.Tensor, size int64, refs []chunkstore.Ref, limits Limits) chunkstore.Plan {
	// What has no name is the k-th of its type and length.
	type key struct {
		name, dtype string
		bytes       int64
		k           int
	}
	count := map[key]int{}
	keyOf := func(t inspect.Tensor) key {
		k := key{t.Name, t.Type, t.End - t.Begin, 0}
		count[k]++
		k.k = count[k]
		return k
	}
	places := map[key]int64{}
	for _, t := range before {
		places[keyOf(t)] = t.Begin
	}
	clear(count)
	var all []stretch
	found := int64(0)
	for _, t := range now {
		if there, ok := places[keyOf(t)]; ok {
			all = append(all, stretch{begin: t.Begin, end: t.End, scale: 1, move: there - t.Begin})
			found += t.End - t.Begin
		}
	}
	if float64(found) < shareMoved*float64(size) {
		return chunkstore.Plan{}
	}
	return plan(all, size, refs, limits)
}
