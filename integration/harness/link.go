package harness

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// A Link is a proxy before a server of HTTP. It counts, and is as far and as narrow
// as it is told to be. It takes its part of the machine, so it belongs on both
// sides of a comparison, or on none.
type Link struct {
	URL      string
	Requests atomic.Int64
	Sent     atomic.Int64 // bytes of bodies, to the client

	server   *httptest.Server
	up, down narrow
}

// LinkOptions are how far and how narrow a link is; zero is neither.
type LinkOptions struct {
	Wait time.Duration // until a request gets to the server
	Rate int64         // bytes of bodies a second, of all connections together, in each direction
}

// NewLink makes a link to the server at a URL.
func NewLink(server string, o LinkOptions) (*Link, error) {
	to, err := url.Parse(server)
	if err != nil {
		return nil, err
	}
	pass := &httputil.ReverseProxy{
		Rewrite:    func(r *httputil.ProxyRequest) { r.SetURL(to); r.Out.Host = r.In.Host },
		Transport:  &http.Transport{MaxIdleConnsPerHost: 64},
		BufferPool: &copyBuffers{},
	}
	l := &Link{up: narrow{rate: o.Rate}, down: narrow{rate: o.Rate}}
	l.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.Requests.Add(1)
		time.Sleep(o.Wait)
		r.Body = &linkBody{r.Body, l}
		pass.ServeHTTP(&linkWriter{w, l}, r)
	}))
	l.URL = l.server.URL
	return l, nil
}

// Close waits for the requests under way.
func (l *Link) Close() { l.server.Close() }

type linkWriter struct {
	http.ResponseWriter
	l *Link
}

func (w *linkWriter) Write(b []byte) (int, error) {
	w.l.down.pass(len(b))
	w.l.Sent.Add(int64(len(b)))
	return w.ResponseWriter.Write(b)
}

type linkBody struct {
	io.ReadCloser
	l *Link
}

func (b *linkBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.l.up.pass(n)
	return n, err
}

// narrow is one direction of a link: a token bucket of burst, kept as the time at
// which it is full again.
type narrow struct {
	rate int64 // bytes a second, 0 for any
	mu   sync.Mutex
	full time.Time
}

// burst makes up for sleeps that took longer than they were to.
const burst = 20 * time.Millisecond

// pass waits until n more bytes may pass.
func (d *narrow) pass(n int) {
	if d.rate > 0 {
		time.Sleep(d.take(n, time.Now()))
	}
}

// take takes the tokens of n bytes, and says how long they are still on their way.
func (d *narrow) take(n int, now time.Time) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.full.Before(now) {
		d.full = now
	}
	d.full = d.full.Add(time.Duration(float64(n) / float64(d.rate) * float64(time.Second)))
	return d.full.Sub(now) - burst
}

type copyBuffers struct{ sync.Pool }

func (p *copyBuffers) Get() []byte {
	if b, ok := p.Pool.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, 256<<10)
}

func (p *copyBuffers) Put(b []byte) { p.Pool.Put(&b) }
