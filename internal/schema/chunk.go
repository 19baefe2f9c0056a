package schema

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
)

// The chunk index: which pack holds a chunk, and what packs there are. It is a
// cache: packs describe themselves and chunkstore.RebuildIndex writes all of
// it again. Packs are referred to by a small local number, so that a chunk's
// record stays short and everything about a pack (its state, and later where
// its copies are) is said in one place.
//
//	'K' domain(4, big-endian) id(32)            -> ChunkLoc
//	'P' number(8, big-endian)                   -> PackRecord;  numbers start at 1
//	'P' 0(8)                                    -> the next free number (a Counter)
//
// Beside it, who needs a chunk. References are no cache: they change in the
// transactions that change what they stand for, and packs do not hold them.
//
//	'c' domain(4, big-endian) id(32) holder(8)  -> empty
//	'd' domain(4, big-endian) id(32)            -> DeadChunk: indexed, and nobody holds it
//	'b' domain(4, big-endian) base(32) id(32)   -> empty: what the index has of id is a delta from base
//	'M' "refs-from"                             -> the first pack number whose chunks have all their references
const (
	chunkIndexVersion = 1
	packRecordVersion = 5 // 1 had no dead counts, 2 no hasty bytes, 3 no planes and deltas, 4 no naming
)

// MetaRefsFrom is the counter that tells packs written before references
// existed from later ones: of the former nobody knows what is dead.
const MetaRefsFrom = "refs-from"

const chunkKeyLen = 1 + 4 + 32

// ChunkKey is the key of a chunk's location.
func ChunkKey(domain uint32, id [32]byte) []byte {
	k := make([]byte, 0, chunkKeyLen)
	k = append(k, PrefixChunk)
	k = binary.BigEndian.AppendUint32(k, domain)
	return append(k, id[:]...)
}

// ParseChunkKey is the inverse of ChunkKey.
func ParseChunkKey(k []byte) (domain uint32, id [32]byte, err error) {
	if len(k) != chunkKeyLen || k[0] != PrefixChunk {
		return 0, id, fmt.Errorf("%w: chunk key %x", ErrCorrupt, k)
	}
	return binary.BigEndian.Uint32(k[1:]), [32]byte(k[5:]), nil
}

// ChunkBounds are the bounds of all chunk keys.
func ChunkBounds() (lower, upper []byte) { return []byte{PrefixChunk}, []byte{PrefixChunk + 1} }

// ChunkLoc says where a chunk is and how it is encoded.
type ChunkLoc struct {
	Pack   uint64
	Offset int64  // of the payload in the pack
	Stored uint32 // payload length
	Raw    uint32 // plain length
	Type   uint8  // pack.Type
	Enc    uint8  // pack.Encoding
	Ext    []byte // the encoding's own: the base of a delta
}

// Encode gives the value: version, type, encoding, then uvarints pack, offset,
// stored, raw; the rest is Ext.
func (c ChunkLoc) Encode() []byte {
	b := make([]byte, 0, 3+10+10+5+5+len(c.Ext))
	b = append(b, chunkIndexVersion, c.Type, c.Enc)
	b = binary.AppendUvarint(b, c.Pack)
	b = binary.AppendUvarint(b, uint64(c.Offset))
	b = binary.AppendUvarint(b, uint64(c.Stored))
	b = binary.AppendUvarint(b, uint64(c.Raw))
	return append(b, c.Ext...)
}

// DecodeChunkLoc is the inverse of Encode.
func DecodeChunkLoc(b []byte) (ChunkLoc, error) {
	if len(b) < 3 || b[0] != chunkIndexVersion {
		return ChunkLoc{}, fmt.Errorf("%w: chunk value %x", ErrCorrupt, b)
	}
	r := reader{b: b[3:]}
	c := ChunkLoc{
		Type:   b[1],
		Enc:    b[2],
		Pack:   r.uint(),
		Offset: int64(r.upTo(math.MaxInt64)),
		Stored: r.uint32(),
		Raw:    r.uint32(),
	}
	if len(r.b) > 0 {
		c.Ext, r.b = bytes.Clone(r.b), nil // an iterator's value does not last
	}
	return c, r.done("chunk location")
}

// ChunkRefPrefix is the start of all references to a chunk.
func ChunkRefPrefix(domain uint32, id [32]byte) []byte {
	k := make([]byte, 0, chunkKeyLen+8)
	k = append(k, PrefixChunkRef)
	k = binary.BigEndian.AppendUint32(k, domain)
	return append(k, id[:]...)
}

// ChunkRefKey says that holder needs a chunk.
func ChunkRefKey(domain uint32, id [32]byte, holder uint64) []byte {
	return u64(ChunkRefPrefix(domain, id), holder)
}

// ParseChunkRefKey is the inverse of ChunkRefKey.
func ParseChunkRefKey(k []byte) (domain uint32, id [32]byte, holder uint64, err error) {
	if len(k) != chunkKeyLen+8 || k[0] != PrefixChunkRef {
		return 0, id, 0, fmt.Errorf("%w: chunk reference key %x", ErrCorrupt, k)
	}
	return binary.BigEndian.Uint32(k[1:]), [32]byte(k[5:37]), binary.BigEndian.Uint64(k[37:]), nil
}

// ChunkRefBounds are the bounds of all references to chunks.
func ChunkRefBounds() (lower, upper []byte) {
	return []byte{PrefixChunkRef}, []byte{PrefixChunkRef + 1}
}

// ChunkDeadKey marks a chunk that is indexed and that nobody holds.
func ChunkDeadKey(domain uint32, id [32]byte) []byte {
	k := ChunkKey(domain, id)
	k[0] = PrefixChunkDead
	return k
}

// ParseChunkDeadKey is the inverse of ChunkDeadKey.
func ParseChunkDeadKey(k []byte) (domain uint32, id [32]byte, err error) {
	if len(k) != chunkKeyLen || k[0] != PrefixChunkDead {
		return 0, id, fmt.Errorf("%w: dead chunk key %x", ErrCorrupt, k)
	}
	return binary.BigEndian.Uint32(k[1:]), [32]byte(k[5:]), nil
}

// ChunkDeadBounds are the bounds of all dead chunks.
func ChunkDeadBounds() (lower, upper []byte) {
	return []byte{PrefixChunkDead}, []byte{PrefixChunkDead + 1}
}

// DeadChunk says where a dead chunk lies, so that bringing it back corrects
// its pack's counts without another look-up.
type DeadChunk struct {
	Pack   uint64
	Stored uint32
}

// Encode gives the value: version, uvarints pack, stored.
func (d DeadChunk) Encode() []byte {
	b := append(make([]byte, 0, 1+10+5), chunkIndexVersion)
	b = binary.AppendUvarint(b, d.Pack)
	return binary.AppendUvarint(b, uint64(d.Stored))
}

// DecodeDeadChunk is the inverse of Encode.
func DecodeDeadChunk(b []byte) (DeadChunk, error) {
	if len(b) < 1 || b[0] != chunkIndexVersion {
		return DeadChunk{}, fmt.Errorf("%w: dead chunk value %x", ErrCorrupt, b)
	}
	r := reader{b: b[1:]}
	d := DeadChunk{Pack: r.uint(), Stored: r.uint32()}
	return d, r.done("dead chunk")
}

// ChunkBasePrefix is the start of all that is made from a base.
func ChunkBasePrefix(domain uint32, base [32]byte) []byte {
	k := make([]byte, 0, chunkKeyLen+32)
	k = append(k, PrefixChunkBase)
	k = binary.BigEndian.AppendUint32(k, domain)
	return append(k, base[:]...)
}

// ChunkBaseKey says that a chunk, where it lies, is a delta from base.
func ChunkBaseKey(domain uint32, base, id [32]byte) []byte {
	return append(ChunkBasePrefix(domain, base), id[:]...)
}

// ParseChunkBaseKey is the inverse of ChunkBaseKey.
func ParseChunkBaseKey(k []byte) (domain uint32, base, id [32]byte, err error) {
	if len(k) != chunkKeyLen+32 || k[0] != PrefixChunkBase {
		return 0, base, id, fmt.Errorf("%w: chunk base key %x", ErrCorrupt, k)
	}
	return binary.BigEndian.Uint32(k[1:]), [32]byte(k[5:37]), [32]byte(k[37:]), nil
}

// ChunkBaseBounds are the bounds of all that is made from a base.
func ChunkBaseBounds() (lower, upper []byte) {
	return []byte{PrefixChunkBase}, []byte{PrefixChunkBase + 1}
}

const packKeyLen = 1 + 8

// PackKey is the key of a pack's record; number 0 is the counter's.
func PackKey(number uint64) []byte {
	k := make([]byte, 0, packKeyLen)
	return binary.BigEndian.AppendUint64(append(k, PrefixPack), number)
}

// ParsePackKey is the inverse of PackKey.
func ParsePackKey(k []byte) (uint64, error) {
	if len(k) != packKeyLen || k[0] != PrefixPack {
		return 0, fmt.Errorf("%w: pack key %x", ErrCorrupt, k)
	}
	return binary.BigEndian.Uint64(k[1:]), nil
}

// PackBounds are the bounds of all pack records, without the counter.
func PackBounds() (lower, upper []byte) { return PackKey(1), []byte{PrefixPack + 1} }

// PackCounterKey holds the next free pack number, so that a number is never
// used twice even when the newest pack is pruned.
func PackCounterKey() []byte { return PackKey(0) }

// PackState says what a pack may be used for.
type PackState uint8

const (
	// PackLive: its chunks can be read, and new content may refer to them.
	PackLive PackState = 1
	// PackRetiring: its chunks can still be read, but prune is about to remove
	// it: for new content a hit in it is a miss.
	PackRetiring PackState = 2
)

// PackRecord is what the index knows of a pack as a whole.
type PackRecord struct {
	Name   [32]byte
	State  PackState
	Domain uint32
	Size   uint64 // of the file
	Chunks uint64
	Raw    uint64 // plain bytes of all chunks
	Stored uint64 // payload bytes of all chunks

	// Of those, what nobody needs here: chunks that nobody holds, and copies
	// of chunks that are read from another pack.
	Dead       uint64 // payload bytes
	DeadChunks uint64

	Hasty uint64 // payload bytes that were not encoded, for lack of time, though that would gain

	// Of Raw and Stored, those of chunks kept as planes, and as deltas.
	PlanesRaw, PlanesStored uint64
	DeltaRaw, DeltaStored   uint64

	Naming uint8 // the number of the key by which its chunks are named: 0 is the store's first
}

// AddDead counts chunks of the given payload bytes as dead, or as needed
// again when negative. The counts say where collecting pays, not what may go,
// so they are kept in range rather than refused.
func (p *PackRecord) AddDead(chunks, bytes int64) {
	p.DeadChunks = uint64(min(max(int64(p.DeadChunks)+chunks, 0), int64(p.Chunks)))
	p.Dead = uint64(min(max(int64(p.Dead)+bytes, 0), int64(p.Stored)))
}

// Encode gives the value: version, state, name, then uvarints domain, size,
// chunks, raw, stored, dead, dead chunks, hasty, planes raw and stored, delta
// raw and stored, naming.
func (p PackRecord) Encode() []byte {
	b := make([]byte, 0, 2+32+13*10)
	b = append(b, packRecordVersion, byte(p.State))
	b = append(b, p.Name[:]...)
	b = binary.AppendUvarint(b, uint64(p.Domain))
	b = binary.AppendUvarint(b, p.Size)
	b = binary.AppendUvarint(b, p.Chunks)
	b = binary.AppendUvarint(b, p.Raw)
	b = binary.AppendUvarint(b, p.Stored)
	b = binary.AppendUvarint(b, p.Dead)
	b = binary.AppendUvarint(b, p.DeadChunks)
	for _, v := range [...]uint64{p.Hasty, p.PlanesRaw, p.PlanesStored, p.DeltaRaw, p.DeltaStored, uint64(p.Naming)} {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

// DecodePackRecord is the inverse of Encode; it reads older versions too.
func DecodePackRecord(b []byte) (PackRecord, error) {
	if len(b) < 34 || b[0] < 1 || b[0] > packRecordVersion {
		return PackRecord{}, fmt.Errorf("%w: pack value %x", ErrCorrupt, b)
	}
	r := reader{b: b[34:]}
	p := PackRecord{
		State:  PackState(b[1]),
		Name:   [32]byte(b[2:34]),
		Domain: r.uint32(),
		Size:   r.upTo(math.MaxInt64),
		Chunks: r.upTo(math.MaxInt64),
		Raw:    r.upTo(math.MaxInt64),
		Stored: r.upTo(math.MaxInt64),
	}
	if b[0] >= 2 {
		p.Dead, p.DeadChunks = r.upTo(math.MaxInt64), r.upTo(math.MaxInt64)
	}
	if b[0] >= 3 {
		p.Hasty = r.upTo(math.MaxInt64)
	}
	if b[0] >= 4 {
		for _, v := range [...]*uint64{&p.PlanesRaw, &p.PlanesStored, &p.DeltaRaw, &p.DeltaStored} {
			*v = r.upTo(math.MaxInt64)
		}
	}
	if b[0] >= 5 {
		p.Naming = uint8(r.upTo(math.MaxUint8))
	}
	if p.State != PackLive && p.State != PackRetiring {
		r.fail("pack state")
	}
	return p, r.done("pack record")
}
