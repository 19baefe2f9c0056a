package journal

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// world is what the outside knows of a log while it is used: what was appended,
// what Sync answered for, and below which position nobody wants anything.
type world struct {
	mu      sync.Mutex
	all     []entry
	acked   Pos
	trimmed Pos
}

func (w *world) ack(p Pos) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.all { // a position that Advance made up holds nothing
		if e.end <= p {
			w.acked = max(w.acked, e.end)
		}
	}
}

// crash is a machine that lost power: its disk, and what was promised by then.
type crash struct {
	fs      *vfs.MemFS
	acked   Pos
	trimmed Pos
}

// crashAt cuts the power just before the k-th operation on the file system.
type crashAt struct {
	mem *vfs.MemFS
	w   *world
	k   int
	rng *rand.Rand

	mu  sync.Mutex
	n   int
	got *crash
}

func (c *crashAt) String() string { return "crash at an operation" }

func (c *crashAt) MaybeError(op errorfs.Op) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if op.Kind.ReadOrWrite() == errorfs.OpIsRead {
		return nil
	}
	if c.n++; c.n == c.k {
		c.take()
	}
	return nil
}

func (c *crashAt) take() {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.got = &crash{acked: c.w.acked, trimmed: c.w.trimmed}
	percent := []int{0, 10, 50, 90, 100}[c.rng.IntN(5)]
	c.got.fs = c.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: c.rng})
}

// use works on l at random, n times.
func (w *world) use(t testing.TB, l *Log, rng *rand.Rand, n int) {
	t.Helper()
	for range n {
		switch r := rng.IntN(100); {
		case r < 75:
			size := rng.IntN(700)
			if rng.IntN(25) == 0 {
				size = 3000 + rng.IntN(9000)
			}
			e := mustAppend(t, l, payload(rng.Int(), size))
			w.mu.Lock()
			w.all = append(w.all, e)
			w.mu.Unlock()
		case r < 93:
			up := l.End() - Pos(rng.IntN(3)*int(l.End()-l.Synced())/3)
			mustSync(t, l, up)
			w.ack(up)
		default:
			to := l.End() - min(l.End(), Pos(rng.IntN(6000)))
			w.mu.Lock()
			w.trimmed = max(w.trimmed, to)
			w.mu.Unlock()
			if err := l.Trim(to); err != nil {
				t.Fatalf("Trim: %v", err)
			}
		}
	}
}

// reopen opens what a crash left, and checks it against what was promised. The
// world becomes what came through.
func (c *crash) reopen(w *world) (*Log, error) {
	if err := c.fs.MkdirAll(testDir, 0o700); err != nil {
		return nil, err
	}
	l, err := Open(c.fs, testDir, testOptions)
	if err != nil {
		return nil, err
	}
	r := l.Recovered()
	if r.End < c.acked {
		return nil, fmt.Errorf("the log ends at %d, %d was acknowledged", r.End, c.acked)
	}
	from := Pos(0)
	for _, e := range w.all { // the oldest position that somebody may ask for
		if e.end <= c.trimmed {
			from = e.end
		}
	}
	if r.First <= c.trimmed { // records of clean shutdowns are not among ours
		from = max(from, r.First)
	}
	if from > r.End { // trimmed for a state that is ahead of the journal
		from = r.End
	}
	if err := compareReplay(l, from, w.all); err != nil {
		return nil, err
	}
	kept := w.all[:0:0]
	for _, e := range w.all {
		if e.end <= r.End {
			kept = append(kept, e)
		}
	}
	w.all, w.acked, w.trimmed = kept, c.acked, c.trimmed
	return l, nil
}

// TestPowerCut lives through many lives of one disk: each is cut short at a
// random operation of any kind, also while the previous crash is being recovered
// from, with a random part of what was not synced kept.
func TestPowerCut(t *testing.T) {
	lives := 30
	for seed := range uint64(120) {
		if testing.Short() && seed > 20 {
			break
		}
		rng := rand.New(rand.NewPCG(seed, 1))
		w := &world{}
		mem := vfs.NewCrashableMem()
		for life := range lives {
			at := &crashAt{mem: mem, w: w, k: 1 + rng.IntN(120), rng: rand.New(rand.NewPCG(seed, uint64(life)+1000))}
			l, err := Open(errorfs.Wrap(mem, at), testDir, testOptions)
			if err != nil {
				t.Fatalf("seed %d, life %d: %v", seed, life, err)
			}
			w.use(t, l, rand.New(rand.NewPCG(seed, uint64(life))), 1+rng.IntN(60))
			clean := rng.IntN(4) == 0
			mustClose(t, l, clean)
			if at.got == nil { // it lived to its end
				if clean {
					w.ack(l.End())
				}
				at.take()
			}
			again, err := at.got.reopen(w)
			if err != nil {
				t.Fatalf("seed %d, life %d, operation %d: %v", seed, life, at.k, err)
			}
			mustClose(t, again, false)
			mem = at.got.fs
		}
	}
}

// TestKill is the same without power cuts: whatever Append returned is there.
func TestKill(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 2))
		fs := vfs.NewMem()
		w := &world{}
		for life := range 10 {
			l := mustOpen(t, fs, testOptions)
			if n := len(w.all); n > 0 && l.Recovered().End < w.all[n-1].end {
				t.Fatalf("seed %d, life %d: ends at %d, appended up to %d", seed, life, l.Recovered().End, w.all[n-1].end)
			}
			checkReplay(t, l, l.Recovered().First, w.all)
			w.use(t, l, rng, 1+rng.IntN(60))
			mustClose(t, l, rng.IntN(3) == 0)
		}
	}
}

// A trim while the next segment's header is not yet durable must not leave a log
// that has forgotten its position.
func TestTrimKeepsAHeaderThatIsDurable(t *testing.T) {
	mem := vfs.NewCrashableMem()
	l := mustOpen(t, mem, testOptions)
	for i := range 20 {
		mustAppend(t, l, payload(i, 500))
	}
	mustSync(t, l, l.End())
	end := l.End()
	mustClose(t, l, false)
	l = mustOpen(t, mem, testOptions)
	mustAppend(t, l, []byte("not synced"))
	if err := l.Trim(l.End()); err != nil {
		t.Fatal(err)
	}
	c := mustOpen(t, mem.CrashClone(vfs.CrashCloneCfg{}), testOptions)
	if c.Recovered().End < end {
		t.Fatalf("%+v, want an end of at least %d", c.Recovered(), end)
	}
}

// What kill -9 left in the page cache is acknowledged by the next run only once
// it is on disk, although that run has not written it.
func TestSyncCoversTheRunBefore(t *testing.T) {
	mem := vfs.NewCrashableMem()
	l := mustOpen(t, mem, testOptions)
	var all []entry
	for i := range 20 {
		all = append(all, mustAppend(t, l, payload(i, 500)))
	}
	mustClose(t, l, false)
	for _, appends := range []bool{false, true} {
		l = mustOpen(t, mem, testOptions)
		if l.Synced() == l.End() {
			t.Fatal("claims to be durable without a sync")
		}
		if appends {
			all = append(all, mustAppend(t, l, []byte("more")))
		}
		mustSync(t, l, l.End())
		c := mustOpen(t, mem.CrashClone(vfs.CrashCloneCfg{}), testOptions)
		if c.Recovered().End != l.End() {
			t.Fatalf("appends=%v: ends at %d, %d was acknowledged", appends, c.Recovered().End, l.End())
		}
		checkReplay(t, c, 0, all)
		mustClose(t, l, false)
	}
}

// After Advance nothing but the new segment's header knows the gap; a crash that
// loses the header must not read as damage.
func TestPowerCutAfterAdvance(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 3))
		mem := vfs.NewCrashableMem()
		w := &world{}
		l := mustOpen(t, mem, testOptions)
		w.use(t, l, rng, 10)
		mustClose(t, l, false)
		l = mustOpen(t, mem, testOptions)
		if err := l.Advance(l.End() + 5000); err != nil {
			t.Fatal(err)
		}
		if seed%2 == 0 {
			mustSync(t, l, l.End())
		}
		w.use(t, l, rng, rng.IntN(40))
		clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rng})
		again, err := (&crash{fs: clone, acked: w.acked, trimmed: w.trimmed}).reopen(w)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		mustClose(t, again, false)
		mustClose(t, l, false)
	}
}

// TestOnlyLaterHeaderSurvives: nothing was ever synced, and of several segments
// only the last one's header, or all of it, came to the disk before power
// failed. The log is empty: what is left of it is no prefix.
func TestOnlyLaterHeaderSurvives(t *testing.T) {
	for _, whole := range []bool{false, true} {
		mem := vfs.NewMem()
		l := mustOpen(t, mem, testOptions)
		for i := range 3 {
			mustAppend(t, l, payload(i, 3000))
		}
		l.background.Wait()
		mustClose(t, l, false)
		im := snapshotOf(t, mem)
		for n := uint64(1); n <= 3; n++ {
			b := im[segmentName(n)]
			switch {
			case n < 3:
				clear(b)
			case !whole:
				clear(b[segmentHeaderLen+100:])
			}
		}
		fs := im.with(t, "", nil)
		l = mustOpen(t, fs, Options{SegmentSize: 4096, BootID: "boot-2"})
		if r := l.Recovered(); r.First != 0 || r.End != 0 || r.LastBoot != testOptions.BootID {
			t.Fatalf("whole=%v: recovered %+v, want an empty log", whole, r)
		}
		if err := l.Advance(5000); err != nil {
			t.Fatal(err)
		}
		want := []entry{mustAppend(t, l, payload(9, 50))}
		mustSync(t, l, l.End())
		mustClose(t, l, false)
		l = mustOpen(t, fs, testOptions)
		checkReplay(t, l, 5000, want)
		mustClose(t, l, false)
	}
}
