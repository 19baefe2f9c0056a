package integration

import (
	"math/rand"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// TestModelOnNative runs the worker of the kill harness in a plain directory:
// the model must agree with a file system that is known to be right, and must
// notice each kind of damage.
func TestModelOnNative(t *testing.T) {
	var stop atomic.Bool
	w := newWorker("w", rand.New(rand.NewSource(seed(t))), &stop)
	w.mnt, w.native = tempDir(t), true
	must(t, os.Mkdir(w.path(""), 0o755))
	for range 5 {
		stop.Store(false)
		time.AfterFunc(200*time.Millisecond, func() { stop.Store(true) })
		must(t, w.run())
		must(t, w.verifyLive())
	}
	t.Logf("calls: %v", w.counts)

	h, err := w.open("victim", os.O_RDWR|os.O_CREATE)
	must(t, err)
	must(t, w.write(h, 0, []byte("four legs good")))
	must(t, w.close(h))
	for what, damage := range map[string]func() error{
		"a byte":       func() error { return os.WriteFile(w.path("victim"), []byte("four legs bad!"), 0o644) },
		"the size":     func() error { return os.Truncate(w.path("victim"), 4) },
		"the mode":     func() error { return os.Chmod(w.path("victim"), 0o600) },
		"another name": func() error { return os.WriteFile(w.path("stranger"), nil, 0o644) },
		"no name":      func() error { return os.Remove(w.path("victim")) },
	} {
		must(t, damage())
		if w.verifyLive() == nil {
			t.Errorf("damage to %s went unnoticed", what)
		}
		os.Remove(w.path("stranger"))
		os.Remove(w.path("victim"))
		must(t, os.WriteFile(w.path("victim"), w.model.files["victim"].live, 0o644))
		must(t, os.Chmod(w.path("victim"), 0o644))
		must(t, w.verifyLive())
	}
}

// TestTornWrite holds the rule for a write in flight: each byte the old or the
// new one, and nothing else.
func TestTornWrite(t *testing.T) {
	old, data := []byte("aaaaaaaa"), []byte("BBBBBB")
	for now, allowed := range map[string]bool{
		"aaaaaaaa":         true, // not at all
		"aaaaaaBBBBBB":     true, // whole
		"aaaaaaBB":         true, // as far as the old end
		"aaaaaaaaBB":       true, // in part
		"aaaaaaBB\x00\x00": true, // the size first
		"aaaaaaBBBBBBB":    false,
		"aaaaaaCB":         false,
		"aaaaBBBBBB":       false,
		"aaaaaa":           false,
	} {
		f := &file{live: slices.Clone(old), mode: 0o644}
		w := &worker{model: newModel()}
		w.model.files["f"] = f
		got := map[string]node{"f": {mode: 0o644, data: []byte(now)}}
		w.adopt(&tornWrite{f, 6, data}, got)
		if diff := w.model.differs(got); (diff == "") != allowed {
			t.Errorf("%q: allowed should be %v: %s", now, allowed, diff)
		}
	}
}
