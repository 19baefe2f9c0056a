package journal

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// trace writes down what changes the disk, in order. Runs of writes to one file
// count as one.
type trace struct {
	mu  sync.Mutex
	ops []string
}

func (tr *trace) String() string { return "trace" }

func (tr *trace) MaybeError(op errorfs.Op) error {
	names := map[errorfs.OpKind]string{
		errorfs.OpFileWriteAt: "write", errorfs.OpFileSync: "fsync", errorfs.OpFileSyncData: "fdatasync",
		errorfs.OpRename: "rename", errorfs.OpRemove: "remove", errorfs.OpFilePreallocate: "allocate",
	}
	if name := names[op.Kind]; name != "" {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		tr.ops = append(tr.ops, name+" "+op.Path)
	}
	return nil
}

func (tr *trace) take() []string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	ops := slices.Compact(tr.ops)
	tr.ops = nil
	return ops
}

// The order on which the promises rest: a segment is whole and synced before it
// gets its name, and the name is durable before its first record; a record is
// one write, a sync one fdatasync of a file that does not grow.
func TestOrderOfOperations(t *testing.T) {
	mem := vfs.NewMem()
	tr := &trace{}
	l := mustOpen(t, errorfs.Wrap(mem, tr), testOptions)
	if ops := tr.take(); len(ops) != 0 {
		t.Fatalf("Open changed the disk: %q", ops)
	}
	file := func(n uint64) string { return testDir + "/" + tmpName(n) } // as it was opened
	mustAppend(t, l, []byte("first"))
	l.background.Wait()
	prepare := func(n uint64) []string {
		return []string{"allocate " + file(n), "write " + file(n), "fsync " + file(n), "rename " + file(n), "fsync " + testDir}
	}
	want := slices.Concat([]string{"fsync ."}, prepare(1), []string{"write " + file(1)}, prepare(2))
	if got := tr.take(); !slices.Equal(got, want) {
		t.Fatalf("first record:\n%q, want\n%q", got, want)
	}
	for i := range 3 {
		mustAppend(t, l, payload(i, 100))
		if tr.mu.Lock(); len(tr.ops) != 1 {
			t.Fatalf("one record: %q", tr.ops)
		}
		tr.mu.Unlock()
		mustSync(t, l, l.End())
		if got := tr.take(); !slices.Equal(got, []string{"write " + file(1), "fdatasync " + file(1)}) {
			t.Fatalf("one record and its sync: %q", got)
		}
	}
	mustAppend(t, l, payload(9, 3800)) // rolls over
	l.background.Wait()
	if got, want := tr.take(), append([]string{"write " + file(2)}, prepare(3)...); !slices.Equal(got, want) {
		t.Fatalf("roll-over:\n%q, want\n%q", got, want)
	}
	for n, b := range snapshotOf(t, mem) {
		if len(b) != 4096 {
			t.Errorf("%s has %d bytes", n, len(b))
		}
	}
}

// tornEarly is a log of several unsynced segments of which the first one lost a
// record, so that all others are to be cleared away. It comes on a disk where
// all this is durable.
func tornEarly(t *testing.T) (*vfs.MemFS, []entry) {
	t.Helper()
	mem := vfs.NewCrashableMem()
	l := mustOpen(t, mem, testOptions)
	var all []entry
	for i := range 40 {
		all = append(all, mustAppend(t, l, payload(i, 504)))
	}
	mustClose(t, l, false)
	f, err := mem.OpenReadWrite(testDir+"/"+segmentName(1), vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, 100), fileOff(all[2].end)); err != nil {
		t.Fatal(err)
	}
	return mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))}), all
}

// Power fails at every point of clearing away what lies behind a tear.
func TestPowerCutWhileClearing(t *testing.T) {
	for seed := range uint64(8) {
		for k := 1; ; k++ {
			mem, all := tornEarly(t)
			rng := rand.New(rand.NewPCG(uint64(k), seed))
			w := &world{all: all}
			at := &crashAt{mem: mem, w: w, k: k, rng: rng}
			l := mustOpen(t, errorfs.Wrap(mem, at), testOptions)
			if got := l.Recovered().End; got != all[2].end {
				t.Fatalf("ends at %d, want %d", got, all[2].end)
			}
			mustSync(t, l, l.End())
			done := at.got == nil
			mustClose(t, l, false)
			if done {
				break
			}
			c, err := at.got.reopen(w)
			if err != nil {
				t.Fatalf("seed %d, operation %d: %v", seed, k, err)
			}
			if got := c.Recovered().End; got != all[2].end {
				t.Fatalf("operation %d: ends at %d, want %d", k, got, all[2].end)
			}
			goesOn(t, c, all)
		}
	}
}

// A segment whose header arrived without a record belongs to the chain of
// headers: the next run makes it durable before it builds on it.
func TestHeaderWithoutRecords(t *testing.T) {
	for before := range 3 {
		mem := vfs.NewCrashableMem()
		l := mustOpen(t, mem, testOptions)
		var all []entry
		for i := range before {
			all = append(all, mustAppend(t, l, payload(i, 504)))
			mustSync(t, l, l.End())
		}
		l.background.Wait()
		if err := l.start(); err != nil {
			t.Fatal(err)
		}
		s, err := l.takeSpare(0)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, segmentHeaderLen)
		l.activate(s).encode(b) // and then the process dies within its write
		if _, err := s.file.WriteAt(b, 0); err != nil {
			t.Fatal(err)
		}
		l = mustOpen(t, mem, testOptions)
		for i := range 2 { // the second one knows the first to be durable
			all = append(all, mustAppend(t, l, payload(10+i, 504)))
			mustSync(t, l, l.End())
		}
		l = mustOpen(t, mem.CrashClone(vfs.CrashCloneCfg{}), testOptions)
		if got, want := l.Recovered().End, all[len(all)-1].end; got != want {
			t.Fatalf("ends at %d, want %d", got, want)
		}
		checkReplay(t, l, 0, all)
	}
}

// headerGate holds up the writes at the start of a segment.
type headerGate struct {
	on      atomic.Bool
	arrived chan struct{}
	pass    chan struct{}
}

func (g *headerGate) String() string { return "header gate" }

func (g *headerGate) MaybeError(op errorfs.Op) error {
	if g.on.Load() && op.Kind == errorfs.OpFileWriteAt && op.Offset == 0 {
		g.arrived <- struct{}{}
		<-g.pass
	}
	return nil
}

// A segment is on its way, its header not yet written: the one before it is the
// only one that knows the position, and must survive a trim of everything.
func TestTrimDuringRollOver(t *testing.T) {
	mem := vfs.NewCrashableMem()
	g := &headerGate{arrived: make(chan struct{}), pass: make(chan struct{})}
	l := mustOpen(t, errorfs.Wrap(mem, g), testOptions)
	a := mustAppend(t, l, payload(1, 3000))
	mustSync(t, l, a.end)
	l.background.Wait()
	g.on.Store(true)
	result := make(chan error)
	go func() {
		_, err := l.Append(payload(2, 3000))
		result <- err
	}()
	<-g.arrived
	if err := l.Trim(a.end); err != nil {
		t.Fatal(err)
	}
	clone := mem.CrashClone(vfs.CrashCloneCfg{})
	g.on.Store(false)
	g.pass <- struct{}{}
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	if got := mustOpen(t, clone, testOptions).Recovered().End; got != a.end {
		t.Fatalf("ends at %d, %d was acknowledged", got, a.end)
	}
	mustSync(t, l, l.End())
	if err := l.Trim(a.end); err != nil || l.First() != a.end {
		t.Fatalf("Trim: %v, first %d, want %d", err, l.First(), a.end)
	}
	mustClose(t, l, true)
}

// Positions were skipped, and the header that says so was lost: a torn tail.
func TestLostHeaderAfterAdvance(t *testing.T) {
	fs := vfs.NewMem()
	l := mustOpen(t, fs, testOptions)
	a := mustAppend(t, l, payload(1, 504))
	mustClose(t, l, false)
	l = mustOpen(t, fs, testOptions)
	if err := l.Advance(a.end + 5000); err != nil {
		t.Fatal(err)
	}
	mustSync(t, l, l.End())
	for i := range 20 {
		mustAppend(t, l, payload(i, 504))
	}
	name := segmentName(l.mu.live[1].number)
	mustClose(t, l, false)
	im := snapshotOf(t, fs)
	for _, lost := range []int{segmentHeaderLen, len(im[name])} {
		b := bytes.Clone(im[name])
		clear(b[:lost])
		l := mustOpen(t, im.with(t, name, b), testOptions)
		if got := l.Recovered().End; got != a.end {
			t.Fatalf("%d bytes lost: ends at %d, want %d", lost, got, a.end)
		}
		goesOn(t, l, []entry{a})
	}
}
