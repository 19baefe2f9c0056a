package s3

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"golang.org/x/sync/errgroup"

	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/limit"
	"stepfs/chunkstore/remote/location"
	"stepfs/chunkstore/remote/remotetest"
	"stepfs/chunkstore/remote/retry"
)

// TestSpeed prints what a bucket with everything around it reaches, next to the
// plain SDK on the same server in the same run: packs that are put, and ranges
// of them that are got, several at a time. STEPFS_SPEED_MB is the size of a pack.
func TestSpeed(t *testing.T) {
	const packs, workers, span, rounds = 6, 4, 4 << 20, 3
	size := int64(number(t, "STEPFS_SPEED_MB", 32)) << 20
	for name, run := range honest() {
		t.Run(name, func(t *testing.T) {
			srv := run(t)
			bucket := srv.bucket(t)
			raw := open(t, srv.options(bucket))
			b, _, err := location.Wrap(raw, retry.Options{}, limit.Options{Requests: 16})
			must(t, err)
			plain := srv.plain()
			data := remotetest.Random(1, size)
			content := remote.Bytes(data)
			each := func(n int, fn func(ctx context.Context, i int) error) float64 {
				begun := time.Now()
				group, ctx := errgroup.WithContext(t.Context())
				group.SetLimit(workers)
				for i := range n {
					group.Go(func() error { return fn(ctx, i) })
				}
				must(t, group.Wait())
				return float64(packs) * float64(size) / time.Since(begun).Seconds() / (1 << 20)
			}
			key := func(who string, i int) string { return fmt.Sprintf("%s/%d", who, i) }
			ranges := packs * int(size/span)
			at := func(i int) (pack int, off int64) { return i % packs, int64(i/packs) * span }
			best := map[string]float64{}
			for range rounds {
				for what, rate := range map[string]float64{
					"put plain": each(packs, func(ctx context.Context, i int) error {
						k := key("plain", i)
						_, err := plain.PutObject(ctx, &awss3.PutObjectInput{Bucket: &bucket, Key: &k, Body: bytes.NewReader(data)})
						return err
					}),
					"put remote": each(packs, func(ctx context.Context, i int) error { return b.Put(ctx, key("remote", i), content) }),
				} {
					best[what] = max(best[what], rate)
				}
				for what, rate := range map[string]float64{
					"get plain": each(ranges, func(ctx context.Context, i int) error {
						pack, off := at(i)
						k, r := key("plain", pack), fmt.Sprintf("bytes=%d-%d", off, off+span-1)
						out, err := plain.GetObject(ctx, &awss3.GetObjectInput{Bucket: &bucket, Key: &k, Range: &r})
						if err != nil {
							return err
						}
						defer out.Body.Close()
						_, err = io.ReadFull(out.Body, make([]byte, span))
						return err
					}),
					"get remote": each(ranges, func(ctx context.Context, i int) error {
						pack, off := at(i)
						_, _, err := b.Get(ctx, key("remote", pack), make([]byte, span), off)
						return err
					}),
				} {
					best[what] = max(best[what], rate)
				}
			}
			perGiB := float64(raw.Requests()-int64(rounds*ranges)) / rounds / (packs * float64(size) / (1 << 30))
			t.Logf("put: %.0f MiB/s of the plain SDK's %.0f: %.2f; requests per GiB: %.0f (packs of %d MiB)",
				best["put remote"], best["put plain"], best["put remote"]/best["put plain"], perGiB, size>>20)
			t.Logf("get: %.0f MiB/s of the plain SDK's %.0f: %.2f", best["get remote"], best["get plain"], best["get remote"]/best["get plain"])
		})
	}
}
