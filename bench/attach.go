package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/aws/aws-sdk-go-v2/credentials"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote/s3"
	"stepfs/snapshot/published/publishtest"
)

// What the bucket of the attach row holds besides its snapshots: a million chunks.
const (
	attachPacks   = 4000
	attachPerPack = 250
	attachNeeds   = 64 // packs that each snapshot needs
)

// attachLarge measures what a new machine waits for: from the mount of a bucket of
// many snapshots on, its list, and the first byte of a file.
func attachLarge(b *bench) (Result, error) {
	r := Result{
		What:   fmt.Sprintf("attach to a bucket with %d snapshots and %d chunks in versitygw on loopback: `ls snapshots`, first byte of a file", b.attached, attachPacks*attachPerPack),
		Target: "2 s, 5 s",
	}
	o, err := b.serveObjects()
	if err != nil {
		return r, err
	}
	defer o.close()
	t, err := seconds(func() error { return b.fillLarge(o) })
	if err != nil {
		return r, err
	}
	progress("the bucket is there after %.1f s", t)
	var lists, firsts []float64
	for round := range b.rounds + 1 {
		list, first, err := b.attachOnce(o, round*37%b.attached)
		if err != nil {
			return r, err
		}
		progress("round %d: ls after %.2f s, the first byte after %.2f s", round, list, first)
		if round > 0 {
			lists, firsts = append(lists, list), append(firsts, first)
		}
	}
	r.add("ls snapshots", percentile(lists, 50), "s")
	r.add("first byte", percentile(firsts, 50), "s")
	r.Met = percentile(lists, 50) <= 2 && percentile(firsts, 50) <= 5
	r.Note = fmt.Sprintf("both from the start of `stepfs mount` on; each snapshot needs %d packs; no peer", attachNeeds)
	return r, nil
}

// fillLarge publishes a step of a store, and copies of it.
func (b *bench) fillLarge(o *objectStore) error {
	d, err := b.root.NewDaemon()
	if err != nil {
		return err
	}
	if err := d.Start(); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(d.Mnt, "model.bin"), 7, 16, true); err != nil {
		return err
	}
	for _, args := range [][]string{{"snapshot", d.Mnt, "one"}, {"drain", d.Mnt}} {
		if _, err := b.root.Must(args...); err != nil {
			return err
		}
	}
	if err := d.Stop(); err != nil {
		return err
	}
	ctx := context.Background()
	to, err := s3.Open(ctx, s3.Options{Bucket: remoteBucket, Prefix: "large", Endpoint: o.url, Region: remoteRegion,
		Credentials: credentials.NewStaticCredentialsProvider(remoteKey, remoteSecret, "")})
	if err != nil {
		return err
	}
	refs, err := publishtest.Publish(ctx, d.Store, to, bucket.NewWriter())
	if err != nil {
		return err
	}
	_, err = publishtest.Many{Snapshots: b.attached, PerCatalog: bucket.CatalogRefs,
		Packs: attachPacks, PerPack: attachPerPack, Needs: attachNeeds}.Make(ctx, to, refs[0])
	return errors.Join(err, os.RemoveAll(d.Store))
}

// attachOnce gives how long it takes, in seconds, to list the snapshots and to read
// a byte of one.
func (b *bench) attachOnce(o *objectStore, which int) (list, first float64, err error) {
	d, err := b.root.NewDaemon()
	if err != nil {
		return 0, 0, err
	}
	d.Store, d.Env = "s3://"+remoteBucket+"/large", o.env
	file := filepath.Join(d.Mnt, "snapshots", fmt.Sprintf("many-%05d", which), "model.bin")
	list, err = seconds(func() error {
		if err := d.Start(); err != nil {
			return err
		}
		_, err := listTime(filepath.Join(d.Mnt, "snapshots"), b.attached)
		return err
	})
	if err != nil {
		return 0, 0, errors.Join(err, d.Kill())
	}
	more, err := seconds(func() error {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.Read(make([]byte, 1))
		return err
	})
	return list, list + more, errors.Join(err, d.Stop())
}
