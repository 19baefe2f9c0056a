package harness

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// Bytes pass both ways as they are, are counted, and take the tokens of their
// direction.
func TestLink(t *testing.T) {
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body) // what is missing is seen by who sent it
		_, _ = w.Write(b)
	}))
	defer echo.Close()
	l, err := NewLink(echo.URL, LinkOptions{Wait: time.Millisecond, Rate: 100 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	begin := time.Now()
	data := bytes.Repeat([]byte("link"), 300_000)
	for range 2 {
		resp, err := http.Post(l.URL, "", bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d bytes came back of %d: %v", len(got), len(data), err)
		}
	}
	if r, s := l.Requests.Load(), l.Sent.Load(); r != 2 || s != int64(2*len(data)) {
		t.Errorf("%d requests and %d bytes were counted", r, s)
	}
	least := time.Duration(2*len(data)) * time.Second / (100 << 20)
	for _, d := range []*narrow{&l.up, &l.down} {
		if took := d.full.Sub(begin); took < least*99/100 { // each part is rounded
			t.Errorf("%d bytes are through after %v, at the soonest after %v", 2*len(data), took, least)
		}
	}
}

// However many ask for them at once, no more bytes pass than the rate and one burst
// allow; what nobody asked for is not saved up.
func TestLinkRate(t *testing.T) {
	d := narrow{rate: 1000}
	now := time.Unix(1000, 0)
	for k, want := range []time.Duration{80, 180, 280} { // ms, of 100 bytes each
		if got := d.take(100, now); got != want*time.Millisecond {
			t.Errorf("the %d. takes %v, want %v ms", k+1, got, want)
		}
	}
	if got := d.take(100, now.Add(250*time.Millisecond)); got != 130*time.Millisecond {
		t.Errorf("a while later %v", got)
	}
	if got := d.take(100, now.Add(time.Hour)); got != 80*time.Millisecond {
		t.Errorf("after an hour %v", got)
	}
}
