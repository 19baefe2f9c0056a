package pack

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

const (
	// HeaderSize is the length of the pack header.
	HeaderSize = 32
	// PartHeaderSize is the length of a part header without its extension.
	PartHeaderSize = 64
)

var (
	headerMagic = []byte("stepfsPK")
	partMagic   = []byte("sfCh")
)

var le = binary.LittleEndian

// AppendHeader appends the HeaderSize bytes with which a pack starts.
//
//	0  8 magic "stepfsPK"   8 2 version    10 1 hash    11 1 cipher (0: none)
//	12 4 domain            16 12 zero      28 4 CRC32-C of bytes 0..28
func AppendHeader(dst []byte, info Info) []byte {
	n := len(dst)
	dst = append(dst, headerMagic...)
	dst = le.AppendUint16(dst, Version)
	dst = append(dst, byte(info.Hash), 0)
	dst = le.AppendUint32(dst, info.Domain)
	dst = append(dst, make([]byte, 12)...)
	return le.AppendUint32(dst, Checksum(dst[n:]))
}

// ParseHeader reads what AppendHeader wrote.
func ParseHeader(b []byte) (Info, error) {
	if len(b) < HeaderSize {
		return Info{}, fmt.Errorf("%w: header of %d bytes", ErrFormat, len(b))
	}
	b = b[:HeaderSize]
	if !bytes.Equal(b[:8], headerMagic) {
		return Info{}, fmt.Errorf("%w: no pack header magic", ErrFormat)
	}
	if le.Uint32(b[28:]) != Checksum(b[:28]) {
		return Info{}, fmt.Errorf("%w: header checksum", ErrFormat)
	}
	return parseInfo(b[8:16])
}

// parseInfo reads the eight bytes that header and footer share.
func parseInfo(b []byte) (Info, error) {
	if v := le.Uint16(b); v != Version {
		return Info{}, fmt.Errorf("%w: version %d, this program knows %d", ErrFormat, v, Version)
	}
	info := Info{Hash: Hash(b[2]), Domain: le.Uint32(b[4:])}
	if info.Hash != HashBLAKE3 {
		return Info{}, fmt.Errorf("%w: unknown hash algorithm %d", ErrFormat, b[2])
	}
	if b[3] != 0 {
		return Info{}, fmt.Errorf("%w: unknown cipher %d", ErrFormat, b[3])
	}
	return info, nil
}

// PutPartHeader writes the header of a part into b[:PartHeaderSize]; the
// extension follows it, then the payload. The domain is repeated in each part
// because a salvager may have lost the pack's header too.
//
//	0  4 magic "sfCh"   4 1 type   5 1 encoding   6 2 extension length
//	8  4 stored        12 4 raw   16 4 CRC32-C of the payload   20 4 domain
//	24 32 chunk ID     56 4 zero  60 4 CRC32-C of bytes 0..60 and the extension
func PutPartHeader(b []byte, e Entry, domain uint32) {
	b = b[:PartHeaderSize]
	copy(b, partMagic)
	b[4], b[5] = byte(e.Type), byte(e.Enc)
	le.PutUint16(b[6:], uint16(len(e.Ext)))
	le.PutUint32(b[8:], e.Stored)
	le.PutUint32(b[12:], e.Raw)
	le.PutUint32(b[16:], e.CRC)
	le.PutUint32(b[20:], domain)
	copy(b[24:], e.ID[:])
	le.PutUint32(b[56:], 0)
	le.PutUint32(b[60:], partCRC(b[:60], e.Ext))
}

// ParsePartHeader reads a part header and its extension from the start of b.
// The entry's Offset is left zero: the caller knows where b lies.
func ParsePartHeader(b []byte) (e Entry, domain uint32, err error) {
	if len(b) < PartHeaderSize || !bytes.Equal(b[:4], partMagic) {
		return Entry{}, 0, fmt.Errorf("%w: no part header", ErrFormat)
	}
	n := int(le.Uint16(b[6:]))
	if n > MaxExt || len(b) < PartHeaderSize+n {
		return Entry{}, 0, fmt.Errorf("%w: part extension of %d bytes", ErrFormat, n)
	}
	ext := b[PartHeaderSize : PartHeaderSize+n]
	if le.Uint32(b[60:]) != partCRC(b[:60], ext) {
		return Entry{}, 0, fmt.Errorf("%w: part header checksum", ErrFormat)
	}
	e = Entry{
		ID:     ID(b[24:56]),
		Type:   Type(b[4]),
		Enc:    Encoding(b[5]),
		Stored: le.Uint32(b[8:]),
		Raw:    le.Uint32(b[12:]),
		CRC:    le.Uint32(b[16:]),
	}
	if n > 0 {
		e.Ext = bytes.Clone(ext)
	}
	return e, le.Uint32(b[20:]), checkLengths(e)
}

func partCRC(head, ext []byte) uint32 {
	sum := Checksum(head)
	if len(ext) > 0 {
		sum = updateChecksum(sum, ext)
	}
	return sum
}

// checkLengths refuses lengths that no writer of this version makes.
func checkLengths(e Entry) error {
	if e.Raw > MaxRaw || e.Stored > MaxRaw {
		return fmt.Errorf("%w: chunk %x of %d bytes, stored %d", ErrFormat, e.ID, e.Raw, e.Stored)
	}
	if e.Enc == EncRaw && (e.Stored != e.Raw || len(e.Ext) != 0) {
		return fmt.Errorf("%w: raw chunk %x of %d bytes, stored %d", ErrFormat, e.ID, e.Raw, e.Stored)
	}
	if e.Enc == EncDelta {
		if _, err := ParseBase(e.Ext); err != nil {
			return fmt.Errorf("chunk %x: %w", e.ID, err)
		}
	}
	return nil
}
