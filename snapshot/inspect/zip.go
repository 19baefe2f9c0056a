package inspect

import (
	"bytes"
	"cmp"
	"compress/flate"
	"encoding/binary"
	"io"
	"slices"
)

// The zip format (PKWARE's APPNOTE.TXT), as far as torch writes it and others
// repack it. archive/zip would do for well-meant files; it looks at no local
// header before a record is opened, nor for records that overlap, and takes a
// directory of any size into memory.
//
// A file of DCP holds several archives one after the other, each with offsets
// of its own; so the end says where an archive begins.

const (
	sigLocal      = "PK\x03\x04"
	sigDescriptor = "PK\x07\x08"
	sigEntry      = "PK\x01\x02"
	sigEnd        = "PK\x05\x06"
	sigEnd64      = "PK\x06\x06"
	sigLocator    = "PK\x06\x07"

	sizeLocal   = 30
	sizeEntry   = 46
	sizeEnd     = 22
	sizeEnd64   = 56
	sizeLocator = 20

	maxComment = 1<<16 - 1
	maxRecords = 1 << 20
	maxNames   = 64 << 20 // bytes of all names in an archive
	maxInflate = 64 << 20 // a compressed record that is looked into
)

const (
	stored   = 0
	deflated = 8
)

// A record is one file in an archive.
type record struct {
	name   string
	offset int64 // of its local header
	data   int64
	packed int64
	size   int64
	crc    uint32
	flags  uint16
	method uint16
}

// An archive is a zip whose directory and local headers agree.
type archive struct {
	span
	records []record // in the order of the directory
	byName  map[string]*record
	// start: where in the span the archive begins; what lies before it is not
	// its own.
	start   int64
	scratch []byte
}

// directory is what the end of an archive says.
type directory struct {
	entries       uint64
	offset, size  uint64 // relative to start
	start, behind int64  // behind: where the directory ends
}

var le = binary.LittleEndian

// looksZip: what a zip begins with or ends with, so that a damaged end or
// beginning does not make it something else.
func looksZip(s span) (bool, error) {
	head, err := s.head(4)
	if err != nil {
		return false, err
	}
	tail, err := s.tail(sizeEnd)
	return string(head) == sigLocal || bytes.HasPrefix(tail, []byte(sigEnd)), err
}

// readZip reads the archive that ends where s ends.
func readZip(s span) (*archive, error) {
	d, err := readEnd(s)
	if err != nil {
		return nil, err
	}
	a := &archive{span: s, start: d.start}
	if err := a.readDirectory(d); err != nil {
		return nil, err
	}
	return a, a.checkLocal(d.start + int64(d.offset))
}

// readEnd finds the end of the directory's record and, before it, those of zip64.
func readEnd(s span) (directory, error) {
	tail, err := s.tail(sizeEnd + sizeLocator + sizeEnd64)
	if err != nil {
		return directory{}, err
	}
	at := len(tail) - sizeEnd
	if at < 0 || string(tail[at:at+4]) != sigEnd || le.Uint16(tail[at+20:]) != 0 {
		if tail, at, err = findEnd(s); err != nil {
			return directory{}, err
		}
	}
	end := tail[at:]
	if le.Uint32(end[4:]) != 0 || le.Uint16(end[8:]) != le.Uint16(end[10:]) {
		return directory{}, flaw("zip: in several parts")
	}
	d := directory{
		entries: uint64(le.Uint16(end[10:])), size: uint64(le.Uint32(end[12:])), offset: uint64(le.Uint32(end[16:])),
		behind: s.size - int64(len(end)),
	}
	if at >= sizeLocator && string(tail[at-sizeLocator:at-sizeLocator+4]) == sigLocator {
		if at < sizeLocator+sizeEnd64 {
			return d, flaw("zip: no room for its zip64 end")
		}
		err = d.read64(tail[at-sizeLocator-sizeEnd64 : at])
	} else if d.entries == 0xffff || d.size == 0xffffffff || d.offset == 0xffffffff {
		err = flaw("zip: the zip64 end is missing")
	}
	if err != nil {
		return d, err
	}
	if d.size > uint64(d.behind) || d.offset > uint64(d.behind)-d.size {
		return d, flawf("zip: a directory of %d bytes at %d does not fit in before %d", d.size, d.offset, d.behind)
	}
	d.start += d.behind - int64(d.size) - int64(d.offset)
	if d.entries > d.size/sizeEntry {
		return d, flawf("zip: %d records in a directory of %d bytes", d.entries, d.size)
	}
	return d, nil
}

// findEnd looks for an end record with a comment.
func findEnd(s span) ([]byte, int, error) {
	tail, err := s.tail(maxComment + sizeEnd + sizeLocator + sizeEnd64)
	if err != nil {
		return nil, 0, err
	}
	for at := len(tail) - sizeEnd; at >= 0; at-- {
		if string(tail[at:at+4]) == sigEnd && at+sizeEnd+int(le.Uint16(tail[at+20:])) == len(tail) {
			return tail, at, nil
		}
	}
	return nil, 0, flaw("zip: the end of the central directory is missing")
}

// read64 takes what the zip64 end and its locator say, which are in b.
func (d *directory) read64(b []byte) error {
	end, loc := b[:sizeEnd64], b[sizeEnd64:]
	d.behind -= sizeEnd64 + sizeLocator
	if string(end[:4]) != sigEnd64 || le.Uint64(end[4:]) != sizeEnd64-12 {
		return flaw("zip: the zip64 end is not before its locator")
	}
	entries, size, offset := le.Uint64(end[32:]), le.Uint64(end[40:]), le.Uint64(end[48:])
	if le.Uint64(end[16:]) != 0 || le.Uint64(end[24:]) != entries || le.Uint32(loc[4:]) != 0 || le.Uint32(loc[16:]) != 1 {
		return flaw("zip: in several parts")
	}
	agree := func(short, long, all uint64) bool { return short == all || short == long }
	if !agree(d.entries, entries, 0xffff) || !agree(d.size, size, 0xffffffff) || !agree(d.offset, offset, 0xffffffff) {
		return flaw("zip: its two ends say different things")
	}
	d.entries, d.size, d.offset = entries, size, offset
	if at := le.Uint64(loc[8:]); at != size+offset {
		return flawf("zip: the zip64 end is at %d, not at %d", size+offset, at)
	}
	return nil
}

// readDirectory reads all entries.
func (a *archive) readDirectory(d directory) error {
	if d.entries > maxRecords {
		return errTooLarge
	}
	from := d.behind - int64(d.size)
	in := newStream(a.sub(from, int64(d.size)))
	// No more than the directory has room for: readEnd has seen to that.
	a.records, a.byName = make([]record, 0, d.entries), make(map[string]*record, d.entries)
	names := 0
	for range d.entries {
		r, err := readEntry(in)
		if err != nil {
			return err
		}
		r.offset += a.start // checkLocal sees whether it lies inside
		if names += len(r.name); names > maxNames {
			return errTooLarge
		}
		a.records = append(a.records, r)
	}
	if in.left() != 0 {
		return flawf("zip: %d bytes more in the directory than its %d entries", in.left(), d.entries)
	}
	for i := range a.records {
		a.byName[a.records[i].name] = &a.records[i]
	}
	return nil
}

func readEntry(in *stream) (record, error) {
	var b [sizeEntry]byte
	if err := in.fillIn(b[:]); err != nil {
		return record{}, err
	}
	if string(b[:4]) != sigEntry {
		return record{}, flawf("zip: no entry at %d of the directory", in.at()-sizeEntry)
	}
	nameLen, extraLen, commentLen := int(le.Uint16(b[28:])), int(le.Uint16(b[30:])), le.Uint16(b[32:])
	text, err := in.take(nameLen + extraLen)
	if err != nil {
		return record{}, err
	}
	if err := in.skip(uint64(commentLen)); err != nil {
		return record{}, err
	}
	r := record{
		name: string(text[:nameLen]), flags: le.Uint16(b[8:]), method: le.Uint16(b[10:]), crc: le.Uint32(b[16:]),
	}
	packed, size, offset := uint64(le.Uint32(b[20:])), uint64(le.Uint32(b[24:])), uint64(le.Uint32(b[42:]))
	if !extra64(text[nameLen:], &size, &packed, &offset) {
		return r, flawf("zip: %.60q lacks its long sizes", r.name)
	}
	if le.Uint16(b[34:]) != 0 {
		return r, flaw("zip: in several parts")
	}
	if r.flags&1 != 0 || (r.method != stored && r.method != deflated) {
		return r, flawf("zip: %.60q is packed by an unknown method", r.name)
	}
	if max(packed, size, offset) > 1<<62 || (r.method == stored && packed != size) {
		return r, flawf("zip: %.60q has sizes that can't be", r.name)
	}
	r.packed, r.size, r.offset = int64(packed), int64(size), int64(offset)
	return r, nil
}

// extra64 takes from the extra field the numbers that did not fit.
func extra64(extra []byte, numbers ...*uint64) bool {
	var long []byte
	for len(extra) >= 4 {
		n := int(le.Uint16(extra[2:]))
		if n > len(extra)-4 {
			break
		}
		if le.Uint16(extra) == 1 {
			long = extra[4 : 4+n]
		}
		extra = extra[4+n:]
	}
	for _, n := range numbers {
		if *n != 0xffffffff {
			continue
		}
		if len(long) < 8 {
			return false
		}
		*n, long = le.Uint64(long), long[8:]
	}
	return true
}

// open gives the content of a record.
func (a *archive) open(r *record) (span, error) {
	packed := a.sub(r.data, r.packed)
	if r.method == stored {
		return packed, nil
	}
	if r.size > maxInflate {
		return packed, errTooLarge
	}
	in := flate.NewReader(io.NewSectionReader(spanReader{packed}, 0, packed.size))
	b, err := io.ReadAll(io.LimitReader(in, r.size+1))
	if err == nil && int64(len(b)) == r.size {
		return a.memory(b), nil
	}
	if err := a.ctx.Err(); err != nil {
		return packed, err
	}
	return packed, flawf("zip: %.60q does not unpack to %d bytes", r.name, r.size)
}

// spanReader shows a span to a library.
type spanReader struct{ s span }

func (r spanReader) ReadAt(b []byte, off int64) (int, error) {
	n := min(int64(len(b)), max(r.s.size-off, 0))
	if err := r.s.read(b[:n], off); err != nil {
		return 0, err
	}
	if n < int64(len(b)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

// byOffset gives the records in the order of the file.
func (a *archive) byOffset() []*record {
	order := make([]*record, len(a.records))
	for i := range a.records {
		order[i] = &a.records[i]
	}
	slices.SortFunc(order, func(x, y *record) int { return cmp.Compare(x.offset, y.offset) })
	return order
}
