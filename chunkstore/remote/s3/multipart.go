package s3

import (
	"context"
	"hash/crc32"
	"time"

	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"

	"stepfs/chunkstore/remote"
)

// abortWithin is how long it may take to take back parts that were sent.
const abortWithin = 30 * time.Second

// putParts makes an object of many parts. It becomes one by the last request,
// which has the condition; until then nobody sees anything.
func (b *Bucket) putParts(ctx context.Context, key string, c remote.Content, cond condition) (etag string, err error) {
	in := &awss3.CreateMultipartUploadInput{
		Bucket: &b.opt.Bucket, Key: orNil(b.name(key)), ContentType: orNil("application/octet-stream"),
		ServerSideEncryption: b.opt.sse(), SSEKMSKeyId: orNil(b.opt.KMSKey), StorageClass: b.opt.class(),
	}
	if b.checksum {
		in.ChecksumAlgorithm, in.ChecksumType = types.ChecksumAlgorithmCrc32c, types.ChecksumTypeFullObject
	}
	up, err := call(ctx, b, func() (*awss3.CreateMultipartUploadOutput, error) { return b.api.CreateMultipartUpload(ctx, in) })
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			b.abort(ctx, in.Key, up.UploadId)
		}
	}()
	parts, crc, err := b.sendParts(ctx, in.Key, up.UploadId, c)
	if err != nil {
		return "", err
	}
	if crc != c.CRC {
		return "", wrongContent(crc, c.CRC)
	}
	return b.complete(ctx, in.Key, up.UploadId, c, parts, cond)
}

// sendParts sends all parts, a few at a time, and gives the CRC of all of them.
func (b *Bucket) sendParts(ctx context.Context, name, upload *string, c remote.Content) ([]types.CompletedPart, uint32, error) {
	n := int((c.Size + b.opt.PartSize - 1) / b.opt.PartSize)
	parts, crcs := make([]types.CompletedPart, n), make([]uint32, n)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(b.opt.Parts)
	for i := range n {
		group.Go(func() error {
			off := int64(i) * b.opt.PartSize
			p, err := b.piece(ctx, c, off, min(b.opt.PartSize, c.Size-off))
			if err != nil {
				return err
			}
			number := int32(i + 1)
			out, err := call(ctx, b, func() (*awss3.UploadPartOutput, error) {
				return b.api.UploadPart(ctx, &awss3.UploadPartInput{
					Bucket: &b.opt.Bucket, Key: name, UploadId: upload, PartNumber: &number,
					Body: p.body(ctx), ContentLength: &p.size, ChecksumCRC32C: p.checksum(),
				}, p.signed)
			})
			if err != nil {
				return err
			}
			crcs[i], parts[i] = p.crc, types.CompletedPart{ETag: out.ETag, PartNumber: &number, ChecksumCRC32C: p.checksum()}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, 0, err
	}
	all := crcs[0]
	for i := 1; i < n; i++ {
		all = combine(all, crcs[i], min(b.opt.PartSize, c.Size-int64(i)*b.opt.PartSize))
	}
	return parts, all, nil
}

// complete makes an object of parts.
func (b *Bucket) complete(ctx context.Context, name, upload *string, c remote.Content, parts []types.CompletedPart, cond condition) (string, error) {
	in := &awss3.CompleteMultipartUploadInput{
		Bucket: &b.opt.Bucket, Key: name, UploadId: upload, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
		IfNoneMatch: cond.ifNoneMatch(), IfMatch: cond.ifMatch(),
	}
	if b.checksum {
		in.ChecksumType, in.ChecksumCRC32C, in.MpuObjectSize = types.ChecksumTypeFullObject, crcHeader(c.CRC), &c.Size
	}
	out, err := call(ctx, b, func() (*awss3.CompleteMultipartUploadOutput, error) { return b.api.CompleteMultipartUpload(ctx, in) })
	if err != nil {
		return "", err
	}
	if version(out.ETag) == "" {
		return "", errNoETag
	}
	return version(out.ETag), nil
}

// abort takes back parts that were sent. If that fails too they stay, and cost
// money, until the bucket's lifecycle rule or Sweep removes them.
func (b *Bucket) abort(ctx context.Context, name, upload *string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortWithin)
	defer cancel()
	_, _ = b.api.AbortMultipartUpload(ctx, &awss3.AbortMultipartUploadInput{Bucket: &b.opt.Bucket, Key: name, UploadId: upload})
}

// Sweep takes back parts below the prefix that were begun so long ago that
// nobody can be sending them any more, and says of how many objects.
func (b *Bucket) Sweep(ctx context.Context, olderThan time.Duration) (objects int, err error) {
	in := &awss3.ListMultipartUploadsInput{Bucket: &b.opt.Bucket, Prefix: orNil(b.name(""))}
	pages := awss3.NewListMultipartUploadsPaginator(b.api, in)
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return objects, b.failed(ctx, "sweep", "", err)
		}
		for _, u := range page.Uploads {
			if u.Key == nil || u.Initiated == nil || time.Since(*u.Initiated) < olderThan {
				continue
			}
			if key, ours := b.key(*u.Key); !ours || !remote.IsKey(key) {
				continue
			}
			_, err := b.api.AbortMultipartUpload(ctx, &awss3.AbortMultipartUploadInput{Bucket: &b.opt.Bucket, Key: u.Key, UploadId: u.UploadId})
			if err != nil && code(err) != "NoSuchUpload" {
				return objects, b.failed(ctx, "sweep", "", err)
			}
			objects++
		}
	}
	return objects, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// zeros are what combine runs over.
var zeros [64 << 10]byte

// combine gives the CRC of one sequence of bytes after another from the CRCs of
// both: without its inversions a CRC is linear, so that of the first goes on
// over as many zeros as the second is long, and that of the second is added.
// The zeros cost little beside sending as many bytes.
func combine(first, second uint32, length int64) uint32 {
	for n := length; n > 0; n -= int64(len(zeros)) {
		first = ^crc32.Update(^first, castagnoli, zeros[:min(n, int64(len(zeros)))])
	}
	return first ^ second
}
