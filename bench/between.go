package main

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// between is a proxy before an object store. It counts, and answers a while later
// if it is told to. It takes its part of the machine, so it is on both sides of a
// comparison, or on none.
type between struct {
	*objectStore
	server   *httptest.Server
	wait     time.Duration
	requests atomic.Int64
	sent     atomic.Int64 // bytes of bodies, to the client
}

func (o *objectStore) behind(wait time.Duration) (*between, error) {
	to, err := url.Parse(o.url)
	if err != nil {
		return nil, err
	}
	pass := &httputil.ReverseProxy{
		Rewrite:    func(r *httputil.ProxyRequest) { r.SetURL(to); r.Out.Host = r.In.Host },
		Transport:  &http.Transport{MaxIdleConnsPerHost: 64},
		BufferPool: &copyBuffers{},
	}
	p := &between{wait: wait}
	p.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.requests.Add(1)
		time.Sleep(p.wait)
		pass.ServeHTTP(&counting{w, &p.sent}, r)
	}))
	p.objectStore = at(p.server.URL)
	return p, nil
}

func (p *between) close() { p.server.Close() }

type copyBuffers struct{ sync.Pool }

func (p *copyBuffers) Get() []byte {
	if b, ok := p.Pool.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, 256<<10)
}

func (p *copyBuffers) Put(b []byte) { p.Pool.Put(&b) }

type counting struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (w *counting) Write(b []byte) (int, error) {
	w.n.Add(int64(len(b)))
	return w.ResponseWriter.Write(b)
}
