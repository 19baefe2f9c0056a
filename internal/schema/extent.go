package schema

import (
	"encoding/binary"
	"fmt"
	"math"
)

// StripeSize is the length of file range that one stripe describes, in bytes.
// It equals the largest FUSE write, so that a sequential writer touches each
// stripe once, and it bounds what a small overwrite has to rewrite.
const StripeSize = 1 << 20

// InlineBlock is the size of the blocks of an inline generation, in bytes.
const InlineBlock = 4096

// ChunkPage is the length of file range that one page of a chunk map covers.
const ChunkPage = 16 << 20

// Fragment says where a range of a stripe lies: in generation Gen, at the
// file's own offset. Ranges that no fragment covers are holes.
type Fragment struct {
	Off, Len uint32 // within the stripe
	Gen      uint64
}

// End is the offset behind the fragment.
func (f Fragment) End() uint32 { return f.Off + f.Len }

// EncodeStripe gives the value of a stripe: fragments in order, not
// overlapping. An empty list is a hole that hides older versions.
func EncodeStripe(fs []Fragment) []byte {
	b := make([]byte, 0, 1+len(fs)*10)
	prev := uint32(0)
	for _, f := range fs {
		b = binary.AppendUvarint(b, uint64(f.Off-prev))
		b = binary.AppendUvarint(b, uint64(f.Len))
		b = binary.AppendUvarint(b, f.Gen)
		prev = f.End()
	}
	return b
}

// DecodeStripe is the inverse of EncodeStripe.
func DecodeStripe(v []byte) ([]Fragment, error) { return AppendStripe(nil, v) }

// AppendStripe is DecodeStripe for who decodes many: it appends to fs.
func AppendStripe(fs []Fragment, v []byte) ([]Fragment, error) {
	r := &reader{b: v}
	prev := uint64(0)
	for len(r.b) > 0 && r.err == nil {
		gap, n, gen := r.uint(), r.uint(), r.uint()
		off := prev + gap
		if prev = off + n; gap > StripeSize || n > StripeSize || prev > StripeSize || n == 0 {
			r.fail("fragment outside its stripe")
			break
		}
		fs = append(fs, Fragment{Off: uint32(off), Len: uint32(n), Gen: gen})
	}
	return fs, r.done("stripe")
}

// Overlay gives the fragments of a stripe after [off, off+n) was replaced by
// generation gen (0: by a hole). Adjacent ranges of one generation are merged.
func Overlay(fs []Fragment, off, n uint32, gen uint64) []Fragment {
	out := make([]Fragment, 0, len(fs)+2)
	add := func(f Fragment) {
		if f.Len == 0 || f.Gen == 0 {
			return
		}
		if k := len(out) - 1; k >= 0 && out[k].Gen == f.Gen && out[k].End() == f.Off {
			out[k].Len += f.Len
			return
		}
		out = append(out, f)
	}
	end, placed := off+n, false
	for _, f := range fs {
		if f.Off < off {
			add(Fragment{f.Off, min(f.End(), off) - f.Off, f.Gen})
		}
		if !placed && f.End() > off {
			add(Fragment{off, n, gen})
			placed = true
		}
		if f.End() > end {
			s := max(f.Off, end)
			add(Fragment{s, f.End() - s, f.Gen})
		}
	}
	if !placed {
		add(Fragment{off, n, gen})
	}
	return out
}

// Sum is how many bytes of a stripe are data.
func Sum(fs []Fragment) (n int64) {
	for _, f := range fs {
		n += int64(f.Len)
	}
	return n
}

// Generation says where the bytes of a generation lie.
type Generation struct {
	Ino    uint64 // inode that wrote it; 0 = that inode no longer names it, others do
	File   bool   // a staging file holds it
	Inline bool   // blocks in the index hold it
	Stored int64  // the chunk map covers [0, Stored); 0 = no chunk map
}

// Encode gives the generation's value.
func (g Generation) Encode() []byte {
	b := binary.AppendUvarint(nil, g.Ino)
	b = append(b, boolByte(g.File), boolByte(g.Inline))
	return binary.AppendVarint(b, g.Stored)
}

// DecodeGeneration is the inverse of Encode.
func DecodeGeneration(v []byte) (Generation, error) {
	r := &reader{b: v}
	g := Generation{Ino: r.uint()}
	f := r.fixed(2)
	g.File, g.Inline = f[0] != 0, f[1] != 0
	g.Stored = r.int()
	return g, r.done("generation")
}

// ChunkExtent says that the file range [Off, Off+Len) is the bytes
// [Skip, Skip+Len) of a chunk of Raw bytes.
type ChunkExtent struct {
	Off       int64
	Len       uint32
	Skip, Raw uint32
	ID        [32]byte
}

// EncodeChunkMap gives the value of one page of a chunk map.
func EncodeChunkMap(es []ChunkExtent) []byte {
	b := make([]byte, 0, len(es)*48)
	for _, e := range es {
		b = binary.AppendUvarint(b, uint64(e.Off))
		b = binary.AppendUvarint(b, uint64(e.Len))
		b = binary.AppendUvarint(b, uint64(e.Skip))
		b = binary.AppendUvarint(b, uint64(e.Raw))
		b = append(b, e.ID[:]...)
	}
	return b
}

// DecodeChunkMap is the inverse of EncodeChunkMap.
func DecodeChunkMap(v []byte) ([]ChunkExtent, error) { return AppendChunkMap(nil, v) }

// AppendChunkMap is DecodeChunkMap for who decodes many: it appends to es.
func AppendChunkMap(es []ChunkExtent, v []byte) ([]ChunkExtent, error) {
	r := &reader{b: v}
	for len(r.b) > 0 && r.err == nil {
		off, n, skip, raw := r.uint(), r.uint(), r.uint(), r.uint()
		e := ChunkExtent{Off: int64(off), Len: uint32(n), Skip: uint32(skip), Raw: uint32(raw)}
		copy(e.ID[:], r.fixed(32))
		if raw > 1<<30 || n > raw || skip > raw-n || off > math.MaxInt64-n {
			r.fail("chunk extent outside its chunk")
			break
		}
		es = append(es, e)
	}
	return es, r.done("chunk map")
}

// Unsettled says what of a generation a sync has covered.
type Unsettled struct{ Settled int64 } // committed lengths up to here are durable

// Encode gives its value.
func (u Unsettled) Encode() []byte { return binary.AppendVarint(nil, u.Settled) }

// DecodeUnsettled is the inverse of Encode.
func DecodeUnsettled(v []byte) (Unsettled, error) {
	r := &reader{b: v}
	u := Unsettled{Settled: r.int()}
	return u, r.done("unsettled")
}

// Pending is a frozen content that waits for ingest. Its key is its generation.
type Pending struct {
	Ino     uint64
	Content Content
	Epoch   uint64 // first cut that sees it
	Time    int64  // ns, when it was committed
	Until   uint64 // first cut that sees another content in its place, or none; 0: it is the file's
}

// Encode gives its value.
func (p Pending) Encode() []byte {
	b := binary.AppendUvarint(nil, p.Ino)
	b = appendContent(b, &p.Content)
	b = binary.AppendUvarint(b, p.Epoch)
	b = binary.AppendVarint(b, p.Time)
	return binary.AppendUvarint(b, p.Until)
}

// DecodePending is the inverse of Encode. Stores before format 3 have no Until.
func DecodePending(v []byte) (Pending, error) {
	r := &reader{b: v}
	p := Pending{Ino: r.uint(), Content: r.content(), Epoch: r.uint(), Time: r.int()}
	if len(r.b) > 0 {
		p.Until = r.uint()
	}
	return p, r.done("pending")
}

// String helps traces and tests.
func (f Fragment) String() string { return fmt.Sprintf("[%d+%d g%d]", f.Off, f.Len, f.Gen) }
