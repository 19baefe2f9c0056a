package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Content is what is to be put. Its bytes can be read again, since a request may
// have to be made again; they must not change meanwhile.
//
// CRC was taken when the bytes were made, not when they are sent. A Bucket holds
// what it reads against it, and has the server do the same where the server can:
// what rotted on a disk in between is ErrContent, what broke on the way is
// ErrDamaged, and neither becomes an object.
type Content struct {
	Body io.ReaderAt
	Size int64
	CRC  uint32 // CRC-32C
	// Fresh says that, as far as the caller knows, nothing was ever put under the
	// key. Whether something is there is then not asked before the bytes are sent.
	Fresh bool
	// Pace, if there is one, is called before each n bytes that leave, and
	// returns when they may, or with ctx's error. (Bytes may be read more often
	// than they are sent, so it is not for Body to wait.) Parts of an object may
	// be sent at the same time.
	Pace func(ctx context.Context, n int) error
}

// Bytes is the content b.
func Bytes(b []byte) Content {
	return Content{Body: bytes.NewReader(b), Size: int64(len(b)), CRC: crc32.Checksum(b, castagnoli)}
}

// NewCRC computes the CRC of a Content.
func NewCRC() hash.Hash32 { return crc32.New(castagnoli) }

// pieceSize is how much of a content is read, and paced, at a time.
const pieceSize = 64 << 10

// Reader reads the content once from front to back, at the pace that it has,
// and gives ErrContent in the place of io.EOF if the bytes were not the right
// ones. The bytes themselves have been given by then: whoever keeps them has to
// throw them away.
func (c Content) Reader(ctx context.Context) io.Reader {
	return &contentReader{ctx: ctx, c: c, crc: NewCRC()}
}

type contentReader struct {
	ctx context.Context
	c   Content
	off int64
	crc hash.Hash32
}

func (r *contentReader) Read(p []byte) (int, error) {
	if r.off == r.c.Size {
		return 0, r.c.matches(r.crc.Sum32())
	}
	n := int(min(int64(len(p)), pieceSize, r.c.Size-r.off))
	if err := r.c.pace(r.ctx, n); err != nil {
		return 0, err
	}
	if err := r.c.readFull(p[:n], r.off); err != nil {
		return 0, err
	}
	r.crc.Write(p[:n])
	r.off += int64(n)
	return n, nil
}

// matches gives io.EOF if a sum is that of the content.
func (c Content) matches(sum uint32) error {
	if sum != c.CRC {
		return fmt.Errorf("%w: its CRC-32C is %08x, and was %08x when it was made", ErrContent, sum, c.CRC)
	}
	return io.EOF
}

func (c Content) pace(ctx context.Context, n int) error {
	if err := ctx.Err(); err != nil || c.Pace == nil {
		return err
	}
	if err := c.Pace(ctx, n); err != nil {
		return fmt.Errorf("%w: its pace ended: %w", ErrContent, err)
	}
	return nil
}

// readFull reads bytes that are known to be there.
func (c Content) readFull(p []byte, off int64) error {
	n, err := c.Body.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: there are less than its %d bytes", ErrContent, c.Size)
	}
	return fmt.Errorf("%w: %w", ErrContent, err)
}

// Load gives the content's bytes, if they are the right ones.
func (c Content) Load(ctx context.Context) ([]byte, error) {
	b := make([]byte, c.Size)
	r := c.Reader(ctx)
	for off := 0; ; {
		n, err := r.Read(b[off:])
		off += n
		switch {
		case errors.Is(err, io.EOF):
			return b, nil
		case err != nil:
			return nil, err
		}
	}
}
