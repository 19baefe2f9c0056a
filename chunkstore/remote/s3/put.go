package s3

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strings"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/middleware"

	"stepfs/chunkstore/remote"
)

// Put implements remote.Bucket.
func (b *Bucket) Put(ctx context.Context, key string, c remote.Content) error {
	_, err := b.put(ctx, "put", key, c, condition{})
	return err
}

// PutIfAbsent implements remote.Bucket.
func (b *Bucket) PutIfAbsent(ctx context.Context, key string, c remote.Content) (string, error) {
	return b.put(ctx, "put", key, c, condition{absent: true})
}

// ReplaceIfMatch implements remote.Bucket.
func (b *Bucket) ReplaceIfMatch(ctx context.Context, key, version string, c remote.Content) (string, error) {
	if err := remote.CheckReplace("replace", key, version, c); err != nil {
		return "", err
	}
	return b.put(ctx, "replace", key, c, condition{version: version})
}

// condition is what must be so for an object to be made. The zero value: nothing.
type condition struct {
	absent  bool
	version string
}

func (c condition) ifNoneMatch() *string {
	if !c.absent {
		return nil
	}
	return orNil("*")
}

func (c condition) ifMatch() *string {
	if c.version == "" {
		return nil
	}
	return orNil(`"` + c.version + `"`)
}

// unmet gives the kind of error that says that the condition was not met, if err
// is how a server says so.
func (c condition) unmet(err error) error {
	s := status(err)
	switch {
	case c.absent && (s == http.StatusPreconditionFailed || s == http.StatusNotModified):
		return remote.ErrExists
	case c.version != "" && s == http.StatusPreconditionFailed:
		return remote.ErrChanged
	// AWS and versitygw say of what is gone that it is not there, MinIO that it
	// does not match.
	case c.version != "" && s == http.StatusNotFound && code(err) != "NoSuchBucket":
		return remote.ErrChanged
	}
	return nil
}

// lookAbove is the size above which is looked first whether an object is there
// that must not be: it would be a pity to send all of it for nothing, and some
// servers (versitygw) refuse while it is being sent and cut the connection, so
// that the sender never hears why. What is fresh is sent at once: if something is
// there all the same, it is found by the next attempt.
const lookAbove = 256 << 10

// version is what stands for an ETag.
func version(etag *string) string {
	if etag == nil {
		return ""
	}
	return strings.Trim(*etag, `"`)
}

func (b *Bucket) put(ctx context.Context, op, key string, c remote.Content, cond condition) (string, error) {
	if err := remote.CheckPut(op, key, c); err != nil {
		return "", err
	}
	if err := remote.Ended(ctx, op, key); err != nil {
		return "", err
	}
	if cond.absent && c.Size > lookAbove && !c.Fresh {
		if _, err := b.Stat(ctx, key); err == nil {
			return "", remote.Fail(op, key, remote.ErrExists, nil)
		} else if !errors.Is(err, remote.ErrNotExist) {
			return "", err
		}
	}
	var etag string
	var err error
	if c.Size > b.opt.PartSize {
		etag, err = b.putParts(ctx, key, c, cond)
	} else {
		etag, err = b.putWhole(ctx, key, c, cond)
	}
	if err == nil {
		return etag, nil
	}
	if kind := cond.unmet(err); kind != nil {
		return "", remote.Fail(op, key, kind, nil)
	}
	return "", b.failed(ctx, op, key, err)
}

// putWhole makes an object by one request.
func (b *Bucket) putWhole(ctx context.Context, key string, c remote.Content, cond condition) (string, error) {
	p, err := b.piece(ctx, c, 0, c.Size)
	if err != nil {
		return "", err
	}
	if p.crc != c.CRC {
		return "", wrongContent(p.crc, c.CRC)
	}
	out, err := call(ctx, b, func() (*awss3.PutObjectOutput, error) {
		return b.api.PutObject(ctx, &awss3.PutObjectInput{
			Bucket: &b.opt.Bucket, Key: orNil(b.name(key)), Body: p.body(ctx), ContentLength: &c.Size, ContentType: orNil("application/octet-stream"),
			IfNoneMatch: cond.ifNoneMatch(), IfMatch: cond.ifMatch(), ChecksumCRC32C: p.checksum(),
			ServerSideEncryption: b.opt.sse(), SSEKMSKeyId: orNil(b.opt.KMSKey), StorageClass: b.opt.class(),
		}, p.signed)
	})
	if err != nil {
		return "", err
	}
	if version(out.ETag) == "" {
		return "", errNoETag
	}
	return version(out.ETag), nil
}

func wrongContent(crc, want uint32) error {
	return fmt.Errorf("%w: its CRC-32C is %08x, and was %08x when it was made", remote.ErrContent, crc, want)
}

// piece is a part of a content, read through once, to be sent as one body.
type piece struct {
	c         remote.Content
	off, size int64
	crc       uint32
	sendCRC   bool
	payload   string // what stands for the body in the signature
}

// piece reads a part of a content and computes what has to be known before it is
// sent. The signature commits to the bytes, unless TLS protects them on their
// way and the server checks a CRC at its end.
func (b *Bucket) piece(ctx context.Context, c remote.Content, off, size int64) (piece, error) {
	p := piece{c: c, off: off, size: size, sendCRC: b.checksum, payload: "UNSIGNED-PAYLOAD"}
	crc, sum := remote.NewCRC(), hash.Hash(nil)
	sums := io.Writer(crc)
	if !b.tls || !b.checksum {
		sum = sha256.New()
		sums = io.MultiWriter(crc, sum)
	}
	if n, err := io.Copy(sums, &contextReader{ctx, io.NewSectionReader(c.Body, off, size)}); err != nil || n != size {
		if ctx.Err() != nil {
			return p, ctx.Err()
		}
		if err == nil {
			err = fmt.Errorf("there are less than its %d bytes", c.Size)
		}
		return p, fmt.Errorf("%w: %w", remote.ErrContent, err)
	}
	p.crc = crc.Sum32()
	if sum != nil {
		p.payload = hex.EncodeToString(sum.Sum(nil))
	}
	return p, nil
}

// checksum is the CRC as a header has it, or nil if it is not to be sent.
func (p piece) checksum() *string {
	if !p.sendCRC {
		return nil
	}
	return crcHeader(p.crc)
}

func crcHeader(crc uint32) *string {
	return orNil(base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc)))
}

// signed has the SDK take our hash of the body, instead of reading it once more.
func (p piece) signed(o *awss3.Options) {
	o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error {
		return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("StepfsPayloadHash",
			func(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (middleware.InitializeOutput, middleware.Metadata, error) {
				return next.HandleInitialize(v4.SetPayloadHash(ctx, p.payload), in)
			}), middleware.Before)
	})
}

// body is what is sent, at the content's pace.
func (p piece) body(ctx context.Context) io.ReadSeeker {
	return &body{ctx: ctx, pace: p.c.Pace, SectionReader: io.NewSectionReader(p.c.Body, p.off, p.size)}
}

type body struct {
	*io.SectionReader
	ctx  context.Context
	pace func(ctx context.Context, n int) error
}

// Read reads at most what may leave at a time.
func (r *body) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	at, err := r.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	p = p[:min(int64(len(p)), 64<<10, r.Size()-at)]
	if len(p) == 0 {
		return 0, io.EOF
	}
	if r.pace != nil {
		if err := r.pace(r.ctx, len(p)); err != nil {
			return 0, fmt.Errorf("%w: its pace ended: %w", remote.ErrContent, err)
		}
	}
	n, err := io.ReadFull(r.SectionReader, p)
	if err != nil {
		err = fmt.Errorf("%w: %w", remote.ErrContent, err)
	}
	return n, err
}

// WriteTo must not be the SectionReader's: that has no pace.
func (r *body) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{r})
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
