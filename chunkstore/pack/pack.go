// Package pack is the byte format of a pack file, and nothing else: no I/O
// policy, no index, no knowledge of where packs live. docs/FORMAT.md has
// the same tables in prose.
//
// A pack is
//
//	header | part … part | footer | trailer
//
// A part is a part header, optional extension bytes and the payload of one
// chunk. The footer lists every part again, so that a reader needs one read at
// the end of the file to know all of it; the part headers are there for the day
// on which the footer is damaged. The pack's name is the hash of its footer,
// and the footer holds the name (the keyed hash) of every chunk: so the pack's
// name commits to every byte of plain content in it.
//
// Every part of the file carries a CRC32-C of its own. The CRCs find damage
// without a key and without decoding; what proves a chunk is its keyed hash,
// which the chunkstore checks on each read.
//
// Read header.go first, then footer.go. All integers are little-endian.
package pack

import (
	"errors"
	"hash/crc32"
)

// ErrFormat is wrapped by every parse error: the bytes are not a pack of a
// version that we know, or are damaged.
var ErrFormat = errors.New("bad pack format")

// ID is the name of a chunk: the keyed hash of its plain bytes.
type ID [32]byte

// Type says what a chunk holds. Readers of bulk data and of directory objects
// look for different things when they rebuild or prune.
type Type uint8

const (
	// TypeData is a piece of a file's content.
	TypeData Type = 1
	// TypeTree is one Merkle directory object.
	TypeTree Type = 2
)

// Encoding says how a payload becomes plain bytes. The values are for ever;
// a reader refuses those that it does not know.
type Encoding uint8

const (
	// EncRaw: the payload is the plain bytes.
	EncRaw Encoding = 1
	// EncZstd: the payload is one zstd frame without checksum.
	EncZstd Encoding = 2
	// EncPlanes: the payload is what package codec made of the chunk alone.
	EncPlanes Encoding = 3
	// EncDelta: the payload is what package codec made of the chunk and its
	// base, which the extension names (Base).
	EncDelta Encoding = 4
)

// Hash names the algorithm of chunk IDs and of the pack's own name.
type Hash uint8

// HashBLAKE3 is keyed BLAKE3-256 for chunks and plain BLAKE3-256 for packs.
const HashBLAKE3 Hash = 1

// Info is what header and footer both say of the whole pack.
type Info struct {
	Hash   Hash
	Domain uint32 // the one key domain of all chunks in the pack
}

// Entry describes one part.
type Entry struct {
	ID     ID
	Type   Type
	Enc    Encoding
	Offset int64  // of the part header, from the start of the pack
	Stored uint32 // payload length
	Raw    uint32 // length of the plain bytes
	CRC    uint32 // CRC32-C of the payload
	Ext    []byte // belongs to Enc: the Base of a delta, else empty
}

// PayloadOffset is where the payload starts in the pack.
func (e Entry) PayloadOffset() int64 {
	return e.Offset + PartHeaderSize + int64(len(e.Ext))
}

// End is where the part ends in the pack.
func (e Entry) End() int64 { return e.PayloadOffset() + int64(e.Stored) }

const (
	// Version of header, footer and trailer.
	Version = 1

	// MaxRaw bounds a chunk's plain and stored length, so that a lying length
	// cannot make a reader allocate more.
	MaxRaw = 16 << 20
	// MaxExt bounds the extension of an entry.
	MaxExt = 255
	// MaxFooter bounds the footer that a reader is willing to load.
	MaxFooter = 16 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum is the CRC32-C used for every part of the format.
func Checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

func updateChecksum(sum uint32, b []byte) uint32 { return crc32.Update(sum, castagnoli, b) }
