package pack

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"github.com/zeebo/blake3"
)

const (
	footerHead  = 32
	footerEntry = 64
	maxSalt     = 1<<24 - 1
	// Overhead is what a chunk takes in a pack beside its payload.
	Overhead = PartHeaderSize + footerEntry
	// TrailerSize is the length of the last part of a pack.
	TrailerSize = 24
)

var (
	footerMagic  = []byte("stepfsFT")
	trailerMagic = []byte("stepfsTR")
)

// Footer is the table of contents of a pack. Salt is 0 unless a pack of the
// same content exists already: two packs never share a name, or removing one
// would remove both.
type Footer struct {
	Info
	Body    int64  // bytes before the footer: header and parts
	Salt    uint32 // less than 2^24
	Naming  uint8  // by which of its store's keys the chunks are named; elsewhere it means nothing
	Entries []Entry
}

// AppendFooter appends the footer's bytes.
//
//	0  8 magic "stepfsFT"   8 2 version   10 1 hash   11 1 cipher (0: none)
//	12 4 domain            16 8 body length          24 4 entries   28 3 salt   31 1 naming
//	32 …  entries, then 4 CRC32-C of all the footer before it
//
// An entry:
//
//	0 32 chunk ID   32 1 type   33 1 encoding   34 2 extension length
//	36 8 offset of the part    44 4 stored   48 4 raw
//	52 4 CRC32-C of the payload             56 8 zero   64 … extension
func AppendFooter(dst []byte, f Footer) []byte {
	n := len(dst)
	dst = append(dst, footerMagic...)
	dst = le.AppendUint16(dst, Version)
	dst = append(dst, byte(f.Hash), 0)
	dst = le.AppendUint32(dst, f.Domain)
	dst = le.AppendUint64(dst, uint64(f.Body))
	dst = le.AppendUint32(dst, uint32(len(f.Entries)))
	dst = le.AppendUint32(dst, f.Salt&maxSalt|uint32(f.Naming)<<24)
	for _, e := range f.Entries {
		dst = append(dst, e.ID[:]...)
		dst = append(dst, byte(e.Type), byte(e.Enc))
		dst = le.AppendUint16(dst, uint16(len(e.Ext)))
		dst = le.AppendUint64(dst, uint64(e.Offset))
		dst = le.AppendUint32(dst, e.Stored)
		dst = le.AppendUint32(dst, e.Raw)
		dst = le.AppendUint32(dst, e.CRC)
		dst = le.AppendUint64(dst, 0)
		dst = append(dst, e.Ext...)
	}
	return le.AppendUint32(dst, Checksum(dst[n:]))
}

// ParseFooter reads a whole footer. It never trusts a length that it has not
// checked, and it refuses parts that overlap or lie outside the body.
func ParseFooter(b []byte) (Footer, error) {
	if len(b) < footerHead+4 || len(b) > MaxFooter || !bytes.Equal(b[:8], footerMagic) {
		return Footer{}, fmt.Errorf("%w: no footer", ErrFormat)
	}
	if body := len(b) - 4; le.Uint32(b[body:]) != Checksum(b[:body]) {
		return Footer{}, fmt.Errorf("%w: footer checksum", ErrFormat)
	}
	info, err := parseInfo(b[8:16])
	if err != nil {
		return Footer{}, err
	}
	f := Footer{Info: info, Body: int64(le.Uint64(b[16:])), Salt: le.Uint32(b[28:]) & maxSalt, Naming: b[31]}
	count := int64(le.Uint32(b[24:]))
	rest := b[footerHead : len(b)-4]
	if f.Body < HeaderSize || count*footerEntry > int64(len(rest)) {
		return Footer{}, fmt.Errorf("%w: footer of %d entries over %d bytes", ErrFormat, count, f.Body)
	}
	f.Entries = make([]Entry, 0, count)
	end := int64(HeaderSize)
	for range count {
		var e Entry
		if e, rest, err = parseEntry(rest); err != nil {
			return Footer{}, err
		}
		if e.Offset < end || e.Offset > f.Body || e.End() > f.Body {
			return Footer{}, fmt.Errorf("%w: part of chunk %x out of place", ErrFormat, e.ID)
		}
		end = e.End()
		f.Entries = append(f.Entries, e)
	}
	if len(rest) != 0 {
		return Footer{}, fmt.Errorf("%w: %d bytes after the last footer entry", ErrFormat, len(rest))
	}
	return f, nil
}

func parseEntry(b []byte) (Entry, []byte, error) {
	if len(b) < footerEntry {
		return Entry{}, nil, fmt.Errorf("%w: footer entry cut short", ErrFormat)
	}
	e := Entry{
		ID:     ID(b[:32]),
		Type:   Type(b[32]),
		Enc:    Encoding(b[33]),
		Offset: int64(le.Uint64(b[36:])),
		Stored: le.Uint32(b[44:]),
		Raw:    le.Uint32(b[48:]),
		CRC:    le.Uint32(b[52:]),
	}
	n := int(le.Uint16(b[34:]))
	b = b[footerEntry:]
	if n > MaxExt || n > len(b) {
		return Entry{}, nil, fmt.Errorf("%w: entry extension of %d bytes", ErrFormat, n)
	}
	if n > 0 {
		e.Ext = bytes.Clone(b[:n])
	}
	return e, b[n:], checkLengths(e)
}

// AppendTrailer appends the last TrailerSize bytes of a pack.
//
//	0 8 footer's offset   8 4 footer's length   12 4 CRC32-C of bytes 0..12
//	16 8 magic "stepfsTR"
func AppendTrailer(dst []byte, footerOffset int64, footerLen int) []byte {
	n := len(dst)
	dst = le.AppendUint64(dst, uint64(footerOffset))
	dst = le.AppendUint32(dst, uint32(footerLen))
	dst = le.AppendUint32(dst, Checksum(dst[n:]))
	return append(dst, trailerMagic...)
}

// ParseTrailer finds the footer of a pack of size bytes from its trailer.
func ParseTrailer(b []byte, size int64) (off int64, length int, err error) {
	if len(b) != TrailerSize || !bytes.Equal(b[16:], trailerMagic) {
		return 0, 0, fmt.Errorf("%w: no trailer", ErrFormat)
	}
	if le.Uint32(b[12:]) != Checksum(b[:12]) {
		return 0, 0, fmt.Errorf("%w: trailer checksum", ErrFormat)
	}
	off, n := int64(le.Uint64(b)), int64(le.Uint32(b[8:]))
	if n > MaxFooter || off < HeaderSize || off > size || off+n+TrailerSize != size {
		return 0, 0, fmt.Errorf("%w: footer of %d bytes at %d in a file of %d", ErrFormat, n, off, size)
	}
	return off, int(n), nil
}

// Name is the name of a pack with this footer.
type Name [32]byte

// NameOf returns the name of the pack whose footer has these bytes.
func NameOf(footer []byte) Name { return blake3.Sum256(footer) }

// Suffix is how a pack's file name ends.
const Suffix = ".pack"

// FileName is the pack's name as a file.
func (n Name) FileName() string { return hex.EncodeToString(n[:]) + Suffix }

// ParseFileName is the inverse of FileName; ok is false for any other file.
func ParseFileName(s string) (n Name, ok bool) {
	h, found := strings.CutSuffix(s, Suffix)
	if !found || len(h) != 2*len(n) || strings.ToLower(h) != h {
		return Name{}, false
	}
	if _, err := hex.Decode(n[:], []byte(h)); err != nil {
		return Name{}, false
	}
	return n, true
}

// ReadFooter reads trailer and footer of a pack of size bytes, and the pack's
// header, which must agree with the footer.
func ReadFooter(r io.ReaderAt, size int64) (Footer, Name, error) {
	if size < HeaderSize+footerHead+4+TrailerSize {
		return Footer{}, Name{}, fmt.Errorf("%w: file of %d bytes", ErrFormat, size)
	}
	var small [HeaderSize]byte
	if _, err := r.ReadAt(small[:TrailerSize], size-TrailerSize); err != nil {
		return Footer{}, Name{}, fmt.Errorf("read trailer: %w", err)
	}
	off, n, err := ParseTrailer(small[:TrailerSize], size)
	if err != nil {
		return Footer{}, Name{}, err
	}
	b := make([]byte, n)
	if _, err := r.ReadAt(b, off); err != nil {
		return Footer{}, Name{}, fmt.Errorf("read footer: %w", err)
	}
	f, err := ParseFooter(b)
	if err != nil {
		return Footer{}, Name{}, err
	}
	if _, err := r.ReadAt(small[:], 0); err != nil {
		return Footer{}, Name{}, fmt.Errorf("read header: %w", err)
	}
	if info, err := ParseHeader(small[:]); err != nil {
		return Footer{}, Name{}, err
	} else if info != f.Info || f.Body != off {
		return Footer{}, Name{}, fmt.Errorf("%w: header and footer disagree", ErrFormat)
	}
	return f, NameOf(b), nil
}

// FooterSize is the length of the footer that lists these entries.
func FooterSize(entries []Entry) int {
	n := footerHead + 4
	for _, e := range entries {
		n += footerEntry + len(e.Ext)
	}
	return n
}
