package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"golang.org/x/sync/errgroup"

	"stepfs/integration/harness"
)

const (
	remoteKey    = "stepfs-bench"
	remoteSecret = "stepfs-bench-secret"
	remoteRegion = "us-east-1"
	remoteBucket = "bench"
	gateway      = "versitygw-v1.8.0" // as in tools/servers.sh

	plainPuts  = 8 // at a time, as the daemon's requests
	plainGets  = 16
	plainRange = 4 << 20
)

// objectStore is a server on loopback, and a plain SDK client of it.
type objectStore struct {
	cmd   *exec.Cmd
	env   []string // of who uses it
	plain *s3.Client
}

func (b *bench) serveObjects() (*objectStore, error) {
	dir := os.Getenv("STEPFS_SERVERS")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil, err
		}
		dir = filepath.Join(cache, "stepfs", "servers")
	}
	data, err := b.root.MkdirTemp("objects")
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		return nil, err
	}
	o := &objectStore{cmd: exec.Command(filepath.Join(dir, gateway), "--quiet", "--port", addr, "posix", data)}
	o.cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+remoteKey, "ROOT_SECRET_KEY="+remoteSecret)
	if err := o.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w (make servers installs it)", err)
	}
	url := "http://" + addr
	o.env = []string{"AWS_ACCESS_KEY_ID=" + remoteKey, "AWS_SECRET_ACCESS_KEY=" + remoteSecret, "AWS_REGION=" + remoteRegion, "AWS_ENDPOINT_URL_S3=" + url}
	o.plain = s3.New(s3.Options{BaseEndpoint: &url, Region: remoteRegion, UsePathStyle: true,
		Credentials:                credentials.NewStaticCredentialsProvider(remoteKey, remoteSecret, ""),
		HTTPClient:                 &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired, ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired})
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		_, err := o.plain.CreateBucket(context.Background(), &s3.CreateBucketInput{Bucket: aws.String(remoteBucket)})
		if err == nil {
			return o, nil
		}
		if time.Now().After(end) {
			return nil, errors.Join(err, o.close())
		}
	}
}

func (o *objectStore) close() error {
	err := o.cmd.Process.Kill()
	_ = o.cmd.Wait() // it was killed
	return err
}

// stored makes a store that belongs to the bucket, with one step in its packs of
// which nothing is uploaded.
func (b *bench) stored(o *objectStore, prefix string, seed uint64) (*harness.Daemon, error) {
	d, err := b.root.NewDaemon("--remote", "s3://"+remoteBucket+"/"+prefix)
	if err != nil {
		return nil, err
	}
	b.open = append(b.open, d)
	d.Env = o.env
	if err := errors.Join(d.Start(), d.Stop()); err != nil {
		return nil, err
	}
	d.Args = []string{"--remote", ""}
	if err := d.Start(); err != nil {
		return nil, err
	}
	for k := range uint64(4) {
		if err := writeFile(filepath.Join(d.Mnt, fmt.Sprintf("shard-%d.bin", k)), 4*seed+k, b.uploadMiB/4, true); err != nil {
			return nil, err
		}
	}
	for _, args := range [][]string{{"snapshot", d.Mnt, "one"}, {"drain", d.Mnt}} {
		if _, err := b.root.Must(args...); err != nil {
			return nil, err
		}
	}
	return d, d.Stop()
}

// packsOf gives the packs of a store, and their bytes.
func packsOf(store string) (paths []string, bytes int64, err error) {
	if paths, err = filepath.Glob(filepath.Join(store, "packs", "*.pack")); err != nil {
		return nil, 0, err
	}
	for _, p := range paths {
		st, err := os.Stat(p)
		if err != nil {
			return nil, 0, err
		}
		bytes += st.Size()
	}
	return paths, bytes, nil
}

func (o *objectStore) stepfs(bin string, args ...string) error {
	r, err := harness.RunEnv(o.env, bin, args...)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("%v: exit code %d: %s", args, r.Code, r.Both())
	}
	return err
}

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
		return b.rateOf(d.Store, func([]string) error { return o.stepfs(b.root.Bin, "drain", "--remote", d.Store) })
	}, func() (float64, error) {
		defer b.discard(d)
		return b.rateOf(d.Store, func(packs []string) error { return o.putAll(packs, fmt.Sprint("plain", round)) })
	})
	if err != nil {
		return r, err
	}
	r.besidePlain(rates, 0.8)
	r.Note = "`stepfs drain --remote` of a closed store: to open it, find what the step needs and put its ref is in it"
	return r, nil
}

// besidePlain holds MB/s of stepfs against those of the plain SDK.
func (r *Result) besidePlain(rates []float64, least float64) {
	r.add("stepfs", rates[0], "MB/s")
	r.add("plain SDK", rates[1], "MB/s")
	r.add("ratio", rates[0]/rates[1], "")
	r.Met = rates[0] >= least*rates[1]
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

// restoreCold measures how fast a step comes out of a bucket with no store, next
// to parallel ranged GETs of the same bytes by the plain SDK.
func restoreCold(b *bench) (Result, error) {
	r := Result{What: fmt.Sprintf("restore of %d MiB out of versitygw on loopback, with no store", b.uploadMiB), Target: "0.85 of parallel ranged GETs by the plain SDK"}
	o, err := b.serveObjects()
	if err != nil {
		return r, err
	}
	defer o.close()
	d, err := b.stored(o, "down", 99)
	if err != nil {
		return r, err
	}
	packs, _, err := packsOf(d.Store)
	if err != nil {
		return r, err
	}
	if err := errors.Join(o.stepfs(b.root.Bin, "drain", "--remote", d.Store), o.putAll(packs, "plain"), b.discard(d)); err != nil {
		return r, err
	}
	rates, err := b.turns(func() (float64, error) {
		to, err := b.native()
		if err != nil {
			return 0, err
		}
		defer os.RemoveAll(to)
		t, err := seconds(func() error { return o.stepfs(b.root.Bin, "restore", "s3://"+remoteBucket+"/down", "one", to) })
		return float64(b.uploadMiB<<20) / 1e6 / t, err
	}, func() (float64, error) {
		var bytes int64
		t, err := seconds(func() (err error) { bytes, err = o.getAll("plain/"); return err })
		return float64(bytes) / 1e6 / t, err
	})
	if err != nil {
		return r, err
	}
	r.besidePlain(rates, 0.85)
	r.Note = "the plain SDK throws away what it gets; stepfs checks each chunk and writes files"
	return r, nil
}

func (o *objectStore) getAll(prefix string) (bytes int64, err error) {
	ctx := context.Background()
	list, err := o.plain.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: aws.String(remoteBucket), Prefix: &prefix})
	if err != nil {
		return 0, err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(plainGets)
	for _, obj := range list.Contents {
		bytes += *obj.Size
		for off := int64(0); off < *obj.Size; off += plainRange {
			g.Go(func() error {
				out, err := o.plain.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String(remoteBucket), Key: obj.Key,
					Range: aws.String(fmt.Sprintf("bytes=%d-%d", off, min(off+plainRange, *obj.Size)-1))})
				if err != nil {
					return err
				}
				defer out.Body.Close()
				_, err = io.Copy(io.Discard, out.Body)
				return err
			})
		}
	}
	return bytes, g.Wait()
}
