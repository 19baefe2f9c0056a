package integration

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"stepfs/integration/harness"
)

func modeOf(m uint32) fs.FileMode { return fs.FileMode(m) }

// crew is the workers of one kill harness.
type crew struct {
	workers []*worker
	steward *steward // may be nil
	rnd     *rand.Rand
	killed  atomic.Bool
	seen    map[string]bool // names that snapshots/ listed at some time

	checked, inFlight, stale int
}

func newCrew(t *testing.T, d *harness.Daemon, n int) *crew {
	c := &crew{rnd: rand.New(rand.NewSource(seed(t))), seen: map[string]bool{}}
	for i := range n {
		w := newWorker(fmt.Sprintf("w%d", i), rand.New(rand.NewSource(c.rnd.Int63())), &c.killed)
		w.mnt = d.Mnt
		must(t, os.Mkdir(w.path(""), 0o755))
		c.workers = append(c.workers, w)
	}
	c.steward = newSteward(d.Mnt, &c.killed)
	for _, w := range c.workers {
		w.steward = c.steward
	}
	return c
}

// work lets all workers work until kill has ended the daemon.
func (c *crew) work(kill func() error) error {
	c.killed.Store(false)
	errs := make([]error, len(c.workers)+2)
	var wg sync.WaitGroup
	if c.steward != nil {
		wg.Go(func() { errs[len(c.workers)+1] = c.steward.run() })
	}
	for i, w := range c.workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			errs[i] = w.run()
		}()
	}
	errs[len(c.workers)] = kill()
	wg.Wait()
	for _, w := range c.workers {
		if w.flight != nil {
			c.inFlight++
		}
	}
	return errors.Join(errs...)
}

// verify holds everything acknowledged against the mount: the live tree, every
// snapshot since the last look, and some of the older ones.
func (c *crew) verify(from []int, older int) error {
	for i, w := range c.workers {
		if err := w.verifyMaybe(); err != nil {
			return err
		}
		if err := w.verifyLive(); err != nil {
			return err
		}
		records := slices.Clone(w.records[from[i]:])
		for range min(older, from[i]) {
			records = append(records, w.records[c.rnd.Intn(from[i])])
		}
		if err := w.verifyRecords(records); err != nil {
			return fmt.Errorf("%w\nlast calls: %q", err, w.log)
		}
		c.checked += len(records)
	}
	var err error
	if c.steward != nil {
		err = c.steward.verify()
	}
	return errors.Join(err, c.verifyNames())
}

// verifyNames looks that no snapshot that was ever listed has gone.
func (c *crew) verifyNames() error {
	entries, err := os.ReadDir(filepath.Join(c.workers[0].mnt, "snapshots"))
	if err != nil {
		return err
	}
	now := map[string]bool{}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), stewardPrefix) {
			now[e.Name()] = true
		}
	}
	for name := range c.seen {
		if !now[name] {
			return fmt.Errorf("snapshots/%s was listed, and is gone", name)
		}
	}
	c.seen = now
	return nil
}

// marks is how many records each worker has.
func (c *crew) marks() []int {
	n := make([]int, len(c.workers))
	for i, w := range c.workers {
		n[i] = len(w.records)
	}
	return n
}

// killSoon kills the daemon at a random moment. Now and then it is asked to
// leave instead, and killed while it is about to.
func (c *crew) killSoon(d *harness.Daemon) func() error {
	wait := time.Duration(5+c.rnd.Intn(600)) * time.Millisecond
	politely := c.rnd.Intn(8) == 0
	stale := c.rnd.Intn(2) == 0
	return func() error {
		time.Sleep(wait)
		c.killed.Store(true)
		if politely {
			d.Signal(os.Interrupt)
			time.Sleep(wait / 20)
		}
		if stale { // the next start replaces the dead mount by itself
			c.stale++
			return d.Die()
		}
		return d.Kill()
	}
}

// killWhileStarting starts the daemon and kills it before it is ready, so that
// recoveries are interrupted too.
func (c *crew) killWhileStarting(d *harness.Daemon) error {
	if err := d.Launch(); err != nil {
		return err
	}
	time.Sleep(time.Duration(c.rnd.Intn(60)) * time.Millisecond)
	return d.Kill()
}

// TestKill kills the daemon again and again under writers, and holds what is
// there afterwards against what was acknowledged.
func TestKill(t *testing.T) {
	n := rounds(t, 50)
	d := mount(t, "--seal-quiet", "300ms")
	c := newCrew(t, d, 4)
	interrupted := 0
	for round := range n {
		from := c.marks()
		if err := c.work(c.killSoon(d)); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if c.rnd.Intn(5) == 0 {
			must(t, c.killWhileStarting(d))
			interrupted++
		}
		if err := d.Start(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if err := c.verify(from, 3); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	c.report(t, n, interrupted)
	c.verifyAll(t, d)
}

// TestKillWhileStarting kills the daemon at every moment of its start: it dies
// of it, and the next start finds a store that it can open.
func TestKillWhileStarting(t *testing.T) {
	d := mount(t)
	c := &crew{rnd: rand.New(rand.NewSource(seed(t)))}
	must(t, os.WriteFile(d.Mnt+"/kept", []byte("kept"), 0o644))
	must(t, d.Kill())
	n := rounds(t, 50)
	for round := range n {
		must(t, c.killWhileStarting(d))
		if err := d.Start(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		holds(t, d.Mnt+"/kept", []byte("kept"), "after a start that was killed")
		must(t, d.Kill())
	}
	t.Logf("%d starts killed", n)
}

// report says what the rounds did, and fails when they did too little to prove
// anything.
func (c *crew) report(t *testing.T, rounds, interrupted int) {
	calls, written, snapshots := map[string]int{}, int64(0), 0
	for _, w := range c.workers {
		written += w.bytes
		snapshots += len(w.records)
		for kind, n := range w.counts {
			calls[kind] += n
		}
	}
	t.Logf("%d rounds, %d recoveries interrupted, %d dead mounts replaced, %d calls in flight at a kill, %d MiB acknowledged, %d snapshots acknowledged, %d looked at; calls: %v; meanwhile: %v",
		rounds, interrupted, c.stale, c.inFlight, written>>20, snapshots, c.checked, calls, c.steward.counts)
	for _, what := range []string{"snapshot", "forget", "prune", "drain"} {
		if c.steward.counts[what] == 0 {
			t.Errorf("nobody got done with a %s: this proves nothing", what)
		}
	}
	if c.stale == 0 && rounds > 10 {
		t.Error("no dead mount was left for the next start")
	}
	if c.inFlight == 0 || written == 0 || snapshots == 0 || c.checked == 0 {
		t.Error("this proved nothing: no call was in flight, or nothing was written, or no snapshot was looked at")
	}
	for _, kind := range []string{"write", "fsync", "close", "rename", "unlink", "snapshot", "barrier"} {
		if calls[kind] < rounds/5 {
			t.Errorf("only %d calls of %s in %d rounds", calls[kind], kind, rounds)
		}
	}
}

// verifyAll looks at every snapshot once more: as it is, after everything has
// been stored, and after a clean restart with all caches dropped.
func (c *crew) verifyAll(t *testing.T, d *harness.Daemon) {
	zero := make([]int, len(c.workers))
	must(t, c.verify(zero, 0))
	_, err := root.Must("drain", d.Mnt)
	must(t, err)
	must(t, d.Stop())
	unix.Sync()
	must(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0))
	must(t, d.Start())
	must(t, c.verify(zero, 0))
	_, err = root.Must("check", "--read-data", d.Mnt)
	must(t, err)
}
