// Package codec turns chunks into fewer bytes and back: pure functions over
// byte slices, which know nothing of packs, names, files or versions.
//
// Checkpoints are arrays of floats whose low bits are noise. What can be saved
// is in the exponents, and in what a float shares with the one that lay at the
// same place in the version before. So a chunk is cut into blocks of 256 KiB, and
// each block is kept in the way that a sample of it asks for:
//
//   - planes: byte k of all elements, one plane after the other, each coded by
//     itself;
//   - delta: the same for the difference from a base chunk of the same length,
//     with the elements sorted by the base's exponent, because how far a weight
//     moves, counted in its last bits, depends on its size;
//   - raw or zstd, where that is better.
//
// A chunk of which every block asks for zstd is one zstd frame; a chunk that
// gains nothing is raw. The first byte of every encoding says what it is.
//
// Every encoding that is damaged, or is given the wrong base, yields an error or
// wrong bytes: the caller checks them against the chunk's name. Decoding
// allocates nothing that the encoding dictates.
//
// Read first: block.go (the layout of a chunk), then estimate.go (how it is
// chosen), delta.go, wide.go and planes.go (the transforms), segment.go (how a
// plane is coded). docs/FORMAT.md has the byte tables.
package codec

import (
	"errors"
	"fmt"
	"slices"

	"github.com/klauspost/compress/huff0"
	"github.com/klauspost/compress/zstd"
)

var (
	// ErrCorrupt says that bytes are not an encoding of a version that we know,
	// or are damaged.
	ErrCorrupt = errors.New("bad chunk encoding")
	// ErrBase says that the base is missing or of another length than the chunk.
	ErrBase = errors.New("wrong base for a chunk")
)

// Form is the first byte of an encoding. The values are for ever; a form whose
// layout changes gets a new one.
type Form uint8

const (
	// Raw: the plain bytes follow.
	Raw Form = 0x11
	// Zstd: one zstd frame follows, without checksum.
	Zstd Form = 0x12
	// Blocks: blocks follow, none of which needs a base.
	Blocks Form = 0x13
	// Delta: blocks follow, at least one of which needs the base.
	Delta Form = 0x14
	// Rounded: the same over a base of twice the length, whose fp32 elements
	// round to the bf16 elements of the chunk, or nearly: see wide.go.
	Rounded Form = 0x15
)

// FormSize is the length of what precedes the plain bytes of Raw and the frame
// of Zstd.
const FormSize = 1

// MaxPlain is the length of the longest chunk.
const MaxPlain = 16 << 20

// Hint is what the caller knows of a chunk. It steers, and is never trusted:
// a wrong one costs space.
type Hint struct {
	// Offset is where the chunk lies in its file; elements are aligned there
	// unless Phase says otherwise.
	Offset int64
	// Width is the length of an element: 1, 2, 4 or 8; 0 if it is not known.
	Width int
	// Phase is the file offset of any element, modulo Width. Only with a Width.
	Phase int
	// MinGain is what fraction of the chunk a delta must save, over encoding
	// without the base, to be worth a chain. 0 means 2%; 1 forbids deltas.
	MinGain float64
}

// Coder encodes and decodes. It is for one goroutine at a time, and holds about
// 2 MiB of scratch once it has encoded (zstd takes some more where it is used), so a caller keeps one for each worker. There is no shared state:
// any number of Coders work at once.
type Coder struct {
	scratch [3][]uint64 // a block of words each: the block, its base, sorted
	planes  []byte      // of the block at hand
	bitmap  []byte      // of a sparse segment: which bytes are not zero
	values  []byte      // of a sparse segment: those bytes
	narrow  []byte      // of a wide base: what the block at hand is a delta from
	order   order
	plain   bool // for tests: without the fused kernels
	plan    []block
	sample  sampler
	huff    huff0.Scratch
	enc     *zstd.Encoder // made when first needed
	dec     *zstd.Decoder
}

// NewCoder makes a Coder. Close ends it.
func NewCoder() *Coder { return &Coder{} }

// Close gives up what zstd holds.
func (c *Coder) Close() {
	if c.enc != nil {
		_ = c.enc.Close() // nothing is being written
	}
	if c.dec != nil {
		c.dec.Close()
	}
	c.enc, c.dec = nil, nil
}

// Bound is the capacity with which Encode needs no more for n plain bytes.
func Bound(n int) int { return FormSize + n + n/64 + 64 }

// Plan is how a chunk will be encoded. It is good until its Coder is asked for
// another, or encodes without one.
type Plan struct {
	form   Form
	blocks []block
}

// Form is what the chunk is likely to get.
func (p Plan) Form() Form { return p.form }

// UsesBase says whether the base is of use.
func (p Plan) UsesBase() bool { return p.form.usesBase() }

// Plan says, without encoding it, how a chunk is best encoded. base is nil, or
// the plain bytes of an earlier version, as long as plain, or the fp32 elements
// of which those of plain are the bf16, twice as long; another length counts as
// none.
func (c *Coder) Plan(plain, base []byte, hint Hint) Plan {
	if !fits(base, plain) || hint.MinGain >= 1 {
		base = nil
	}
	form := c.choose(plain, base, hint)
	return Plan{form, c.plan}
}

// Encode appends an encoding of plain to dst and says which form it has and
// whether decoding it will take base, which is as for Plan. Encode never fails:
// what gains nothing is Raw, of which the caller may keep plain itself in place
// of the copy.
func (c *Coder) Encode(dst, plain, base []byte, hint Hint) (encoded []byte, form Form, usesBase bool) {
	return c.EncodePlan(dst, plain, base, c.Plan(plain, base, hint))
}

// EncodePlan is Encode by a plan that was made of the same plain and base.
func (c *Coder) EncodePlan(dst, plain, base []byte, p Plan) (encoded []byte, form Form, usesBase bool) {
	start := len(dst)
	dst = slices.Grow(dst, Bound(len(plain)))
	switch p.form {
	case Zstd:
		dst = c.appendZstd(append(dst, byte(p.form)), plain)
	case Blocks, Delta, Rounded:
		dst = append(dst, byte(p.form))
		at := 0
		for _, b := range p.blocks {
			var under []byte
			if b.mode == modeDelta {
				under = c.under(b, base, at, len(plain))
			}
			dst = c.appendBlock(dst, b, plain[at:at+b.plain], under)
			at += b.plain
		}
	}
	// The estimate may have been wrong: raw is the worst case.
	if p.form == Raw || len(dst)-start >= FormSize+len(plain) {
		return append(append(dst[:start], byte(Raw)), plain...), Raw, false
	}
	return dst, p.form, p.form.usesBase()
}

// Decode fills dst, whose length is that of the plain bytes. base is what Encode
// was given, if it said that it used it; else it is not looked at.
func (c *Coder) Decode(dst, encoded, base []byte) error {
	if len(encoded) < FormSize || len(dst) > MaxPlain {
		return fmt.Errorf("%w: %d bytes for a chunk of %d", ErrCorrupt, len(encoded), len(dst))
	}
	form, src := Form(encoded[0]), encoded[FormSize:]
	switch form {
	case Raw:
		if len(src) != len(dst) {
			return fmt.Errorf("%w: %d raw bytes for a chunk of %d", ErrCorrupt, len(src), len(dst))
		}
		copy(dst, src)
		return nil
	case Zstd:
		return c.DecodeZstd(dst, src)
	case Blocks:
		base = nil
	case Delta, Rounded:
		if !fits(base, dst) || wide(base, dst) != (form == Rounded) {
			return fmt.Errorf("%w: %d bytes for a chunk of %d", ErrBase, len(base), len(dst))
		}
	default:
		return fmt.Errorf("%w: unknown form %#x", ErrCorrupt, encoded[0])
	}
	return c.decodeBlocks(form, dst, src, base)
}

func (c *Coder) decodeBlocks(form Form, dst, src, base []byte) error {
	for at := 0; at < len(dst); {
		b, err := parseBlock(src, len(dst)-at)
		if err != nil {
			return err
		}
		if b.mode == modeDelta && !form.usesBase() {
			return fmt.Errorf("%w: a delta in a chunk without a base", ErrCorrupt)
		}
		var under []byte
		if b.mode == modeDelta {
			if form == Rounded && b.log != 1 {
				return fmt.Errorf("%w: elements of %d bytes that were rounded", ErrCorrupt, 1<<b.log)
			}
			under = c.under(b, base, at, len(dst))
		}
		if src, err = c.decodeBlock(b, dst[at:at+b.plain], src[blockHeader:], under); err != nil {
			return fmt.Errorf("block at %d: %w", at, err)
		}
		at += b.plain
	}
	if len(src) != 0 {
		return fmt.Errorf("%w: %d bytes too many", ErrCorrupt, len(src))
	}
	return nil
}
