package journal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// faults fails operations of one kind while it is on.
type faults struct {
	kind errorfs.OpKind
	err  error
	on   atomic.Bool
}

func (f *faults) String() string { return "faults" }

func (f *faults) MaybeError(op errorfs.Op) error {
	if f.on.Load() && op.Kind == f.kind {
		return f.err
	}
	return nil
}

// A write or sync that failed once fails everything after it, although the disk
// works again; what was acknowledged before is there.
func TestFailureIsFinal(t *testing.T) {
	for what, kind := range map[string]errorfs.OpKind{
		"write": errorfs.OpFileWriteAt, "sync": errorfs.OpFileSyncData,
	} {
		t.Run(what, func(t *testing.T) {
			mem := vfs.NewCrashableMem()
			f := &faults{kind: kind, err: syscall.EIO}
			l := mustOpen(t, errorfs.Wrap(mem, f), Options{SegmentSize: 1 << 16})
			a := mustAppend(t, l, []byte("kept"))
			mustSync(t, l, a.end)
			l.background.Wait() // the spare is there: what fails now is the log
			f.on.Store(true)
			_, err := l.Append([]byte("lost"))
			if kind == errorfs.OpFileSyncData {
				if err != nil {
					t.Fatal(err)
				}
				err = l.Sync(l.End())
			}
			if !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) {
				t.Fatalf("got %v", err)
			}
			f.on.Store(false)
			for range 3 {
				if _, err := l.Append([]byte("x")); !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) {
					t.Fatalf("Append: %v", err)
				}
				for _, pos := range []Pos{0, a.end, l.End()} {
					if err := l.Sync(pos); !errors.Is(err, ErrFailed) {
						t.Fatalf("Sync(%d): %v", pos, err)
					}
				}
				if err := l.Trim(a.end); !errors.Is(err, ErrFailed) {
					t.Fatalf("Trim: %v", err)
				}
			}
			if l.Synced() != a.end {
				t.Fatalf("synced went to %d", l.Synced())
			}
			if err := l.Close(true); !errors.Is(err, ErrFailed) {
				t.Fatalf("Close: %v", err)
			}
			c := mustOpen(t, mem.CrashClone(vfs.CrashCloneCfg{}), testOptions)
			if r := c.Recovered(); r.End < a.end || r.Clean {
				t.Fatalf("%+v", r)
			}
			checkReplay(t, c, 0, []entry{a})
		})
	}
}

// Everyone who waits for a sync that fails is told.
func TestFailedSyncFailsTheGroup(t *testing.T) {
	f := &faults{kind: errorfs.OpFileSyncData, err: syscall.EIO}
	g := &gate{arrived: make(chan struct{}), pass: make(chan struct{})}
	// The gate comes first: the fault is on when the sync passes it.
	l := mustOpen(t, errorfs.Wrap(errorfs.Wrap(vfs.NewMem(), f), g), testOptions)
	a := mustAppend(t, l, []byte("a"))
	f.on.Store(true)
	results := make(chan error)
	const waiters = 5
	go func() { results <- l.Sync(a.end) }()
	<-g.arrived
	for range waiters - 1 {
		go func() { results <- l.Sync(a.end) }()
	}
	g.pass <- struct{}{}
	for range waiters {
		if err := <-results; !errors.Is(err, ErrFailed) {
			t.Fatalf("got %v", err)
		}
	}
}

// A disk without room for the next segment is an error before anything was
// written; records that fit go on, and so does everything once there is room.
func TestNoSpaceIsNotFinal(t *testing.T) {
	for _, kind := range []errorfs.OpKind{
		errorfs.OpFilePreallocate, errorfs.OpFileSync, errorfs.OpRename, errorfs.OpOpen,
	} {
		for _, errno := range []error{syscall.ENOSPC, syscall.EDQUOT} {
			t.Run(fmt.Sprint(kind, errno), func(t *testing.T) {
				mem := vfs.NewMem()
				f := &faults{kind: kind, err: errno}
				l := mustOpen(t, errorfs.Wrap(mem, f), testOptions)
				f.on.Store(true)
				if _, err := l.Append([]byte("no segment at all")); !errors.Is(err, ErrNoSpace) || !errors.Is(err, errno) {
					t.Fatalf("first Append: %v", err)
				}
				f.on.Store(false)
				all := []entry{mustAppend(t, l, payload(1, 1000))}
				l.background.Wait()
				f.on.Store(true)
				refused := 0
				for i := range 40 {
					size := 900 - i*20
					before := l.End()
					end, err := l.Append(payload(i, size))
					switch {
					case err == nil:
						all = append(all, entry{end, payload(i, size)})
					case errors.Is(err, ErrNoSpace) && l.End() == before:
						refused++
					default:
						t.Fatal(err)
					}
					mustSync(t, l, l.End())
				}
				if refused == 0 {
					t.Fatal("never refused: the test shows nothing")
				}
				files := len(snapshotOf(t, mem))
				if kind != errorfs.OpOpen && files > 4 {
					t.Fatalf("%d files: failed attempts keep their space", files)
				}
				f.on.Store(false)
				for i := range 20 {
					all = append(all, mustAppend(t, l, payload(i, 1000)))
				}
				mustClose(t, l, true)
				checkReplay(t, mustOpen(t, mem, testOptions), 0, all)
			})
		}
	}
}

// There is always room for the record of a clean shutdown.
func TestCleanShutdownOnAFullDisk(t *testing.T) {
	mem := vfs.NewMem()
	f := &faults{kind: errorfs.OpFilePreallocate, err: syscall.ENOSPC}
	l := mustOpen(t, errorfs.Wrap(mem, f), testOptions)
	mustAppend(t, l, []byte("first"))
	l.background.Wait()
	f.on.Store(true)
	for {
		if _, err := l.Append(nil); errors.Is(err, ErrNoSpace) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, l, true)
	if l = mustOpen(t, mem, testOptions); !l.Recovered().Clean {
		t.Fatal("not clean")
	}
}

// oneFault fails the k-th changing operation, whatever it is.
type oneFault struct {
	k int32
	n atomic.Int32
}

func (f *oneFault) String() string { return "one fault" }

func (f *oneFault) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && op.Kind != errorfs.OpFileClose && f.n.Add(1) == f.k {
		return syscall.EIO
	}
	return nil
}

// TestFaultAtEveryOperation: wherever a fault hits, whatever was acknowledged is
// there after a power cut, what was refused stays refused, and nothing is mixed
// up.
func TestFaultAtEveryOperation(t *testing.T) {
	for k := int32(1); k <= 150; k++ {
		mem := vfs.NewCrashableMem()
		if err := mem.MkdirAll(testDir, 0o700); err != nil {
			t.Fatal(err)
		}
		w := &world{}
		for life := range uint64(3) {
			f := &oneFault{k: k}
			rng := rand.New(rand.NewPCG(uint64(k), life))
			l, err := Open(errorfs.Wrap(mem, f), testDir, testOptions)
			if errors.Is(err, syscall.EIO) {
				continue
			}
			if err != nil {
				t.Fatalf("fault %d: %v", k, err)
			}
			w.useWithFaults(t, l, rng)
			_ = l.Close(life == 1) // may report the fault again
			clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rng})
			c, err := (&crash{fs: clone, acked: w.acked, trimmed: w.trimmed}).reopen(w)
			if err != nil {
				t.Fatalf("fault %d, life %d: %v", k, life, err)
			}
			mustClose(t, c, false)
			mem = clone
		}
	}
}

func (w *world) useWithFaults(t *testing.T, l *Log, rng *rand.Rand) {
	t.Helper()
	var failed bool
	check := func(err error) bool {
		if failed && !errors.Is(err, ErrFailed) {
			t.Fatalf("after a failure: %v", err)
		}
		failed = failed || errors.Is(err, ErrFailed)
		if err != nil && !errors.Is(err, syscall.EIO) {
			t.Fatalf("not the error that was injected: %v", err)
		}
		return err == nil
	}
	for i := range 40 {
		data := payload(rng.Int(), rng.IntN(900))
		end, err := l.Append(data)
		if check(err) {
			w.all = append(w.all, entry{end, data})
		} else if errors.Is(err, ErrFailed) {
			// A write that failed may have arrived all the same.
			w.all = append(w.all, entry{l.End() + Pos(recordSize(int64(len(data)))), data})
			return
		}
		if i%4 == 3 && check(l.Sync(l.End())) {
			w.ack(l.End())
		}
		if i%10 == 9 {
			w.trimmed = max(w.trimmed, l.Synced()-min(l.Synced(), 3000))
			check(l.Trim(w.trimmed))
		}
	}
}
