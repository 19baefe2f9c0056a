package bucket

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/zeebo/blake3"
)

// Kind says what an object is.
type Kind byte

// The kinds. The values are for ever.
const (
	KindWriter  Kind = 'W'
	KindIndex   Kind = 'I'
	KindRef     Kind = 'R'
	KindLease   Kind = 'L' // of prune
	KindRetired Kind = 'T' // of prune
	KindGone    Kind = 'G' // a tombstone
)

const (
	// Version of all objects but config and packs, which have their own.
	Version = 1

	headSize = 40
	sumSize  = 32
)

var (
	magic = []byte("stepfsRB")
	le    = binary.LittleEndian
)

// Head is what all objects but config and packs begin with.
type Head struct {
	Kind   Kind
	Domain uint32 // of the chunks that it speaks of
	Writer Writer
	Seq    uint64 // as in its key; 0 where the key has none
}

// Seal makes an object.
//
//	0  8 magic "stepfsRB"   8 1 kind   9 1 cipher (0: none)   10 2 version
//	12 4 domain            16 8 writer 24 8 seq              32 8 length of the body
//	40 …  body, then 32 BLAKE3-256 of all before it
func Seal(h Head, body []byte) []byte {
	b := make([]byte, 0, headSize+len(body)+sumSize)
	b = append(b, magic...)
	b = append(b, byte(h.Kind), 0)
	b = le.AppendUint16(b, Version)
	b = le.AppendUint32(b, h.Domain)
	b = append(b, h.Writer[:]...)
	b = le.AppendUint64(b, h.Seq)
	b = le.AppendUint64(b, uint64(len(body)))
	b = append(b, body...)
	sum := blake3.Sum256(b)
	return append(b, sum[:]...)
}

// Open gives what Seal was given. want is what the key says of it: kind, writer
// and number; its domain is not looked at.
func Open(b []byte, want Head) (Head, []byte, error) {
	if len(b) < headSize+sumSize || !bytes.Equal(b[:8], magic) {
		return Head{}, nil, fmt.Errorf("%w: no object of %d bytes", ErrFormat, len(b))
	}
	if v := le.Uint16(b[10:]); v > Version {
		return Head{}, nil, fmt.Errorf("%w: object version %d, this program knows %d", ErrVersion, v, Version)
	}
	end := len(b) - sumSize
	if sum := blake3.Sum256(b[:end]); !bytes.Equal(sum[:], b[end:]) {
		return Head{}, nil, fmt.Errorf("%w: its checksum", ErrFormat)
	}
	h := Head{Kind: Kind(b[8]), Domain: le.Uint32(b[12:]), Writer: Writer(b[16:24]), Seq: le.Uint64(b[24:])}
	switch {
	case b[9] != 0:
		return Head{}, nil, fmt.Errorf("%w: unknown cipher %d", ErrFormat, b[9])
	case le.Uint16(b[10:]) != Version, le.Uint64(b[32:]) != uint64(end-headSize):
		return Head{}, nil, fmt.Errorf("%w: its head", ErrFormat)
	case h.Kind != want.Kind || h.Writer != want.Writer || h.Seq != want.Seq:
		return Head{}, nil, fmt.Errorf("%w: it is %c %s/%d, and lies where %c %s/%d should be",
			ErrFormat, h.Kind, h.Writer, h.Seq, want.Kind, want.Writer, want.Seq)
	}
	return h, b[headSize:end], nil
}
