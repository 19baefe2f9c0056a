package s3

import (
	"context"
	"crypto/md5"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/probe"
)

var (
	_ probe.Inspector = (*Bucket)(nil)
	_ probe.Reacher   = (*Bucket)(nil)
)

// Inspect implements probe.Inspector.
func (b *Bucket) Inspect(ctx context.Context, prefix string) []probe.Finding {
	return []probe.Finding{
		b.tryChecksums(ctx, prefix+"checksum"),
		b.tryParts(ctx, prefix+"parts"),
		b.tryVersions(ctx, prefix+"versions"),
		b.tryLock(ctx, prefix+"locked"),
	}
}

// tryChecksums puts bytes that are not what the request says they are.
func (b *Bucket) tryChecksums(ctx context.Context, key string) probe.Finding {
	f := probe.Finding{Name: "verifies what it is sent"}
	good := remote.Bytes([]byte("the bytes that are sent"))
	signature, why := b.refuses(ctx, key, good, false, func(p *piece) { p.payload = strings.Repeat("0123456789abcdef", 4) })
	crc, why2 := b.refuses(ctx, key, good, true, func(p *piece) { p.crc ^= 1 })
	used := signature
	if b.checksum {
		used = crc
	}
	f.Verdict = used
	f.Detail = fmt.Sprintf("SHA-256 of the signature: %s%s; CRC-32C: %s%s", signature, why, crc, why2)
	switch {
	case used != probe.Yes && crc == probe.Yes:
		f.Detail += "; set checksum=crc32c"
	case used != probe.Yes:
		f.Detail += "; what is damaged on its way is found when it is read"
	}
	return f
}

// refuses says whether the server refuses what spoil has made wrong, having
// accepted the same when it was right.
func (b *Bucket) refuses(ctx context.Context, key string, c remote.Content, sendCRC bool, spoil func(*piece)) (probe.Verdict, string) {
	send := func(spoil func(*piece)) error {
		p, err := b.piece(ctx, c, 0, c.Size)
		if err != nil {
			return err
		}
		p.sendCRC = sendCRC
		spoil(&p)
		_, err = b.api.PutObject(ctx, &awss3.PutObjectInput{Bucket: &b.opt.Bucket, Key: orNil(b.name(key)),
			Body: p.body(ctx), ContentLength: &c.Size, ChecksumCRC32C: p.checksum()}, p.signed)
		return err
	}
	if err := send(func(*piece) {}); err != nil {
		return probe.Unknown, " (" + b.failed(ctx, "put", key, err).Error() + ")"
	}
	err := send(spoil)
	switch s := status(err); {
	case err == nil:
		return probe.No, ""
	case s/100 == 4 && s != http.StatusTooManyRequests:
		return probe.Yes, ""
	}
	return probe.Unknown, " (" + b.failed(ctx, "put", key, err).Error() + ")"
}

// tryParts puts an object of one part, where there is one already.
func (b *Bucket) tryParts(ctx context.Context, key string) probe.Finding {
	f := probe.Finding{Name: "put if absent, in parts", Verdict: probe.Yes}
	absent := condition{absent: true}
	first, second := remote.Bytes([]byte("first")), remote.Bytes([]byte("second"))
	if _, err := b.putParts(ctx, key, first, absent); err != nil {
		f.Verdict, f.Detail = probe.Unknown, b.failed(ctx, "put", key, err).Error()
		return f
	}
	_, err := b.putParts(ctx, key, second, absent)
	switch {
	case err == nil:
		f.Verdict, f.Detail = probe.No, fmt.Sprintf("it overwrites what is there; objects over %d MiB may be put twice", b.opt.PartSize>>20)
	case absent.unmet(err) == nil:
		f.Verdict, f.Detail = probe.Unknown, b.failed(ctx, "put", key, err).Error()
	}
	return f
}

// tryVersions puts an object twice and looks for the first.
func (b *Bucket) tryVersions(ctx context.Context, key string) probe.Finding {
	f := probe.Finding{Name: "keeps old versions", Verdict: probe.No}
	err := errors.Join(b.Put(ctx, key, remote.Bytes([]byte("first"))), b.Put(ctx, key, remote.Bytes([]byte("second"))))
	if err != nil {
		f.Verdict, f.Detail = probe.Unknown, err.Error()
		return f
	}
	says := "off"
	if out, err := b.api.GetBucketVersioning(ctx, &awss3.GetBucketVersioningInput{Bucket: &b.opt.Bucket}); err != nil {
		says = "unknown: " + code(err)
	} else if out.Status != "" {
		says = strings.ToLower(string(out.Status))
	}
	n := 0
	out, err := b.api.ListObjectVersions(ctx, &awss3.ListObjectVersionsInput{Bucket: &b.opt.Bucket, Prefix: orNil(b.name(key))})
	if err == nil {
		n = len(out.Versions)
	}
	f.Detail = "versioning is said to be " + says
	switch {
	case n > 1:
		f.Verdict = probe.Yes
	case says == "enabled":
		f.Detail += ", and the first of two is gone"
	}
	return f
}

// Of Object Lock.
const (
	lockFor  = 3 * time.Second  // long enough to try a delete
	lockWait = 10 * time.Second // until it has passed, by a clock that is not ours
)

// tryLock puts an object under Object Lock and deletes it.
func (b *Bucket) tryLock(ctx context.Context, key string) probe.Finding {
	f := probe.Finding{Name: "holds Object Lock", Verdict: probe.No}
	conf, err := b.api.GetObjectLockConfiguration(ctx, &awss3.GetObjectLockConfigurationInput{Bucket: &b.opt.Bucket})
	enabled := err == nil && conf.ObjectLockConfiguration != nil && conf.ObjectLockConfiguration.ObjectLockEnabled == types.ObjectLockEnabledEnabled
	now := time.Now()
	if info, err := b.Stat(ctx, strings.TrimSuffix(key, "locked")+"versions"); err == nil && info.Modified.After(now) {
		now = info.Modified
	}
	data := "locked for a moment"
	sum, until := md5.Sum([]byte(data)), now.Add(lockFor)
	out, err := b.api.PutObject(ctx, &awss3.PutObjectInput{Bucket: &b.opt.Bucket, Key: orNil(b.name(key)), Body: strings.NewReader(data),
		ContentMD5:     orNil(base64.StdEncoding.EncodeToString(sum[:])),
		ObjectLockMode: types.ObjectLockModeGovernance, ObjectLockRetainUntilDate: &until})
	if err != nil {
		f.Detail = "the bucket has none"
		if enabled {
			f.Verdict, f.Detail = probe.Unknown, b.failed(ctx, "put", key, err).Error()
		}
		return f
	}
	_, err = b.api.DeleteObject(ctx, &awss3.DeleteObjectInput{Bucket: &b.opt.Bucket, Key: orNil(b.name(key)), VersionId: out.VersionId})
	switch {
	case err == nil:
		f.Detail = "it accepts a retention and deletes all the same"
	case out.VersionId != nil:
		f.Verdict = probe.Yes
		f.Detail = b.lockDefault(conf)
	default:
		f.Verdict, f.Detail = probe.Unknown, b.failed(ctx, "delete", key, err).Error()
	}
	return f
}

// lockDefault says what a bucket does to every object that is put.
func (b *Bucket) lockDefault(conf *awss3.GetObjectLockConfigurationOutput) string {
	if conf == nil || conf.ObjectLockConfiguration == nil || conf.ObjectLockConfiguration.Rule == nil || conf.ObjectLockConfiguration.Rule.DefaultRetention == nil {
		return ""
	}
	r := conf.ObjectLockConfiguration.Rule.DefaultRetention
	switch {
	case r.Days != nil:
		return fmt.Sprintf("every object is kept for %d days", *r.Days)
	case r.Years != nil:
		return fmt.Sprintf("every object is kept for %d years", *r.Years)
	}
	return ""
}

// Purge implements probe.Inspector. What is under Object Lock it waits for, if
// that is for a moment.
func (b *Bucket) Purge(ctx context.Context, prefix string) error {
	deadline := time.Now().Add(lockWait)
	for {
		err := b.purge(ctx, prefix)
		if err == nil || time.Now().After(deadline) {
			return err
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return err
		}
	}
}

func (b *Bucket) purge(ctx context.Context, prefix string) error {
	var errs []error
	remove := func(name, id *string) {
		if _, err := b.api.DeleteObject(ctx, &awss3.DeleteObjectInput{Bucket: &b.opt.Bucket, Key: name, VersionId: id}); err != nil {
			errs = append(errs, b.failed(ctx, "delete", *name, err))
		}
	}
	pages := awss3.NewListObjectVersionsPaginator(b.api, &awss3.ListObjectVersionsInput{Bucket: &b.opt.Bucket, Prefix: orNil(b.name(prefix))})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil { // a server without versions, or without that request
			break
		}
		for _, v := range page.Versions {
			remove(v.Key, v.VersionId)
		}
		for _, m := range page.DeleteMarkers {
			remove(m.Key, m.VersionId)
		}
	}
	for o, err := range b.List(ctx, prefix, "") {
		if err == nil {
			err = b.Delete(ctx, o.Key)
		}
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
	}
	return errors.Join(errs...)
}
