package bucket

import (
	"encoding/binary"
	"fmt"

	"github.com/klauspost/compress/zstd"

	"stepfs/chunkstore/pack"
)

// Index says what is in some packs of one writer, so that a new machine need
// not ask each pack.
type Index struct {
	Domain uint32
	Writer Writer
	Seq    uint64
	Packs  []Indexed
}

// Indexed is one pack of an index object. Footer is the bytes that the pack
// has, whose hash is the pack's name.
type Indexed struct {
	Seq    uint64
	Size   int64 // of the pack
	Footer []byte
}

const (
	// MaxIndex bounds the plain body of an index object that a reader is willing
	// to load. Writers end one at IndexSize.
	MaxIndex = 32 << 20
	// IndexSize is where a writer begins the next index object, in plain bytes.
	IndexSize = 4 << 20
)

// Key is where the index object is.
func (x *Index) Key() string { return IndexKey(x.Writer, x.Seq) }

// Encode gives the object.
//
// Body: one frame of zstd with its content size, of uv packs and for each: uv
// seq, uv size, uv length of the footer, the footer.
func (x *Index) Encode() []byte {
	b := binary.AppendUvarint(nil, uint64(len(x.Packs)))
	for _, p := range x.Packs {
		b = binary.AppendUvarint(b, p.Seq)
		b = binary.AppendUvarint(b, uint64(p.Size))
		b = appendString(b, p.Footer)
	}
	// A single segment, or the encoder leaves the size of less than 256 bytes out.
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true))
	if err != nil {
		panic(err) // the options are constants
	}
	return Seal(Head{Kind: KindIndex, Domain: x.Domain, Writer: x.Writer, Seq: x.Seq}, z.EncodeAll(b, nil))
}

// DecodeIndex reads the index object that lies under IndexKey(w, seq). The
// footers are not parsed, but for their names: see Entries.
func DecodeIndex(b []byte, w Writer, seq uint64) (*Index, error) {
	h, body, err := Open(b, Head{Kind: KindIndex, Writer: w, Seq: seq})
	if err != nil {
		return nil, err
	}
	var zh zstd.Header
	if err := zh.Decode(body); err != nil || !zh.HasFCS || zh.FrameContentSize > MaxIndex {
		return nil, fmt.Errorf("%w: an index of no size, or of more than %d bytes", ErrFormat, MaxIndex)
	}
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxIndex))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	plain, err := z.DecodeAll(body, make([]byte, 0, zh.FrameContentSize))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	r := &reader{b: plain}
	x := &Index{Domain: h.Domain, Writer: w, Seq: seq, Packs: make([]Indexed, r.count(3))}
	for k := range x.Packs {
		x.Packs[k] = Indexed{Seq: r.uvarint(), Size: r.length(), Footer: r.string()}
	}
	return x, r.done()
}

// Pack names a pack of the index.
func (x *Index) Pack(p Indexed) Pack {
	return Pack{Name: pack.NameOf(p.Footer), Writer: x.Writer, Seq: p.Seq, Size: p.Size}
}

// Entries gives what is in the pack.
func (p Indexed) Entries() ([]pack.Entry, error) {
	f, err := pack.ParseFooter(p.Footer)
	return f.Entries, err
}
