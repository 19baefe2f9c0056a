package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"stepfs/integration/harness"
)

const (
	remoteKey    = "stepfs-bench"
	remoteSecret = "stepfs-bench-secret"
	remoteRegion = "us-east-1"
	remoteBucket = "bench"
	gateway      = "versitygw-v1.8.0" // as in tools/servers.sh
)

// objectStore is a server on loopback, or a link to it, and a plain SDK client of
// it.
type objectStore struct {
	cmd   *exec.Cmd
	url   string
	env   []string // of who uses it
	plain *s3.Client
}

// at gives the store at a URL.
func at(url string) *objectStore {
	return &objectStore{
		url: url,
		env: []string{"AWS_ACCESS_KEY_ID=" + remoteKey, "AWS_SECRET_ACCESS_KEY=" + remoteSecret, "AWS_REGION=" + remoteRegion, "AWS_ENDPOINT_URL_S3=" + url},
		plain: s3.New(s3.Options{BaseEndpoint: &url, Region: remoteRegion, UsePathStyle: true,
			Credentials:                credentials.NewStaticCredentialsProvider(remoteKey, remoteSecret, ""),
			HTTPClient:                 &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
			RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired, ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired}),
	}
}

func (b *bench) serveObjects() (*objectStore, error) {
	data, err := b.root.MkdirTemp("objects")
	if err != nil {
		return nil, err
	}
	return serve(data)
}

// serve starts a server. Its command may be one that runs another, like nice.
func serve(data string, run ...string) (*objectStore, error) {
	dir := os.Getenv("STEPFS_SERVERS")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil, err
		}
		dir = filepath.Join(cache, "stepfs", "servers")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		return nil, err
	}
	o := at("http://" + addr)
	run = append(run, filepath.Join(dir, gateway), "--quiet", "--port", addr, "posix", data)
	o.cmd = exec.Command(run[0], run[1:]...)
	o.cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+remoteKey, "ROOT_SECRET_KEY="+remoteSecret)
	if err := o.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w (make servers installs it)", err)
	}
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

// behind gives the store at the other end of a link.
func (o *objectStore) behind(opt harness.LinkOptions) (*objectStore, *harness.Link, error) {
	link, err := harness.NewLink(o.url, opt)
	if err != nil {
		return nil, nil, err
	}
	return at(link.URL), link, nil
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

// stepfs runs a command to its end, and gives its peak memory in MiB. (Its rusage
// would count the memory of this process, too, in whose place it began.)
func (o *objectStore) stepfs(bin string, args ...string) (peak float64, err error) {
	cmd := exec.Command(bin, args...)
	cmd.Env = append(os.Environ(), o.env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case err = <-ended:
			if err != nil {
				err = fmt.Errorf("%v: %w: %s", args, err, out.String())
			}
			return peak, err
		case <-time.After(20 * time.Millisecond):
			if mib, err := procStatus(cmd.Process.Pid, "VmHWM"); err == nil {
				peak = mib
			}
		}
	}
}

// besidePlain holds MB/s of stepfs against those of the plain SDK.
func (r *Result) besidePlain(rates []float64, least float64) {
	r.add("stepfs", rates[0], "MB/s")
	r.add("plain SDK", rates[1], "MB/s")
	r.add("ratio", rates[0]/rates[1], "")
	r.Met = rates[0] >= least*rates[1]
}
