package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"stepfs/integration/harness"
)

const (
	plainGets  = 16
	plainRange = 4 << 20

	remoteWait = 50 * time.Millisecond // of the row of a server that is far away
)

// cold is a step in a bucket, its packs beside it for the plain SDK, and no store.
func (b *bench) cold() (*objectStore, error) {
	o, err := b.serveObjects()
	if err != nil {
		return nil, err
	}
	d, err := b.stored(o, "down", 99)
	if err != nil {
		return nil, errors.Join(err, o.close())
	}
	_, err = o.stepfs(b.root.Bin, "drain", "--remote", d.Store)
	if err == nil {
		var packs []string
		if packs, _, err = packsOf(d.Store); err == nil {
			err = o.putAll(packs, "plain")
		}
	}
	if err = errors.Join(err, b.discard(d)); err != nil {
		return nil, errors.Join(err, o.close())
	}
	return o, nil
}

const coldURL = "s3://" + remoteBucket + "/down"

// restoreCold measures how fast stepfs restore gets a step out of a bucket with no
// store, next to parallel ranged GETs of the same bytes by the plain SDK.
func restoreCold(b *bench) (Result, error) {
	r := Result{What: fmt.Sprintf("stepfs restore of %d MiB out of versitygw on loopback, with no store", b.uploadMiB), Target: "0.85 of parallel ranged GETs by the plain SDK"}
	o, err := b.cold()
	if err != nil {
		return r, err
	}
	defer o.close()
	return r, b.besideGets(&r, o, b.restore, 0.85)
}

// restoreFar is restoreCold of a server that answers a while later.
func restoreFar(b *bench) (Result, error) {
	r := Result{What: fmt.Sprintf("the same, each answer %v later (through a proxy, both)", remoteWait), Target: "0.5 of the plain SDK"}
	o, err := b.cold()
	if err != nil {
		return r, err
	}
	defer o.close()
	far, link, err := o.behind(harness.LinkOptions{Wait: remoteWait})
	if err != nil {
		return r, err
	}
	defer link.Close()
	return r, b.besideGets(&r, far, b.restore, 0.5)
}

// copyCold is restoreCold by cp -a from a mount without a store.
func copyCold(b *bench) (Result, error) {
	r := Result{What: fmt.Sprintf("cp -a of %d MiB from a mount of a bucket in versitygw on loopback", b.uploadMiB), Target: "0.6 of parallel ranged GETs by the plain SDK"}
	o, err := b.cold()
	if err != nil {
		return r, err
	}
	defer o.close()
	return r, b.besideGets(&r, o, b.copyOut, 0.6)
}

// fetchOut gets the step out of a store into a directory. It says how long that
// took, and its peak memory in MiB.
type fetchOut func(o *objectStore, to string) (took, peak float64, err error)

func (b *bench) restore(o *objectStore, to string) (took, peak float64, err error) {
	took, err = seconds(func() (err error) {
		peak, err = o.stepfs(b.root.Bin, "restore", coldURL, "one", to)
		return err
	})
	return took, peak, err
}

// copyOut measures cp and a sync of what it wrote, not the mount.
func (b *bench) copyOut(o *objectStore, to string) (took, peak float64, err error) {
	mnt, err := b.root.MkdirTemp("mnt")
	if err != nil {
		return 0, 0, err
	}
	m := exec.Command(b.root.Bin, "mount", coldURL, mnt)
	m.Env = append(os.Environ(), o.env...)
	if err := m.Start(); err != nil {
		return 0, 0, err
	}
	from := filepath.Join(mnt, "snapshots", "one")
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(from); err == nil {
			break
		}
	}
	took, err = seconds(func() error {
		if out, err := exec.Command("cp", "-a", from+"/.", to).CombinedOutput(); err != nil {
			return fmt.Errorf("cp: %w: %s", err, out)
		}
		return syncAll(to)
	})
	peak, perr := procStatus(m.Process.Pid, "VmHWM")
	_, uerr := b.root.Must("umount", mnt)
	return took, peak, errors.Join(err, perr, uerr, m.Wait(), os.Remove(mnt))
}

// into has what fills a directory fill a new one, and gives its MB/s.
func (b *bench) into(get func(dir string) (mb, took float64, err error)) func() (float64, error) {
	return func() (float64, error) {
		to, err := b.native()
		if err != nil {
			return 0, err
		}
		defer os.RemoveAll(to)
		mb, took, err := get(to)
		return mb / took, err
	}
}

// stepGot gets the step by stepfs; peak grows to its peak memory in MiB.
func (b *bench) stepGot(o *objectStore, get fetchOut, peak *float64) func(dir string) (mb, took float64, err error) {
	return func(dir string) (float64, float64, error) {
		took, p, err := get(o, dir)
		*peak = max(*peak, p)
		return float64(b.uploadMiB<<20) / 1e6, took, err
	}
}

// plainStep gets the step by the plain SDK, into files.
func (o *objectStore) plainStep(dir string) (mb, took float64, err error) {
	var bytes int64
	took, err = seconds(func() (err error) { bytes, err = o.getAll("plain/", dir); return err })
	return float64(bytes) / 1e6, took, err
}

// thrownAway is plainStep without the files.
func (o *objectStore) thrownAway(string) (mb, took float64, err error) { return o.plainStep("") }

// besideGets holds what gets a step out against the plain SDK, once as it is asked
// for (the plain SDK throws away what it gets) and once against one that writes
// files and syncs them, too; and says what it cost.
func (b *bench) besideGets(r *Result, o *objectStore, get fetchOut, least float64) error {
	peak := 0.0
	rates, err := b.turns(b.into(b.stepGot(o, get, &peak)), b.into(o.thrownAway), b.into(o.plainStep))
	if err != nil {
		return err
	}
	r.besidePlain(rates, least)
	r.add("plain SDK, to files", rates[2], "MB/s")
	r.add("ratio to that", rates[0]/rates[2], "")
	r.add("peak memory", peak, "MiB")
	r.Note = "the plain SDK throws away what it gets, or (to files) writes it to files of the same filesystem and syncs them; stepfs checks each chunk, writes files and syncs them"
	far, link, err := o.behind(harness.LinkOptions{})
	if err != nil {
		return err
	}
	defer link.Close()
	if _, err := b.into(b.stepGot(far, get, &peak))(); err != nil {
		return err
	}
	step := float64(b.uploadMiB << 20)
	r.add("requests, per GiB", float64(link.Requests.Load())*(1<<30)/step, "")
	over := float64(link.Sent.Load()) / step
	r.add("bytes fetched over wanted", over, "")
	r.Met = r.Met && over <= 1.1
	return nil
}

// getAll gets the objects below a prefix into files of a directory, and syncs
// those; without a directory it throws them away.
func (o *objectStore) getAll(prefix, dir string) (bytes int64, err error) {
	ctx := context.Background()
	list, err := o.plain.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: aws.String(remoteBucket), Prefix: &prefix})
	if err != nil {
		return 0, err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(plainGets)
	for _, obj := range list.Contents {
		bytes += *obj.Size
		var f *os.File
		if dir != "" {
			if f, err = os.Create(filepath.Join(dir, filepath.Base(*obj.Key))); err != nil {
				return 0, errors.Join(err, g.Wait())
			}
			defer f.Close()
		}
		for off := int64(0); off < *obj.Size; off += plainRange {
			g.Go(func() error {
				out, err := o.plain.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String(remoteBucket), Key: obj.Key,
					Range: aws.String(fmt.Sprintf("bytes=%d-%d", off, min(off+plainRange, *obj.Size)-1))})
				if err != nil {
					return err
				}
				defer out.Body.Close()
				to := io.Discard
				if f != nil {
					to = io.NewOffsetWriter(f, off)
				}
				_, err = io.Copy(to, out.Body)
				return err
			})
		}
	}
	if err := g.Wait(); err != nil || dir == "" {
		return bytes, err
	}
	return bytes, syncAll(dir)
}

// syncAll syncs the filesystem of a directory.
func syncAll(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Syncfs(int(d.Fd()))
}
