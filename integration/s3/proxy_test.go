package s3

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A fault is what the proxy does to a request.
type fault int

const (
	none         fault = iota
	refused            // the connection is cut before the server hears of it
	lost               // the server does it, and the answer is lost
	cutUp              // the connection is cut while the request's body is sent
	cutDown            // the answer's length is right, and its body ends early
	short              // the answer's body is shorter than the range that it says it is
	wrongUp            // a bit of the request's body is another
	wrongDown          // a bit of the answer's body is another
	error500           // InternalError, and nothing was done
	error500late       // InternalError, and it was done
	slowDown           // 503 SlowDown
	page502            // a proxy's own page
	slow               // a while later
	hangs              // no answer, ever
	faults
)

func (f fault) String() string {
	return [...]string{"none", "answer refused", "answer lost", "cut while sending", "cut while receiving", "short answer", "wrong bytes sent", "wrong bytes received",
		"500", "500 but done", "503 SlowDown", "502 page", "slow", "hangs"}[f]
}

// proxy stands between a client and a server and does what decide says.
type proxy struct {
	server *server
	url    string
	decide func(r *http.Request) fault
	made   [faults]atomic.Int64
	closed chan struct{}
}

func newProxy(t *testing.T, s *server, decide func(r *http.Request) fault) *proxy {
	p := &proxy{server: s, decide: decide, closed: make(chan struct{})}
	h := httptest.NewServer(p)
	p.url = h.URL
	t.Cleanup(func() {
		close(p.closed)
		h.CloseClientConnections()
		h.Close()
	})
	return p
}

// count is how many faults were made.
func (p *proxy) count() (n int64) {
	for f := refused; f < faults; f++ {
		n += p.made[f].Load()
	}
	return n
}

var upstream = &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 16}

// cut ends a request by cutting its connection.
func cut() { panic(http.ErrAbortHandler) }

func s3Error(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>made by the test</Message></Error>`, code)
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f := p.decide(r)
	p.made[f].Add(1)
	switch f {
	case refused:
		cut()
	case cutUp:
		_, _ = io.CopyN(io.Discard, r.Body, r.ContentLength/2)
		cut()
	case error500:
		s3Error(w, 500, "InternalError")
		return
	case slowDown:
		s3Error(w, 503, "SlowDown")
		return
	case page502:
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(502)
		fmt.Fprint(w, "<html><head><title>502 Bad Gateway</title></head></html>")
		return
	case slow:
		time.Sleep(20 * time.Millisecond)
	case hangs:
		select {
		case <-p.closed:
		case <-r.Context().Done():
		}
		cut()
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		cut()
	}
	if f == wrongUp && len(body) > 0 {
		body[len(body)/2] ^= 1
	}
	out, err := http.NewRequestWithContext(r.Context(), r.Method, p.server.url, bytes.NewReader(body))
	if err != nil {
		cut()
	}
	out.URL.Path, out.URL.RawPath, out.URL.RawQuery = r.URL.Path, r.URL.RawPath, r.URL.RawQuery
	out.Header, out.Host, out.ContentLength = r.Header.Clone(), r.Host, int64(len(body)) // the signature is over the name that the client knows
	out.Header.Del("Expect")
	resp, err := upstream.RoundTrip(out)
	if err != nil {
		cut()
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || f == lost {
		cut()
	}
	if f == error500late {
		s3Error(w, 500, "InternalError")
		return
	}
	for k, v := range resp.Header {
		w.Header()[k] = v
	}
	if f == short && len(answer) > 1 && resp.StatusCode/100 == 2 {
		answer = answer[:len(answer)/2]
		w.Header().Set("Content-Length", fmt.Sprint(len(answer)))
	}
	if f == wrongDown && len(answer) > 0 && resp.StatusCode/100 == 2 {
		// Another one each time: the same twice would be what the object has.
		answer[rand.IntN(len(answer))] ^= 1 << rand.IntN(8)
	}
	w.WriteHeader(resp.StatusCode)
	if f == cutDown && len(answer) > 1 {
		_, _ = w.Write(answer[:len(answer)/2])
		_ = http.NewResponseController(w).Flush()
		cut()
	}
	_, _ = w.Write(answer)
}

// isList says whether a request asks for a list, whose bytes nobody can verify.
func isList(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.Contains(r.URL.RawQuery, "list-type")
}

// nothing is an address at which nobody listens.
func nothing(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return "http://" + l.Addr().String()
}
