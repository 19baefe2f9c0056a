package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"stepfs/integration/harness"
)

// writeBesideUploads measures write and fsync on a mount while its packs are
// uploaded as fast as they can, next to the same without.
func writeBesideUploads(b *bench) (Result, error) {
	mib := b.uploadMiB / 4
	r := Result{What: fmt.Sprintf("write + fsync of %d MiB while %d MiB are uploaded at full rate", mib, b.uploadMiB), Target: "0.8 of the same without uploads"}
	// The server stands for one on another machine: as little as can be of this
	// one's processors, and nothing of its disk.
	data, err := os.MkdirTemp("/dev/shm", "stepfs-bench-")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(data)
	o, err := serve(data, "nice", "-n", "19")
	if err != nil {
		return r, err
	}
	defer o.close()
	var d *harness.Daemon
	round, file := 0, uint64(0)
	write := func() (float64, error) {
		file++
		t, err := seconds(func() error {
			return writeFile(filepath.Join(d.Mnt, fmt.Sprint("beside-", file)), 1000+file, mib, true)
		})
		return float64(mib<<20) / 1e6 / t, err
	}
	rates, err := b.turns(func() (float64, error) {
		round++
		if d, err = b.stored(o, fmt.Sprint("beside", round), uint64(200+round)); err != nil {
			return 0, err
		}
		if err := d.Start(); err != nil { // with --remote ""
			return 0, err
		}
		rate, err := write()
		_, derr := b.root.Must("drain", d.Mnt) // or the next one had that to store, too
		return rate, errors.Join(err, derr, d.Stop())
	}, func() (float64, error) {
		defer func() {
			_, _ = b.discard(d), os.RemoveAll(filepath.Join(data, remoteBucket, fmt.Sprint("beside", round)))
		}()
		packs, _, err := packsOf(d.Store)
		if err != nil {
			return 0, err
		}
		d.Args = nil
		if err := d.Start(); err != nil {
			return 0, err
		}
		prefix := fmt.Sprint("beside", round, "/packs/")
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			if n, err := o.count(prefix); err != nil || n > 0 {
				break
			} else if time.Now().After(end) {
				return 0, errors.New("nothing is uploaded")
			}
		}
		rate, err := write()
		if n, cerr := o.count(prefix); err == nil && (cerr != nil || n >= len(packs)) {
			err = errors.Join(cerr, errors.New("the uploads ended before the fsync; give more to -upload"))
		}
		return rate, err
	})
	if err != nil {
		return r, err
	}
	r.add("with uploads", rates[1], "MB/s")
	r.add("without", rates[0], "MB/s")
	r.add("ratio", rates[1]/rates[0], "")
	r.Met = rates[1] >= 0.8*rates[0]
	r.Note = "the server stands for another machine: it is niced, and keeps what it gets in memory"
	return r, nil
}

// count says how many objects lie below a prefix, up to a thousand.
func (o *objectStore) count(prefix string) (int, error) {
	list, err := o.plain.ListObjectsV2(context.Background(), &s3.ListObjectsV2Input{Bucket: aws.String(remoteBucket), Prefix: &prefix})
	if err != nil {
		return 0, err
	}
	return len(list.Contents), nil
}
