package chunkstore

import (
	"bytes"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/remote/mem"
)

// While somebody waits, an upload rests many times as long as it works, and never
// long; else not at all.
func TestPolite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy := false
		s := &Store{cfg: Config{Busy: func() bool { return busy }}}
		r := s.polite(bytes.NewReader(make([]byte, 100)))
		rested := func(worked time.Duration) time.Duration {
			time.Sleep(worked)
			begun := time.Now()
			if n, err := r.ReadAt(make([]byte, 10), 0); n != 10 || err != nil {
				t.Fatal(n, err)
			}
			return time.Since(begun)
		}
		for _, c := range []struct {
			busy         bool
			worked, want time.Duration
		}{
			{false, time.Millisecond, 0}, {true, time.Millisecond, restTimes * time.Millisecond}, {true, 2 * time.Millisecond, 2 * restTimes * time.Millisecond},
			{true, time.Hour, restMost}, {false, time.Hour, 0}, {true, 0, 0},
		} {
			busy = c.busy
			if got := rested(c.worked); got != c.want {
				t.Errorf("busy %v, after %v of work: rested %v, want %v", c.busy, c.worked, got, c.want)
			}
		}
	})
}

// All that is read of packs to be sent is read so: to check them, and to send them.
func TestUploadsArePolite(t *testing.T) {
	var asked atomic.Int64
	cfg := deltaConfig()
	cfg.Busy = func() bool { asked.Add(1); return false }
	f := openFixture(t, vfs.NewMem(), "store", cfg)
	refs := f.storeSeries(series(1, 10_000, 2))
	if n := asked.Load(); n != 0 {
		t.Errorf("storing asked %d times", n)
	}
	f.uploadTo(mem.New(), refs...)
	if n, packs := asked.Load(), int64(len(f.local())); n < 2*packs || packs == 0 {
		t.Errorf("%d packs were sent, and asked was %d times", packs, n)
	}
}
