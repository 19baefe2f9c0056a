package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore"
	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/fault"
	"stepfs/chunkstore/remote/mem"
	"stepfs/snapshot"
)

// tiered has a world publish to a bucket, and read from it.
func (w *world) tiered(b remote.Bucket, conf func(*snapshot.Config)) {
	w.t.Helper()
	w.conf = func(c *snapshot.Config) {
		w.chunks.ReadFrom(func(context.Context) (remote.Bucket, error) { return b, nil })
		if conf != nil {
			conf(c)
		}
	}
	w.publishing(b, snapshot.Publish{})
	w.restart()
}

// A limit is kept by what is published: hot copies first, then packs, those read
// least lately. What is not published stays. All of it can be read.
func TestCacheLimit(t *testing.T) {
	w := newWorld(t, nil)
	var down atomic.Bool
	b := fault.New(mem.New(), func(verb, key string) fault.Fault {
		if down.Load() {
			return fault.Fault{Before: remote.Fail(verb, key, remote.ErrRetryable, errors.New("no route to host"))}
		}
		return fault.Fault{}
	})
	const limit = 3 << 20
	w.tiered(b, func(c *snapshot.Config) { c.CacheLimit = limit })
	want := map[string]uint64{}
	for k := range 4 {
		name := fmt.Sprint(k)
		w.put("model", noise(int64(k), 2<<20))
		want[name] = w.step(name).Seq
	}
	w.published()
	w.until("packs go", func() bool { return w.chunks.Local() <= limit })
	w.until("hot copies go", func() bool { return w.hot() <= limit-min(limit, w.chunks.Local()) })
	if st := w.chunks.Stats(); w.chunks.Local() == 0 || st.Away < 4<<20 {
		t.Errorf("more went than had to: %d bytes are here", w.chunks.Local())
	}
	down.Store(true)
	for k := 4; k < 7; k++ {
		name := fmt.Sprint(k)
		w.put("model", noise(int64(k), 2<<20))
		want[name] = w.step(name).Seq
	}
	w.drain()
	w.until("hot copies go first", func() bool { return w.hot() <= 1<<10 })
	if w.chunks.Local() < 6<<20 {
		t.Errorf("%d bytes are here of 6 MiB that are nowhere else", w.chunks.Local())
	}
	for k := 4; k < 7; k++ {
		w.want(want[fmt.Sprint(k)], "model", noise(int64(k), 2<<20))
	}
	// What can't be reached can't be verified, and is not said to be damaged.
	if _, err := w.m.Verify(w.ctx(), want["0"], nil); !errors.Is(err, chunkstore.ErrUnreachable) {
		t.Errorf("verified without the bucket: %v", err)
	}
	if i, err := w.m.Get(want["0"]); err != nil || i.Verified != nil {
		t.Errorf("%+v, %v", i.Verified, err)
	}
	down.Store(false)
	w.restart()
	w.published()
	w.until("packs go", func() bool { return w.chunks.Local() <= limit })
	for name, seq := range want {
		var k int64
		_, _ = fmt.Sscan(name, &k)
		w.want(seq, "model", noise(k, 2<<20))
	}
	if f := w.findings(); len(f) > 0 {
		t.Errorf("%+v", f)
	}

	// What was warmed is here.
	w.ok(w.m.Warm(w.ctx(), want["1"]))
	down.Store(true)
	w.want(want["1"], "model", noise(1, 2<<20))
}

// When room is scarce packs that are published go before any snapshot does: a store
// that holds more than its disk takes no room from the job.
func TestPacksGoForRoom(t *testing.T) {
	w := newWorld(t, nil)
	w.tiered(mem.New(), nil)
	w.limit(48<<20, 1<<20)
	want := map[string]uint64{}
	for k := range 14 {
		name := fmt.Sprint("s", k)
		if _, err := w.tryPut("model", noise(int64(k), 5<<20)); err != nil {
			t.Fatalf("step %d: %v", k, err)
		}
		want[name] = w.step(name).Seq
		w.published()
	}
	if st := w.chunks.Stats(); st.Away == 0 {
		t.Errorf("%+v", st)
	}
	for k := range 14 {
		w.want(want[fmt.Sprint("s", k)], "model", noise(int64(k), 5<<20))
	}
	w.noFaults()
}

// What is damaged here, and in the bucket, is fetched from there, after a reader or
// the scrub met it, or a start; there need be no hot copy.
func TestHealedFromTheBucket(t *testing.T) {
	w := newWorld(t, nil)
	b := mem.New()
	w.tiered(b, func(c *snapshot.Config) { c.HotLimit, c.ScrubRate = 1, -1 })
	data := noise(1, 3<<20)
	w.put("model", data)
	i := w.step("1")
	w.published()
	w.until("hot copies are gone", func() bool { return w.hot() <= 1<<10 })
	sizes := func() (sum int64) {
		for _, name := range w.packs() {
			st, err := w.mem.Stat("s/packs/" + name)
			w.ok(err)
			sum += st.Size()
		}
		return sum
	}
	whole := sizes()
	damage := func(at int64) {
		for _, name := range w.packs() {
			f, err := w.mem.OpenReadWrite("s/packs/"+name, vfs.WriteCategoryUnspecified)
			w.ok(err)
			if st, err := f.Stat(); err == nil && st.Size() > 64<<10 { // else that is its footer, which nobody reads
				flip(f, at)
			}
			w.ok(f.Close())
		}
	}
	healed := func(what string) {
		t.Helper()
		w.until(what+" is healed, which is told", func() bool {
			w.mu.Lock()
			told := strings.Contains(strings.Join(w.faults, "\n"), "were fetched again from the bucket")
			w.mu.Unlock()
			return told && w.chunks.Stats().DamagedChunks == 0 && sizes() == whole && len(w.findings()) == 0
		})
		w.mu.Lock()
		w.faults = nil
		w.mu.Unlock()
		w.want(i.Seq, "model", data)
	}
	damage(300)
	w.restart() // with nothing in memory
	w.want(i.Seq, "model", data)
	w.m.HealSoon() // as the owner does, when he hears of it
	healed("what a reader met")

	for _, name := range w.packs() {
		w.ok(w.mem.Remove("s/packs/" + name))
	}
	w.restart()
	healed("what was gone at the start")

	damage(300)
	w.tiered(b, func(c *snapshot.Config) { c.HotLimit, c.ScrubRate = 1, 1<<40 })
	healed("what the scrub met")
}
