package align

import (
	"encoding/binary"
	"io"

	"stepfs/chunkstore"
	"stepfs/snapshot/inspect"
)

// Which tensor is the rounding of which is told by their bytes: a few elements of
// the middle of each. Names, order and format of the files may differ. Where
// something rounds otherwise, or the samples agree by chance, a base does not pay.
const (
	sampleElements = 32
	shareRounded   = 0.9 // of the bytes of a file, for it to be cut as the other one is
)

// Narrow says whether a file's tensors are mostly bf16, and so may be the rounding
// of others.
func Narrow(tensors []inspect.Tensor, size int64) bool {
	n := int64(0)
	for _, t := range tensors {
		if t.Type == "BF16" {
			n += t.End - t.Begin
		}
	}
	return float64(n) >= shareRounded*float64(size)
}

// sample is a tensor's bytes, or, of an fp32 one, what they would be as bf16.
type sample struct {
	bytes [2 * sampleElements]byte
	n     int64 // elements
}

// Rounded gives a plan for a file of bf16 tensors over one of fp32 tensors, of
// which refs are the chunks; none, if it is not its rounding. Of the limits half
// count: so long are chunks that hold what the others do.
func Rounded(narrow io.ReaderAt, tensors []inspect.Tensor, size int64,
	wide io.ReaderAt, others []inspect.Tensor, refs []chunkstore.Ref, limits Limits) (chunkstore.Plan, error) {
	places := map[sample][]int64{}
	for _, t := range others {
		n := (t.End - t.Begin) / 4
		if t.Type != "F32" || n < sampleElements {
			continue
		}
		var b [4 * sampleElements]byte
		if _, err := wide.ReadAt(b[:], t.Begin+4*middle(n)); err != nil {
			return chunkstore.Plan{}, err
		}
		s := sample{n: n}
		for i := range sampleElements {
			binary.LittleEndian.PutUint16(s.bytes[2*i:], round(binary.LittleEndian.Uint32(b[4*i:])))
		}
		places[s] = append(places[s], t.Begin)
	}
	var all []stretch
	found, move := int64(0), int64(0)
	for _, t := range tensors {
		s := sample{n: (t.End - t.Begin) / 2}
		if t.Type != "BF16" || s.n < sampleElements || len(places) == 0 {
			continue
		}
		if _, err := narrow.ReadAt(s.bytes[:], t.Begin+2*middle(s.n)); err != nil {
			return chunkstore.Plan{}, err
		}
		at := places[s]
		if len(at) == 0 {
			continue
		}
		next := at[0] - 2*t.Begin
		for _, other := range at { // of several that are alike, the one that goes on
			if other-2*t.Begin == move {
				next = move
			}
		}
		move = next
		found += t.End - t.Begin
		all = append(all, stretch{t.Begin, t.End, 2, move, uint8(t.Begin & 1)})
	}
	if float64(found) < shareRounded*float64(size) {
		return chunkstore.Plan{}, nil
	}
	return plan(all, size, refs, Limits{limits.Min / 2, limits.Max / 2}), nil
}

// middle is the element at which the sample of n begins.
func middle(n int64) int64 { return (n - sampleElements) / 2 }

// round gives the bf16 nearest to an fp32, of two as near the even one.
func round(v uint32) uint16 { return uint16((v + 0x7fff + v>>16&1) >> 16) }
