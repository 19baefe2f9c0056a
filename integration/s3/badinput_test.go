package s3

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"

	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/remotetest"
	"stepfs/chunkstore/remote/s3"
)

// serve runs a handler until the test ends.
func serve(t *testing.T, h http.Handler) string {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// verbs asks for everything, and gives the errors by verb.
func verbs(t *testing.T, opt s3.Options) map[string]error {
	t.Helper()
	b := open(t, opt)
	errs := map[string]error{"reach": b.Reach(t.Context())}
	errs["put"] = b.Put(t.Context(), "k", remote.Bytes([]byte("x")))
	_, errs["put if absent"] = b.PutIfAbsent(t.Context(), "k", remote.Bytes([]byte("x")))
	_, errs["replace"] = b.ReplaceIfMatch(t.Context(), "k", "v", remote.Bytes([]byte("x")))
	_, _, errs["get"] = b.Get(t.Context(), "k", make([]byte, 1), 0)
	_, errs["stat"] = b.Stat(t.Context(), "k")
	errs["list"] = nil
	for _, err := range b.List(t.Context(), "", "") {
		errs["list"] = err
	}
	errs["delete"] = b.Delete(t.Context(), "k")
	return errs
}

// What is wrong is said, whatever is asked for. What answers a HEAD (stat) can't
// say everything.
func TestBadInput(t *testing.T) {
	html := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, "<html><head><title>Sign in to the Wifi</title></head></html>")
	}))
	redirect := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://console.example.com/login", http.StatusFound)
	}))
	redirect307 := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, nothing(t)+"/", http.StatusTemporaryRedirect)
	}))
	elsewhere := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Amz-Bucket-Region", "eu-north-7")
		s3Error(w, 301, "PermanentRedirect")
	}))
	text := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprint(w, "hello")
	}))
	for name, run := range honest() {
		t.Run(name, func(t *testing.T) {
			srv := run(t)
			bucket := srv.bucket(t)
			for _, c := range []struct {
				name   string
				change func(o *s3.Options)
				kind   error
				says   string // but to a HEAD
			}{
				{"bucket", func(o *s3.Options) { o.Bucket = "no-such-bucket" }, remote.ErrAddress, "bucket"},
				{"access key", func(o *s3.Options) { o.Credentials = credentials.NewStaticCredentialsProvider("nobody", secretKey, "") }, remote.ErrAccess, "the access key is not known"},
				{"secret key", func(o *s3.Options) { o.Credentials = credentials.NewStaticCredentialsProvider(accessKey, "wrong", "") }, remote.ErrAccess, "the secret key is wrong"},
				{"nobody listens", func(o *s3.Options) { o.Endpoint = nothing(t) }, remote.ErrRetryable, "refused"},
				{"no such host", func(o *s3.Options) { o.Endpoint = "http://s3.stepfs.invalid" }, remote.ErrRetryable, "s3.stepfs.invalid"},
				{"no TLS", func(o *s3.Options) { o.Endpoint = strings.Replace(o.Endpoint, "http:", "https:", 1) }, remote.ErrAddress, "does not speak TLS"},
				{"web page", func(o *s3.Options) { o.Endpoint = html }, remote.ErrAddress, "Sign in to the Wifi"},
				{"redirect", func(o *s3.Options) { o.Endpoint = redirect }, remote.ErrAddress, "console.example.com"},
				{"elsewhere", func(o *s3.Options) { o.Endpoint = elsewhere }, remote.ErrAddress, "eu-north-7"},
			} {
				t.Run(c.name, func(t *testing.T) {
					opt := srv.options(bucket)
					c.change(&opt)
					for verb, err := range verbs(t, opt) {
						t.Run(verb, func(t *testing.T) {
							says := []string{c.says}
							if verb == "stat" {
								says = nil
							}
							is(t, err, c.kind, says...)
						})
					}
				})
			}
		})
	}
	srv := versitygw(t)
	opt := srv.options(srv.bucket(t))
	t.Run("region", func(t *testing.T) {
		opt := opt
		opt.Region = "eu-west-9"
		for verb, err := range verbs(t, opt) {
			if verb != "stat" {
				is(t, err, remote.ErrAddress, "region")
			}
		}
	})
	// What answers and is no S3 server must at least not look like one.
	for name, url := range map[string]string{"text": text, "redirect 307": redirect307} {
		t.Run(name, func(t *testing.T) {
			opt := opt
			opt.Endpoint = url
			for verb, err := range verbs(t, opt) {
				if verb == "delete" && name == "text" { // 200 is what they wait for
					continue
				}
				if err == nil {
					t.Errorf("%s succeeds", verb)
				}
			}
		})
	}
	t.Run("no credentials", func(t *testing.T) {
		t.Setenv("HOME", t.TempDir())
		t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
		for _, env := range os.Environ() {
			if name, _, _ := strings.Cut(env, "="); strings.HasPrefix(name, "AWS_") && name != "AWS_EC2_METADATA_DISABLED" {
				t.Setenv(name, "")
				os.Unsetenv(name)
			}
		}
		opt := opt
		opt.Credentials = nil
		for _, err := range verbs(t, opt) {
			is(t, err, remote.ErrAccess, "no credentials were found")
		}
	})
	t.Run("credentials of the environment", func(t *testing.T) {
		t.Setenv("AWS_ACCESS_KEY_ID", accessKey)
		t.Setenv("AWS_SECRET_ACCESS_KEY", secretKey)
		t.Setenv("AWS_ENDPOINT_URL", srv.url)
		opt := opt
		opt.Credentials, opt.Endpoint, opt.Region = nil, "", ""
		must(t, open(t, opt).Reach(t.Context()))
	})
}

// A clock that is a day off is corrected by what the server says it is; if it
// does not say, or refuses all the same, the error is about the clock.
func TestClock(t *testing.T) {
	const off = 24 * time.Hour
	var mu sync.Mutex
	signed := []time.Duration{}
	honest := true
	url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
		if err != nil {
			t.Error(err)
		}
		now := time.Now().Add(off)
		mu.Lock()
		signed = append(signed, now.Sub(at))
		accept := honest
		mu.Unlock()
		w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
		if now.Sub(at) > time.Hour || !accept {
			s3Error(w, 403, "RequestTimeTooSkewed")
			return
		}
		w.Header().Set("ETag", `"x"`)
	}))
	opt := s3.Options{Bucket: "bucket", Endpoint: url, Region: region, Credentials: keys()}
	b := open(t, opt)
	for range 2 {
		must(t, b.Put(t.Context(), "k", remote.Bytes([]byte("x"))))
	}
	if len(signed) != 3 { // the first is made again
		t.Errorf("%d requests: %v", len(signed), signed)
	}
	honest = false
	_, _, err := b.Get(t.Context(), "k", make([]byte, 1), 0)
	is(t, err, remote.ErrClock, "24h0m")
	_, err = b.Stat(t.Context(), "k")
	is(t, err, remote.ErrClock, "24h0m")
}

// What is sent to whom: no checksum headers and no trailers to others than AWS,
// wherever their address comes from, unless they are asked for; encryption and
// storage class with every object.
func TestWhatIsSent(t *testing.T) {
	var mu sync.Mutex
	var got []*http.Request
	url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		mu.Lock()
		got = append(got, r)
		mu.Unlock()
		w.Header().Set("ETag", `"x"`)
		if r.URL.Query().Has("uploads") {
			fmt.Fprint(w, `<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>`)
		} else if r.Method == http.MethodPost {
			fmt.Fprint(w, `<CompleteMultipartUploadResult><ETag>"x"</ETag></CompleteMultipartUploadResult>`)
		}
	}))
	put := func(t *testing.T, opt s3.Options) []*http.Request {
		t.Helper()
		got = nil
		b := open(t, opt)
		must(t, b.Put(t.Context(), "small", remote.Bytes([]byte("x"))))
		must(t, b.Put(t.Context(), "large", remote.Bytes(remotetest.Random(1, 6<<20))))
		if len(got) != 5 {
			t.Fatalf("%d requests", len(got))
		}
		return got
	}
	opt := s3.Options{Bucket: "bucket", Region: region, Credentials: keys(), PartSize: 5 << 20}
	for name, set := range map[string]func(t *testing.T, o *s3.Options){
		"option":              func(t *testing.T, o *s3.Options) { o.Endpoint = url },
		"AWS_ENDPOINT_URL":    func(t *testing.T, o *s3.Options) { t.Setenv("AWS_ENDPOINT_URL", url) },
		"AWS_ENDPOINT_URL_S3": func(t *testing.T, o *s3.Options) { t.Setenv("AWS_ENDPOINT_URL_S3", url) },
	} {
		t.Run(name, func(t *testing.T) {
			opt := opt
			set(t, &opt)
			for _, r := range put(t, opt) {
				if !strings.HasPrefix(r.URL.Path, "/bucket/") {
					t.Errorf("%s is no path style", r.URL)
				}
				if sum := r.Header.Get("X-Amz-Content-Sha256"); len(sum) != 64 {
					t.Errorf("%s %s: the body is signed as %q", r.Method, r.URL, sum)
				}
				for h := range r.Header {
					if h := strings.ToLower(h); strings.Contains(h, "checksum") || strings.Contains(h, "trailer") || strings.Contains(h, "x-amz-server") {
						t.Errorf("%s %s has %s", r.Method, r.URL, h)
					}
				}
			}
		})
	}
	t.Run("options", func(t *testing.T) {
		opt := opt
		opt.Endpoint, opt.Checksum, opt.SSE, opt.KMSKey, opt.StorageClass = url, "crc32c", "aws:kms", "key-1", "STANDARD_IA"
		for i, r := range put(t, opt) {
			made := i <= 1 // the small object, and the large one's first request
			if sse := r.Header.Get("X-Amz-Server-Side-Encryption") == "aws:kms" && r.Header.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id") == "key-1"; sse != made {
				t.Errorf("request %d: encryption is %v", i, sse)
			}
			if class := r.Header.Get("X-Amz-Storage-Class") == "STANDARD_IA"; class != made {
				t.Errorf("request %d: storage class is %v", i, class)
			}
			if crc := r.Header.Get("X-Amz-Checksum-Crc32c") != "" || r.Header.Get("X-Amz-Checksum-Algorithm") == "CRC32C"; !crc {
				t.Errorf("request %d has no checksum", i)
			}
		}
	})
}

// Over TLS, with a certificate of one's own: trusted only when it is named, and
// then the contract holds, with bodies that are not part of the signature.
func TestTLS(t *testing.T) {
	certs := httptest.NewTLSServer(nil) // for its certificate, which is for 127.0.0.1
	certs.Close()
	dir := t.TempDir()
	cert, key := certificate(t, dir, certs.TLS.Certificates[0])
	srv := versitygw(t, "--cert", cert, "--key", key)
	plain := srv.url
	srv.url = strings.Replace(plain, "http:", "https:", 1)

	for verb, err := range verbs(t, srv.options("some-bucket")) {
		t.Run("untrusted "+verb, func(t *testing.T) { is(t, err, remote.ErrAddress, "certificate is not trusted") })
	}
	srv.ca = cert
	wrong := srv.options("some-bucket")
	wrong.Endpoint = plain
	for verb, err := range verbs(t, wrong) {
		if err == nil {
			t.Errorf("http to a server of https: %s succeeds", verb)
		}
	}
	for _, checksum := range []string{"none", "crc32c"} {
		t.Run(checksum, func(t *testing.T) {
			remotetest.Suite{Listed: 20, Large: 6 << 20, New: func(t *testing.T) remote.Bucket {
				opt := srv.options(srv.bucket(t))
				opt.Checksum, opt.PartSize = checksum, 5<<20
				return open(t, opt)
			}}.Run(t)
			opt := srv.options(srv.bucket(t))
			opt.Checksum = checksum
			found := probed(t, srv, opt)
			verdicts(t, found, needed)
		})
	}
}

// certificate writes a certificate and its key to files.
func certificate(t *testing.T, dir string, c tls.Certificate) (cert, key string) {
	t.Helper()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	must(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}), 0o600))
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	must(t, err)
	must(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	return cert, key
}
