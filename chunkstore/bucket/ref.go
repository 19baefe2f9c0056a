package bucket

import (
	"encoding/binary"
	"fmt"

	"stepfs/chunkstore/pack"
)

// Ref publishes one snapshot of a writer.
type Ref struct {
	Domain uint32
	Writer Writer
	Seq    uint64 // of the ref: the order in which the writer published

	Snapshot uint64  // the snapshot's number in the store that made it
	Record   []byte  // the snapshot's record (internal/schema), tree included
	Root     pack.ID // of the object that certifies it
	RootLen  uint32  // plain bytes

	// Packs are all that are needed to read it, in ascending order of the first
	// use of each in its tree. The first holds the root.
	Packs []Pack
}

// MaxRef bounds a ref that a reader is willing to load: some 700,000 packs.
const MaxRef = 32 << 20

// Key is where the ref is.
func (f *Ref) Key() string { return RefKey(f.Writer, f.Seq) }

// Encode gives the object.
//
// Body: uv snapshot, str record, root (32), uv length of the root, uv writers,
// 8 bytes each, uv packs, and for each: name (32), uv place of its writer in the
// list, uv seq, uv size.
func (f *Ref) Encode() []byte {
	b := binary.AppendUvarint(nil, f.Snapshot)
	b = appendString(b, f.Record)
	b = append(b, f.Root[:]...)
	b = binary.AppendUvarint(b, uint64(f.RootLen))
	var writers []Writer
	place := map[Writer]int{}
	for _, p := range f.Packs {
		if _, ok := place[p.Writer]; !ok {
			place[p.Writer] = len(writers)
			writers = append(writers, p.Writer)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(writers)))
	for _, w := range writers {
		b = append(b, w[:]...)
	}
	b = binary.AppendUvarint(b, uint64(len(f.Packs)))
	for _, p := range f.Packs {
		b = append(b, p.Name[:]...)
		b = binary.AppendUvarint(b, uint64(place[p.Writer]))
		b = binary.AppendUvarint(b, p.Seq)
		b = binary.AppendUvarint(b, uint64(p.Size))
	}
	return Seal(Head{Kind: KindRef, Domain: f.Domain, Writer: f.Writer, Seq: f.Seq}, b)
}

// DecodeRef reads the ref that lies under RefKey(w, seq), or gives ErrGone: it was
// forgotten, or never put.
func DecodeRef(b []byte, w Writer, seq uint64) (*Ref, error) {
	if isGone(b, w, seq) {
		return nil, ErrGone
	}
	h, body, err := Open(b, Head{Kind: KindRef, Writer: w, Seq: seq})
	if err != nil {
		return nil, err
	}
	r := &reader{b: body}
	f := &Ref{Domain: h.Domain, Writer: w, Seq: seq, Snapshot: r.uvarint(), Record: r.string()}
	r.take(f.Root[:])
	n := r.uvarint()
	if n > pack.MaxRaw {
		return nil, fmt.Errorf("%w: a root of %d bytes", ErrFormat, n)
	}
	f.RootLen = uint32(n)
	writers := make([]Writer, r.count(len(Writer{})))
	for k := range writers {
		r.take(writers[k][:])
	}
	f.Packs = make([]Pack, r.count(len(pack.Name{})+3))
	for k := range f.Packs {
		p := &f.Packs[k]
		r.take(p.Name[:])
		at := r.uvarint()
		if at >= uint64(len(writers)) {
			r.fail("a pack of no writer")
			break
		}
		p.Writer, p.Seq, p.Size = writers[at], r.uvarint(), r.length()
	}
	return f, r.done()
}
