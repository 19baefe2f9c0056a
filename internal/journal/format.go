package journal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
)

// Pos is a logical byte offset in the log. It counts records only, not segment
// headers or unused ends of segments, and grows over segments and restarts.
type Pos uint64

// FormatVersion is the version that this package writes and the newest it reads.
const FormatVersion = 1

// MaxRecord is the largest payload of one record.
const MaxRecord = 1 << 30

const (
	segmentMagic     = "stepfsJL"
	segmentHeaderLen = 128
	recordHeaderLen  = 24
	recordAlign      = 8
	maxBootID        = 63
	// maxPos leaves room so that no sum of a position and a length overflows.
	maxPos = Pos(1) << 62

	segSuffix = ".seg"
	tmpSuffix = ".tmp"
)

// Offsets in the segment header; docs/FORMAT.md has the table.
const (
	shVersion = 8
	shFlags   = 12
	shNumber  = 16
	shPrev    = 24
	shPrevEnd = 32
	shFirst   = 40
	shBootLen = 48
	shBoot    = 49
	shCRC     = 124
)

// Offsets in the record header.
const (
	rhLength     = 0
	rhKind       = 4
	rhSynced     = 8
	rhPayloadCRC = 16
	rhHeaderCRC  = 20
)

// Kinds of record. Zero is not one, so that zeros are never a record.
const (
	kindData  = 1
	kindClean = 2 // the last record of a clean shutdown; no payload
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// segmentHeader is the first segmentHeaderLen bytes of a segment in use.
type segmentHeader struct {
	number  uint64
	prev    uint64 // number of the segment before this one; 0 = the first ever
	prevEnd Pos    // where the log stood before this segment
	first   Pos    // of this segment's first record; > prevEnd only after Advance
	boot    string
}

func (h segmentHeader) encode(b []byte) {
	b = b[:segmentHeaderLen]
	clear(b)
	copy(b, segmentMagic)
	binary.LittleEndian.PutUint32(b[shVersion:], FormatVersion)
	binary.LittleEndian.PutUint64(b[shNumber:], h.number)
	binary.LittleEndian.PutUint64(b[shPrev:], h.prev)
	binary.LittleEndian.PutUint64(b[shPrevEnd:], uint64(h.prevEnd))
	binary.LittleEndian.PutUint64(b[shFirst:], uint64(h.first))
	b[shBootLen] = byte(len(h.boot))
	copy(b[shBoot:shBoot+maxBootID], h.boot)
	binary.LittleEndian.PutUint32(b[shCRC:], crc32.Checksum(b[:shCRC], castagnoli))
}

// decodeSegmentHeader reports ok=false for anything that is not a whole header
// of ours: zeros, a torn write, what a recycled file held. A later version is an
// error even if its checksum does not hold: a version we do not know may keep it
// elsewhere, and to take its segment for an unused one would destroy it.
func decodeSegmentHeader(b []byte) (h segmentHeader, ok bool, err error) {
	if len(b) < segmentHeaderLen || string(b[:len(segmentMagic)]) != segmentMagic {
		return h, false, nil
	}
	if v := binary.LittleEndian.Uint32(b[shVersion:]); v > FormatVersion {
		return h, false, fmt.Errorf("%w: segment format %d, this version reads up to %d", ErrNewerFormat, v, FormatVersion)
	}
	if crc32.Checksum(b[:shCRC], castagnoli) != binary.LittleEndian.Uint32(b[shCRC:]) {
		return h, false, nil
	}
	if f := binary.LittleEndian.Uint32(b[shFlags:]); f != 0 {
		return h, false, fmt.Errorf("%w: unknown segment flags %#x", ErrNewerFormat, f)
	}
	n := int(b[shBootLen])
	if n > maxBootID {
		return h, false, nil
	}
	h.number = binary.LittleEndian.Uint64(b[shNumber:])
	h.prev = binary.LittleEndian.Uint64(b[shPrev:])
	h.prevEnd = Pos(binary.LittleEndian.Uint64(b[shPrevEnd:]))
	h.first = Pos(binary.LittleEndian.Uint64(b[shFirst:]))
	h.boot = string(b[shBoot : shBoot+n])
	sane := h.prev < h.number && h.prevEnd <= h.first && h.first <= maxPos
	return h, sane, nil
}

// recordHeader is a decoded record header whose own checksum held.
type recordHeader struct {
	kind       uint32
	length     uint32 // of the payload
	synced     Pos    // known durable when the record was written
	payloadCRC uint32
}

// recordSize is what a record of n payload bytes takes, in the file and in Pos.
func recordSize(n int64) int64 {
	return (recordHeaderLen + n + recordAlign - 1) &^ (recordAlign - 1)
}

// sealer computes record header checksums: over the segment's number, the
// record's offset in the file, and the header itself. Number and offset make
// every place in every segment unique, so that neither a recycled file nor a
// payload that holds a copy of journal bytes can pass for a record. The scratch
// lives here because what is handed to crc32 escapes: no allocation per record.
type sealer struct {
	scratch [16 + rhHeaderCRC]byte
}

func (s *sealer) sum(number uint64, off int64, hdr []byte) uint32 {
	binary.LittleEndian.PutUint64(s.scratch[0:], number)
	binary.LittleEndian.PutUint64(s.scratch[8:], uint64(off))
	copy(s.scratch[16:], hdr[:rhHeaderCRC])
	return crc32.Checksum(s.scratch[:], castagnoli)
}

// encode fills in the header in front of the payload; b is both.
func (s *sealer) encode(b []byte, number uint64, off int64, kind uint32, synced Pos) {
	payload := b[recordHeaderLen:]
	binary.LittleEndian.PutUint32(b[rhLength:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(b[rhKind:], kind)
	binary.LittleEndian.PutUint64(b[rhSynced:], uint64(synced))
	binary.LittleEndian.PutUint32(b[rhPayloadCRC:], crc32.Checksum(payload, castagnoli))
	binary.LittleEndian.PutUint32(b[rhHeaderCRC:], s.sum(number, off, b))
}

func (s *sealer) decode(b []byte, number uint64, off int64) (h recordHeader, ok bool) {
	h.kind = binary.LittleEndian.Uint32(b[rhKind:])
	if h.kind != kindData && h.kind != kindClean {
		return h, false // cheap, and all that a run of zeros costs
	}
	if s.sum(number, off, b) != binary.LittleEndian.Uint32(b[rhHeaderCRC:]) {
		return h, false
	}
	h.length = binary.LittleEndian.Uint32(b[rhLength:])
	h.synced = Pos(binary.LittleEndian.Uint64(b[rhSynced:]))
	h.payloadCRC = binary.LittleEndian.Uint32(b[rhPayloadCRC:])
	return h, h.length <= MaxRecord
}

func segmentName(number uint64) string { return fmt.Sprintf("%016x%s", number, segSuffix) }
func tmpName(number uint64) string     { return fmt.Sprintf("%016x%s", number, tmpSuffix) }

// parseName takes a file name apart; ok=false for files that are not ours.
func parseName(name string) (number uint64, tmp, ok bool) {
	hex, isSeg := strings.CutSuffix(name, segSuffix)
	if !isSeg {
		if hex, tmp = strings.CutSuffix(name, tmpSuffix); !tmp {
			return 0, false, false
		}
	}
	if len(hex) != 16 {
		return 0, false, false
	}
	number, err := strconv.ParseUint(hex, 16, 64)
	return number, tmp, err == nil && number > 0 && fmt.Sprintf("%016x", number) == hex
}
