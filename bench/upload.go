package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"golang.org/x/sync/errgroup"

	"stepfs/integration/harness"
)

const plainPuts = 8 // at a time, as the daemon's requests

// uploadPacks measures how fast new packs get into a bucket, next to parallel
// puts of the same files by the plain SDK.
func uploadPacks(b *bench) (Result, error) {
	r := Result{What: fmt.Sprintf("upload of %d MiB of new packs to versitygw on loopback", b.uploadMiB), Target: "0.8 of parallel puts by the plain SDK"}
	o, err := b.serveObjects()
	if err != nil {
		return r, err
	}
	defer o.close()
	var d *harness.Daemon
	round := 0
	rates, err := b.turns(func() (float64, error) {
		if d, err = b.stored(o, fmt.Sprint("up", round), uint64(round+1)); err != nil {
			return 0, err
		}
		round++
		return b.rateOf(d.Store, func([]string) error {
			_, err := o.stepfs(b.root.Bin, "drain", "--remote", d.Store)
			return err
		})
	}, func() (float64, error) {
		defer b.discard(d)
		return b.rateOf(d.Store, func(packs []string) error { return o.putAll(packs, fmt.Sprint("plain", round)) })
	})
	if err != nil {
		return r, err
	}
	r.besidePlain(rates, 0.8)
	if err := b.countUpload(&r, o); err != nil {
		return r, err
	}
	r.Note = "`stepfs drain --remote` of a closed store: to open it, find what the step needs and put its ref is in it"
	return r, nil
}

// countUpload counts requests in a round of its own, which the link slows down.
func (b *bench) countUpload(r *Result, o *objectStore) error {
	d, err := b.stored(o, "counted", 77)
	if err != nil {
		return err
	}
	defer b.discard(d)
	far, link, err := o.behind(harness.LinkOptions{})
	if err != nil {
		return err
	}
	defer link.Close()
	_, bytes, err := packsOf(d.Store)
	if err == nil {
		_, err = far.stepfs(b.root.Bin, "drain", "--remote", d.Store)
	}
	n := float64(link.Requests.Load()) * (1 << 30) / float64(bytes)
	r.add("requests, per GiB", n, "")
	r.Met = r.Met && n <= 40
	return err
}

// rateOf gives the MB/s at which something is done with a store's packs.
func (b *bench) rateOf(store string, do func(packs []string) error) (float64, error) {
	packs, bytes, err := packsOf(store)
	if err != nil {
		return 0, err
	}
	t, err := seconds(func() error { return do(packs) })
	return float64(bytes) / 1e6 / t, err
}

func (o *objectStore) putAll(paths []string, prefix string) error {
	g, ctx := errgroup.WithContext(context.Background())
	g.SetLimit(plainPuts)
	for _, p := range paths {
		g.Go(func() error {
			f, err := os.Open(p)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = o.plain.PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String(remoteBucket), Key: aws.String(prefix + "/" + filepath.Base(p)), Body: f})
			return err
		})
	}
	return g.Wait()
}
