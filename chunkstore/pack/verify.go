package pack

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"io"
)

// Verify reads a pack of size bytes once, from front to back, and holds every
// part of it against its CRC and against the footer. It gives the CRC32-C of the
// whole file. ErrFormat: it is damaged. Chunks are not held against their names,
// for which they would have to be decoded.
func Verify(r io.ReaderAt, size int64) (sum uint32, f Footer, name Name, err error) {
	if f, name, err = ReadFooter(r, size); err != nil {
		return 0, f, name, err
	}
	v := verifier{r: r, buf: make([]byte, 256<<10)}
	for _, e := range f.Entries {
		if err = v.part(e, f.Domain); err != nil {
			return 0, f, name, err
		}
	}
	_, err = v.upTo(size)
	return v.sum, f, name, err
}

type verifier struct {
	r   io.ReaderAt
	off int64
	sum uint32 // of all before off
	buf []byte
}

// upTo goes on to end, and gives the CRC of what lies on the way.
func (v *verifier) upTo(end int64) (part uint32, err error) {
	for v.off < end {
		b := v.buf[:min(int64(len(v.buf)), end-v.off)]
		if _, err := v.r.ReadAt(b, v.off); err != nil {
			return 0, fmt.Errorf("read pack: %w", err)
		}
		v.sum = crc32.Update(v.sum, castagnoli, b)
		part = crc32.Update(part, castagnoli, b)
		v.off += int64(len(b))
	}
	return part, nil
}

func (v *verifier) part(e Entry, domain uint32) error {
	if _, err := v.upTo(e.Offset); err != nil {
		return err
	}
	want := make([]byte, PartHeaderSize, PartHeaderSize+len(e.Ext))
	PutPartHeader(want, e, domain)
	want = append(want, e.Ext...)
	head, err := v.upTo(e.PayloadOffset())
	if err != nil {
		return err
	}
	if head != Checksum(want) || !bytes.Equal(want, v.buf[:len(want)]) {
		return fmt.Errorf("%w: the header before chunk %x at %d is not what the footer says", ErrFormat, e.ID, e.Offset)
	}
	sum, err := v.upTo(e.End())
	if err == nil && sum != e.CRC {
		err = fmt.Errorf("%w: checksum of chunk %x at %d", ErrFormat, e.ID, e.Offset)
	}
	return err
}
