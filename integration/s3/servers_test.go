package s3

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"stepfs/chunkstore/remote/s3"
)

// What everybody is called here.
const (
	accessKey = "stepfs-test"
	secretKey = "stepfs-test-secret"
	region    = "us-east-1"
)

// Versions, as in tools/servers.sh.
const (
	versitygwVersion = "v1.8.0"
	gofakes3Version  = "v1.2.0"
	minioVersion     = "v0.0.0-20260212201848-7aac2a2c5b7c"
)

// server is an S3 server that runs.
type server struct {
	name string
	url  string
	dir  string // where it keeps its data
	ca   string // the file with its certificate, if it speaks TLS
}

// program finds what `make servers` has installed.
func program(t *testing.T, name, version, how string) string {
	t.Helper()
	dir := os.Getenv("STEPFS_SERVERS")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(cache, "stepfs", "servers")
	}
	path := filepath.Join(dir, name+"-"+version)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s is missing, which this test needs: %s (%v)", name, how, err)
	}
	return path
}

// freePort is one that was free a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// start runs a server until the test ends.
func start(t *testing.T, s *server, cmd *exec.Cmd) *server {
	t.Helper()
	said := &output{}
	cmd.Stdout, cmd.Stderr = said, said
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+accessKey, "ROOT_SECRET_KEY="+secretKey,
		"MINIO_ROOT_USER="+accessKey, "MINIO_ROOT_PASSWORD="+secretKey, "MINIO_UPDATE=off", "GOMAXPROCS=2")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("%s said:\n%s", s.name, said.String())
		}
	})
	addr := s.url[strings.Index(s.url, "//")+2:]
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return s
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("%s ended: %v", s.name, err)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not listen: %v", s.name, err)
		}
	}
}

// output keeps the beginning of what a server says.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if room := 20_000 - o.b.Len(); room > 0 {
		o.b.Write(p[:min(len(p), room)])
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func versitygw(t *testing.T, args ...string) *server { return versitygwAt(t, "127.0.0.1", args...) }

// versitygwAt is one that listens elsewhere, too.
func versitygwAt(t *testing.T, host string, args ...string) *server {
	t.Helper()
	dir, port := t.TempDir(), freePort(t)
	for _, sub := range []string{"iam", "ver", "data"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	s := &server{name: "versitygw", url: "http://127.0.0.1:" + port, dir: filepath.Join(dir, "data")}
	all := append([]string{"--quiet", "--port", host + ":" + port, "--iam-dir", filepath.Join(dir, "iam")}, args...)
	all = append(all, "posix", "--versioning-dir", filepath.Join(dir, "ver"), s.dir)
	return start(t, s, exec.Command(program(t, "versitygw", versitygwVersion, "make servers"), all...))
}

// gofakes3 is a server that lies.
func gofakes3(t *testing.T) *server {
	t.Helper()
	port := freePort(t)
	s := &server{name: "gofakes3", url: "http://127.0.0.1:" + port}
	return start(t, s, exec.Command(program(t, "gofakes3", gofakes3Version, "make servers"), "-quiet", "-backend", "memory", "-host", "127.0.0.1:"+port))
}

func minio(t *testing.T) *server {
	t.Helper()
	port := freePort(t)
	s := &server{name: "minio", url: "http://127.0.0.1:" + port, dir: t.TempDir()}
	return start(t, s, exec.Command(program(t, "minio", minioVersion, "tools/servers.sh minio"), "server", "--quiet", "--address", "127.0.0.1:"+port, s.dir))
}

// long says whether the longer suite is wanted, with MinIO.
func long() bool { return os.Getenv("STEPFS_MINIO") == "1" }

// honest are the servers that keep the contract: all that are installed for this
// run.
func honest() map[string]func(t *testing.T) *server {
	all := map[string]func(t *testing.T) *server{"versitygw": func(t *testing.T) *server { return versitygw(t) }}
	if long() {
		all["minio"] = minio
	}
	return all
}

func keys() aws.CredentialsProvider {
	return credentials.NewStaticCredentialsProvider(accessKey, secretKey, "")
}

// plain is the SDK's client, for what is no business of ours.
func (s *server) plain() *awss3.Client {
	roots := x509.NewCertPool()
	if pem, err := os.ReadFile(s.ca); err == nil {
		roots.AppendCertsFromPEM(pem)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, MaxIdleConnsPerHost: 64}}
	return awss3.New(awss3.Options{BaseEndpoint: &s.url, HTTPClient: client, Region: region, Credentials: keys(), UsePathStyle: true,
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired, ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired})
}

var made struct {
	sync.Mutex
	buckets int
}

// bucket makes a new bucket and gives its name.
func (s *server) bucket(t *testing.T, change ...func(*awss3.CreateBucketInput)) string {
	t.Helper()
	made.Lock()
	made.buckets++
	name := fmt.Sprintf("stepfs-test-%d", made.buckets)
	made.Unlock()
	in := &awss3.CreateBucketInput{Bucket: &name}
	for _, c := range change {
		c(in)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		_, err := s.plain().CreateBucket(t.Context(), in)
		if err == nil {
			return name
		}
		if time.Now().After(deadline) { // MinIO listens before it can work
			t.Fatalf("%s: make a bucket: %v", s.name, err)
		}
	}
}

// options lead to a bucket of the server.
func (s *server) options(bucket string) s3.Options {
	return s3.Options{Bucket: bucket, Endpoint: s.url, Region: region, Credentials: keys(), CAFile: s.ca}
}

func open(t *testing.T, opt s3.Options) *s3.Bucket {
	t.Helper()
	b, err := s3.Open(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// uploads fails the test if parts are left over.
func (s *server) uploads(t *testing.T, bucket string) {
	t.Helper()
	out, err := s.plain().ListMultipartUploads(context.Background(), &awss3.ListMultipartUploadsInput{Bucket: &bucket})
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range out.Uploads {
		t.Errorf("the parts of %s are left over", *u.Key)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// is fails the test unless the error is of the kind and says something.
func is(t *testing.T, err, kind error, says ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("got the error %v, want %v", err, kind)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("the error does not say %q: %v", s, err)
		}
	}
}
