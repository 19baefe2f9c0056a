package s3

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"stepfs/integration/harness"
)

// TestDurableRemote: what fsync has acknowledged comes back from the bucket alone,
// when the machine is gone a moment later; and an fsync that waits for a bucket
// that is away keeps no daemon from ending.
func TestDurableRemote(t *testing.T) {
	srv := versitygw(t)
	name := srv.bucket(t)
	var away atomic.Bool
	refused := make(chan struct{}, 1)
	to, err := url.Parse(srv.url)
	must(t, err)
	pass := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to); r.Out.Host = r.In.Host }}
	between := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !away.Load() {
			pass.ServeHTTP(w, r)
			return
		}
		select {
		case refused <- struct{}{}:
		default:
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	t.Cleanup(between.Close)
	p := place{url: "s3://" + name + "/run",
		env: []string{"AWS_ACCESS_KEY_ID=" + accessKey, "AWS_SECRET_ACCESS_KEY=" + secretKey, "AWS_REGION=" + region, "AWS_ENDPOINT_URL_S3=" + between.URL}}
	mount := func(args ...string) *harness.Daemon {
		d := root.Prepare(t, args...)
		d.Env = p.env
		return d
	}
	if err := mount("--durability", "remote").Start(); err == nil || !strings.Contains(err.Error(), "needs a bucket") {
		t.Errorf("without a bucket: %v", err)
	}
	for k := range 2 {
		d := mount("--remote", p.url, "--durability", "remote")
		must(t, d.Start())
		if k == 1 { // it is kept
			d.Args = nil
			must(t, d.Stop())
			must(t, d.Start())
		}
		data := seeded(fmt.Sprint("durable", k), 3<<20)
		f, err := os.Create(filepath.Join(d.Mnt, "f"))
		must(t, err)
		_, err = f.Write(data)
		must(t, err)
		must(t, f.Sync())
		must(t, d.Die())
		_ = f.Close()
		must(t, d.Kill())
		must(t, os.RemoveAll(d.Store))

		r, err := harness.RunEnv(p.env, root.Bin, "remote", "ls", "--json", p.url)
		must(t, err)
		lines := strings.Split(strings.TrimSpace(r.Stdout), "\n")
		var last struct {
			ID     string `json:"id"`
			Writer string `json:"writer"`
		}
		found := false
		for _, line := range lines { // one of each store
			must(t, json.Unmarshal([]byte(line), &last))
			target := t.TempDir()
			if r, err := harness.RunEnv(p.env, root.Bin, "restore", p.url, last.ID, target, "--writer", last.Writer); err != nil || r.Code != 0 {
				t.Fatalf("restore %s: %v, exit code %d: %s", last.ID, err, r.Code, r.Both())
			}
			got, err := os.ReadFile(filepath.Join(target, "f"))
			must(t, err)
			found = found || string(got) == string(data)
		}
		if len(lines) != k+1 || !found {
			t.Fatalf("what was synced is not in the bucket: %s", r.Both())
		}
	}

	d := mount("--remote", p.url, "--durability", "remote", "--grace", "1s")
	must(t, d.Start())
	f, err := os.Create(filepath.Join(d.Mnt, "f"))
	must(t, err)
	_, err = f.Write([]byte("x"))
	must(t, err)
	away.Store(true)
	ended := make(chan error, 1)
	go func() { ended <- f.Sync() }()
	<-refused
	must(t, d.Signal(syscall.SIGTERM))
	if err := <-ended; !errors.Is(err, syscall.EIO) {
		t.Errorf("an fsync that the end of the daemon cut short: %v", err)
	}
	_ = f.Close()
	if code, err := d.Wait(time.Minute); err != nil || code != 0 {
		t.Errorf("exit code %d, %v: %s", code, err, d.Output())
	}
}
