package pack

import "fmt"

// MaxDepth is how many chunks a reader decodes one after the other, at most, to
// come to a chunk.
const MaxDepth = 16

// Base is what a delta is one from. A base has a smaller depth than what is
// made from it: so no chain leads back to where it began.
type Base struct {
	ID    ID
	Depth uint8 // of the delta: it takes no more than so many bases, one from the other
	Turn  uint8 // of the delta: how many versions it is behind one that has no base
}

const baseSize = 34

// Append appends the extension of a delta: base 32, depth 1, turn 1.
func (b Base) Append(dst []byte) []byte { return append(append(dst, b.ID[:]...), b.Depth, b.Turn) }

// ParseBase is the inverse of Append.
func ParseBase(ext []byte) (Base, error) {
	if len(ext) != baseSize || ext[32] == 0 || ext[32] > MaxDepth {
		return Base{}, fmt.Errorf("%w: base of a delta %x", ErrFormat, ext)
	}
	return Base{ID: ID(ext[:32]), Depth: ext[32], Turn: ext[33]}, nil
}
