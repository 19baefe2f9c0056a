// Package s3 is a remote.Bucket on any S3-compatible server, through AWS's SDK.
//
// Credentials, region and endpoint come from the SDK's own chain (environment,
// shared files, container and instance roles), unless Options say otherwise;
// nothing of ours holds a secret.
//
// Each method makes its requests once: the SDK's retries are off, package retry
// has its own. What is made again here is only what the first attempt has put
// right: credentials that had expired, a clock that the server has corrected.
//
// Checksums. What is put is read once before it is sent, and its CRC-32C held
// against the one that it was made with. AWS is sent that CRC and holds the bytes
// against it, of many parts as well as of one. Other servers choke on checksum
// headers, or on the SDK's trailers; these get the SHA-256 that is part of the
// signature, which S3 servers have to check, and the CRC if Options say so. A
// range of an object can't be verified by the server: the caller's hash does.
//
// Read first: options.go, put.go, errors.go. What a server really does finds
// inspect.go.
package s3

import (
	"context"
	"strings"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
)

// Bucket is a bucket, or what is below a prefix of one.
type Bucket struct {
	opt      Options
	api      *awss3.Client
	creds    *aws.CredentialsCache // nil: they are not of a chain
	tls      bool
	checksum bool // send CRC-32C
	requests atomic.Int64
	reached  atomic.Bool // the bucket is there
}

// Requests is how many HTTP requests were made.
func (b *Bucket) Requests() int64 { return b.requests.Load() }

func (b *Bucket) String() string {
	s := "s3://" + b.opt.Bucket
	if b.opt.Prefix != "" {
		s += "/" + b.opt.Prefix
	}
	if b.opt.Endpoint != "" {
		s += " at " + b.opt.Endpoint
	}
	return s
}

// name is the key's name in the bucket.
func (b *Bucket) name(key string) string {
	if b.opt.Prefix == "" {
		return key
	}
	return b.opt.Prefix + "/" + key
}

// key is the reverse of name.
func (b *Bucket) key(name string) (string, bool) {
	if b.opt.Prefix == "" {
		return name, true
	}
	return strings.CutPrefix(name, b.opt.Prefix+"/")
}

// call makes a request, and once more if what was wrong with the first was put
// right by it.
func call[T any](ctx context.Context, b *Bucket, request func() (T, error)) (T, error) {
	out, err := request()
	if err != nil && ctx.Err() == nil && (b.renewed(ctx, err) || clockCorrected(err)) {
		return request()
	}
	return out, err
}

// renewed says whether there are other credentials now, if err says that those
// used have expired.
func (b *Bucket) renewed(ctx context.Context, err error) bool {
	if b.creds == nil || !expired(err) {
		return false
	}
	old, err1 := b.creds.Retrieve(ctx)
	b.creds.Invalidate()
	now, err2 := b.creds.Retrieve(ctx)
	return err1 == nil && err2 == nil && (old.AccessKeyID != now.AccessKeyID || old.SessionToken != now.SessionToken)
}

// Reach says whether the bucket is there and lets us in. It lists, since what
// refuses a HEAD can't say why.
func (b *Bucket) Reach(ctx context.Context) error {
	_, err := b.page(ctx, &awss3.ListObjectsV2Input{Bucket: &b.opt.Bucket, Prefix: orNil(b.name("")), MaxKeys: aws.Int32(1)})
	if err != nil {
		return b.failed(ctx, "open "+b.String(), "", err)
	}
	return nil
}
