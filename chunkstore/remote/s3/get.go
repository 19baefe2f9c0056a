package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strconv"
	"strings"
	"time"

	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"stepfs/chunkstore/remote"
)

// Get implements remote.Bucket.
func (b *Bucket) Get(ctx context.Context, key string, p []byte, off int64) (int, remote.Info, error) {
	if err := remote.CheckGet("get", key, off); err != nil {
		return 0, remote.Info{}, err
	}
	if err := remote.Ended(ctx, "get", key); err != nil {
		return 0, remote.Info{}, err
	}
	if len(p) == 0 {
		info, err := b.Stat(ctx, key)
		return 0, info, err
	}
	out, err := call(ctx, b, func() (*awss3.GetObjectOutput, error) {
		return b.api.GetObject(ctx, &awss3.GetObjectInput{
			Bucket: &b.opt.Bucket, Key: orNil(b.name(key)), Range: orNil(fmt.Sprintf("bytes=%d-%d", off, off+int64(len(p))-1)),
		})
	})
	if status(err) == http.StatusRequestedRangeNotSatisfiable { // nothing lies there, as in any empty object
		info, err := b.Stat(ctx, key)
		if err == nil && info.Size > off {
			err = remote.Fail("get", key, remote.ErrRetryable, fmt.Errorf("nothing at %d of an object of %d bytes", off, info.Size))
		}
		if err != nil {
			return 0, remote.Info{}, err
		}
		return 0, info, io.EOF
	}
	if err != nil {
		return 0, remote.Info{}, b.failed(ctx, "get", key, err)
	}
	defer out.Body.Close()
	info := remote.Info{Version: version(out.ETag), Modified: timeOf(out.LastModified)}
	if info.Version == "" {
		return 0, remote.Info{}, b.failed(ctx, "get", key, errNoETag)
	}
	if info.Size, err = sizeOf(out, off); err != nil {
		return 0, remote.Info{}, remote.Fail("get", key, remote.ErrUnsupported, err)
	}
	want := p[:max(0, min(int64(len(p)), info.Size-off))]
	if n, err := io.ReadFull(out.Body, want); err != nil {
		// Also a body that ends early, whatever its length was said to be.
		return 0, remote.Info{}, b.failed(ctx, "get", key, fmt.Errorf("the answer broke off after %d of %d bytes: %w", n, len(want), err))
	}
	if len(want) < len(p) {
		return len(want), info, io.EOF
	}
	return len(want), info, nil
}

// sizeOf is the size of the object of which out is the range from off on. It
// makes sure that it is: a server that knows no ranges sends all of it.
func sizeOf(out *awss3.GetObjectOutput, off int64) (int64, error) {
	if out.ContentRange == nil {
		if off != 0 || out.ContentLength == nil {
			return 0, fmt.Errorf("the server did not answer with the range from %d that it was asked for", off)
		}
		return *out.ContentLength, nil
	}
	span, total, ok := strings.Cut(strings.TrimPrefix(*out.ContentRange, "bytes "), "/")
	from, _, ok2 := strings.Cut(span, "-")
	first, err1 := strconv.ParseInt(from, 10, 64)
	size, err2 := strconv.ParseInt(total, 10, 64)
	if !ok || !ok2 || err1 != nil || err2 != nil || first != off || size <= off {
		return 0, fmt.Errorf("the server answered with the range %.60q, and was asked for the one from %d", *out.ContentRange, off)
	}
	return size, nil
}

func timeOf(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

// Stat implements remote.Bucket.
func (b *Bucket) Stat(ctx context.Context, key string) (remote.Info, error) {
	if err := remote.CheckKey("stat", key); err != nil {
		return remote.Info{}, err
	}
	if err := remote.Ended(ctx, "stat", key); err != nil {
		return remote.Info{}, err
	}
	out, err := call(ctx, b, func() (*awss3.HeadObjectOutput, error) {
		return b.api.HeadObject(ctx, &awss3.HeadObjectInput{Bucket: &b.opt.Bucket, Key: orNil(b.name(key))})
	})
	if err != nil {
		return remote.Info{}, b.missing(ctx, b.failed(ctx, "stat", key, err))
	}
	if out.ContentLength == nil || version(out.ETag) == "" {
		return remote.Info{}, remote.Fail("stat", key, remote.ErrUnsupported, errors.New("the server does not say how long it is, or gives no ETag"))
	}
	return remote.Info{Size: *out.ContentLength, Version: version(out.ETag), Modified: timeOf(out.LastModified)}, nil
}

// missing makes sure, once, that an object that is said not to be there has a
// bucket: what answers a HEAD does not tell one from the other, and a wrong
// bucket must not look like an empty one.
func (b *Bucket) missing(ctx context.Context, err error) error {
	if !errors.Is(err, remote.ErrNotExist) || b.reached.Load() {
		return err
	}
	switch reach := b.Reach(ctx); {
	case errors.Is(reach, remote.ErrAddress):
		return reach
	case reach == nil:
		b.reached.Store(true)
	}
	return err
}

// Delete implements remote.Bucket. Where versions are kept, those stay.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	if err := remote.CheckKey("delete", key); err != nil {
		return err
	}
	if err := remote.Ended(ctx, "delete", key); err != nil {
		return err
	}
	_, err := call(ctx, b, func() (*awss3.DeleteObjectOutput, error) {
		return b.api.DeleteObject(ctx, &awss3.DeleteObjectInput{Bucket: &b.opt.Bucket, Key: orNil(b.name(key))})
	})
	if err == nil || status(err) == http.StatusNotFound && code(err) != "NoSuchBucket" {
		return nil
	}
	return b.failed(ctx, "delete", key, err)
}

// List implements remote.Bucket.
func (b *Bucket) List(ctx context.Context, prefix, after string) iter.Seq2[remote.Object, error] {
	return func(yield func(remote.Object, error) bool) {
		if err := remote.CheckPrefix("list", prefix); err != nil {
			yield(remote.Object{}, err)
			return
		}
		if err := b.list(ctx, prefix, after, yield); err != nil && !errors.Is(err, errLeft) {
			yield(remote.Object{}, err)
		}
	}
}

// errLeft says that nobody wants more.
var errLeft = errors.New("left")

// page asks for a page of a list. To the SDK any answer of status 200 that has no
// objects in it is an empty list; one that names no bucket is none.
func (b *Bucket) page(ctx context.Context, in *awss3.ListObjectsV2Input) (*awss3.ListObjectsV2Output, error) {
	return call(ctx, b, func() (*awss3.ListObjectsV2Output, error) {
		page, err := b.api.ListObjectsV2(ctx, in)
		if err == nil && (page.Name == nil || page.IsTruncated == nil) {
			return nil, &strangerError{http.StatusOK, "what answers is no S3 server: it was asked for a list, and gave none"}
		}
		return page, err
	})
}

func (b *Bucket) list(ctx context.Context, prefix, after string, yield func(remote.Object, error) bool) error {
	in := &awss3.ListObjectsV2Input{Bucket: &b.opt.Bucket, Prefix: orNil(b.name(prefix))}
	if after != "" {
		in.StartAfter = orNil(b.name(after))
	}
	last := after
	for {
		if err := remote.Ended(ctx, "list", prefix); err != nil {
			return err
		}
		page, err := b.page(ctx, in)
		if err != nil {
			return b.failed(ctx, "list", prefix, err)
		}
		for _, o := range page.Contents {
			if o.Key == nil || o.Size == nil {
				return remote.Fail("list", prefix, remote.ErrUnsupported, errors.New("an object is listed without key or size"))
			}
			key, ours := b.key(*o.Key)
			if !ours || !strings.HasPrefix(key, prefix) || !remote.IsKey(key) {
				continue // a directory's marker, or somebody else's
			}
			if key <= last {
				return remote.Fail("list", prefix, remote.ErrUnsupported, fmt.Errorf("the server lists %s after %s", key, last))
			}
			last = key
			if !yield(remote.Object{Key: key, Size: *o.Size, Modified: timeOf(o.LastModified)}, nil) {
				return errLeft
			}
		}
		if !*page.IsTruncated {
			return nil
		}
		next := page.NextContinuationToken
		if next == nil || *next == "" || in.ContinuationToken != nil && *next == *in.ContinuationToken {
			return remote.Fail("list", prefix, remote.ErrUnsupported, errors.New("the server says that there is more, and not where"))
		}
		in.ContinuationToken = next
	}
}
