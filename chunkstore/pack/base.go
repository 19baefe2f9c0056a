package pack

import (
	"encoding/binary"
	"fmt"
	"math"
)

// MaxDepth is how many chunks a reader decodes one after the other, at most, to
// come to a chunk.
const MaxDepth = 16

// Base is what a delta is one from. A base has a smaller depth than what is
// made from it: so no chain leads back to where it began.
type Base struct {
	ID    ID
	Depth uint8 // of the delta: it takes no more than so many bases, one from the other
	Turn  uint8 // of the delta: how many versions it is behind one that has no base
	Window
}

// Window says what of a base a delta is from. The zero value is the whole of a
// base that is as long as the delta. Else byte i of the delta belongs to byte
// Skip+i of the base, or, if it is wide, to Skip+2i and the next. What the base
// does not have is zero.
type Window struct {
	Raw  uint32 // plain length of the base; 0 in the zero value alone
	Skip int32
	Wide bool // the base holds as fp32 what the delta has as bf16
}

const (
	baseSize   = 34
	windowSize = 9
)

// BaseRaw is how long the base of a delta of raw plain bytes is.
func (w Window) BaseRaw(raw uint32) uint32 {
	if w.Raw == 0 {
		return raw
	}
	return w.Raw
}

// Size is how many bytes a delta of raw plain bytes is from.
func (w Window) Size(raw uint32) int {
	if w.Wide {
		return 2 * int(raw)
	}
	return int(raw)
}

// Take fills dst with the window that begins with it.
func (w Window) Take(dst, base []byte) {
	from := min(max(int(w.Skip), 0), len(base))
	empty := min(max(-int(w.Skip), 0), len(dst))
	clear(dst[:empty])
	n := copy(dst[empty:], base[from:])
	clear(dst[empty+n:])
}

// Over gives the window in the base of w's base, which is under of that, for a
// delta of raw plain bytes; false: there is none.
func (w Window) Over(under Window, raw uint32) (Window, bool) {
	if under == (Window{}) {
		return w, true
	}
	if w == (Window{}) {
		return under, true
	}
	skip := int64(w.Skip)
	if under.Wide {
		skip *= 2
	}
	skip += int64(under.Skip)
	if w.Wide && under.Wide || skip != int64(int32(skip)) {
		return Window{}, false
	}
	out := Window{under.Raw, int32(skip), w.Wide || under.Wide}
	return out.Normal(raw), true
}

// Normal gives the window as the zero value if it is that, for a delta of raw
// plain bytes.
func (w Window) Normal(raw uint32) Window {
	if w.Raw == raw && w.Skip == 0 && !w.Wide {
		return Window{}
	}
	return w
}

// Append appends the extension of a delta: base 32, depth 1, turn 1; and, unless
// its window is the zero value, length of the base 4, skip 4, wide 1.
func (b Base) Append(dst []byte) []byte {
	dst = append(append(dst, b.ID[:]...), b.Depth, b.Turn)
	if b.Window == (Window{}) {
		return dst
	}
	dst = binary.LittleEndian.AppendUint32(dst, b.Raw)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(b.Skip))
	if b.Wide {
		return append(dst, 1)
	}
	return append(dst, 0)
}

// ParseBase is the inverse of Append.
func ParseBase(ext []byte) (Base, error) {
	if len(ext) != baseSize && len(ext) != baseSize+windowSize || ext[32] == 0 || ext[32] > MaxDepth {
		return Base{}, badBase(ext)
	}
	b := Base{ID: ID(ext[:32]), Depth: ext[32], Turn: ext[33]}
	if len(ext) == baseSize {
		return b, nil
	}
	w := ext[baseSize:]
	b.Raw, b.Skip, b.Wide = binary.LittleEndian.Uint32(w), int32(binary.LittleEndian.Uint32(w[4:])), w[8] == 1
	if b.Raw == 0 || b.Raw > MaxRaw || b.Skip == math.MinInt32 || w[8] > 1 {
		return Base{}, badBase(ext)
	}
	return b, nil
}

func badBase(ext []byte) error { return fmt.Errorf("%w: base of a delta %x", ErrFormat, ext) }
