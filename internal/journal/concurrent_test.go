package journal

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// Appenders that share a lock, syncers, a trimmer, and power cuts meanwhile.
func TestConcurrentUseAndPowerCuts(t *testing.T) {
	mem := vfs.NewCrashableMem()
	l := mustOpen(t, mem, testOptions)
	w := &world{}
	var order sync.Mutex // the callers' ordering lock
	var wg sync.WaitGroup
	var done atomic.Bool
	for g := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range 300 {
				data := payload(g*1000+i, 50+i%400)
				order.Lock()
				end, err := l.Append(data)
				if err == nil {
					w.mu.Lock()
					w.all = append(w.all, entry{end, data})
					w.mu.Unlock()
				}
				order.Unlock()
				if err == nil && i%3 == 0 {
					if err = l.Sync(end); err == nil {
						w.ack(end)
					}
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	var trimmer sync.WaitGroup
	trimmer.Add(1)
	go func() {
		defer trimmer.Done()
		for !done.Load() {
			to := l.Synced() - min(l.Synced(), 20_000)
			w.mu.Lock()
			w.trimmed = max(w.trimmed, to)
			w.mu.Unlock()
			if err := l.Trim(to); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Millisecond)
		}
	}()
	var crashes []*crash
	rng := rand.New(rand.NewPCG(5, 5))
	for range 40 {
		c := &crashAt{mem: mem, w: w, rng: rng}
		c.take()
		crashes = append(crashes, c.got)
		time.Sleep(time.Millisecond)
	}
	wg.Wait()
	done.Store(true)
	trimmer.Wait()
	mustClose(t, l, true)
	for i, c := range crashes {
		again, err := c.reopen(&world{all: w.all})
		if err != nil {
			t.Fatalf("crash %d: %v", i, err)
		}
		mustClose(t, again, false)
	}
}

// gate stops syncs of data until they are let through, one by one.
type gate struct {
	arrived chan struct{}
	pass    chan struct{}
	syncs   atomic.Int32
}

func (g *gate) String() string { return "gate" }

func (g *gate) MaybeError(op errorfs.Op) error {
	if op.Kind == errorfs.OpFileSyncData {
		g.syncs.Add(1)
		g.arrived <- struct{}{}
		<-g.pass
	}
	return nil
}

// A sync that started before a record was written says nothing about it; and all
// who wait meanwhile share one more.
func TestSyncCoversOnlyWhatWasWrittenBeforeIt(t *testing.T) {
	g := &gate{arrived: make(chan struct{}), pass: make(chan struct{})}
	l := mustOpen(t, errorfs.Wrap(vfs.NewMem(), g), Options{SegmentSize: 1 << 16})
	a := mustAppend(t, l, []byte("a"))
	results := make(chan error)
	go func() { results <- l.Sync(a.end) }()
	<-g.arrived
	const more = 10
	for i := range more {
		e := mustAppend(t, l, payload(i, 10))
		go func() {
			err := l.Sync(e.end)
			if err == nil && l.Synced() < e.end {
				err = fmt.Errorf("synced is %d, Sync(%d) returned", l.Synced(), e.end)
			}
			results <- err
		}()
	}
	g.pass <- struct{}{}
	<-g.arrived // the second one has begun: the first is over
	if got := l.Synced(); got != a.end {
		t.Fatalf("the first sync is said to cover %d, it started at %d", got, a.end)
	}
	g.pass <- struct{}{}
	for range more + 1 {
		if err := <-results; err != nil {
			t.Fatal(err)
		}
	}
	if n := g.syncs.Load(); n != 2 {
		t.Fatalf("%d syncs, want 2", n)
	}
}

// A roll-over between the records: Sync syncs the older segment too, and first.
func TestSyncCoversTheSegmentBefore(t *testing.T) {
	mem := vfs.NewCrashableMem()
	l := mustOpen(t, mem, testOptions)
	var all []entry
	for i := range 20 {
		all = append(all, mustAppend(t, l, payload(i, 1000)))
	}
	mustSync(t, l, l.End())
	c := mustOpen(t, mem.CrashClone(vfs.CrashCloneCfg{}), testOptions)
	if c.Recovered().End != l.End() {
		t.Fatalf("ends at %d, %d was acknowledged", c.Recovered().End, l.End())
	}
	checkReplay(t, c, 0, all)
	mustClose(t, l, true)
}
