package integration

import (
	"fmt"
	"math/rand"
	"os"
	"slices"
	"testing"
	"time"

	"stepfs/integration/harness"
)

// TestPowerCut stops the disk under a working daemon, again and again: what has
// not reached it is gone, as when the power fails, and the next start sees
// another boot. What fsync acknowledged has to be there, and every snapshot
// that was acknowledged, with what its own callers had synced.
func TestPowerCut(t *testing.T) {
	n := max(5, rounds(t, 50)/3)
	must(t, root.Share())
	disk, err := root.NewLoopFS("ext4", 6<<30)
	must(t, err)
	t.Cleanup(func() { must(t, disk.Close()) })
	d := prepare(t, "--seal-quiet", "300ms")
	d.Store = disk.Dir + "/store"

	rnd := rand.New(rand.NewSource(seed(t)))
	d.BootID = bootID(rnd)
	must(t, d.Start())
	c := &crew{rnd: rnd, seen: map[string]bool{}}
	for i := range 4 {
		w := newWorker("", rand.New(rand.NewSource(rnd.Int63())), &c.killed)
		w.mnt, w.next = d.Mnt, i*1_000_000 // the names of their snapshots differ
		c.workers = append(c.workers, w)
	}
	checks := cutChecks{}
	for round := range n {
		for i, w := range c.workers {
			w.startAfresh(fmt.Sprintf("w%d-%d", i, round))
			must(t, os.Mkdir(w.path(""), 0o755))
		}
		from := c.marks()
		if err := c.work(c.cutSoon(d, disk)); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		must(t, disk.Remount())
		d.BootID = bootID(rnd)
		if err := d.Start(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for i, w := range c.workers {
			for _, r := range w.records[from[i]:] {
				r.powerFailed()
			}
			if err := w.verifyCut(&checks); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			if err := w.verifyRecords(append(slices.Clone(w.records[from[i]:]), w.older(from[i], 3)...)); err != nil {
				t.Fatalf("round %d: %v\nlast calls: %q", round, err, w.log)
			}
			checks.snapshots += len(w.records) - from[i]
		}
	}
	t.Logf("%d power cuts, %d calls in flight; %d synced files, %d whole namespaces, %d snapshots compared",
		n, c.inFlight, checks.files, checks.namespaces, checks.snapshots)
	if checks.files == 0 || checks.namespaces == 0 || checks.snapshots == 0 {
		t.Error("this proved nothing")
	}
	must(t, d.Stop())
}

// cutChecks counts what was compared after power cuts.
type cutChecks struct{ files, namespaces, snapshots int }

// cutSoon cuts the power at a random moment, then ends the daemon.
func (c *crew) cutSoon(d *harness.Daemon, disk *harness.LoopFS) func() error {
	wait := time.Duration(20+c.rnd.Intn(1500)) * time.Millisecond
	return func() error {
		time.Sleep(wait)
		c.killed.Store(true)
		if err := disk.CutPower(); err != nil {
			return err
		}
		return d.Kill()
	}
}

func bootID(rnd *rand.Rand) string {
	return fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", rnd.Uint32(), rnd.Intn(1<<16), rnd.Intn(1<<12), rnd.Intn(1<<12), rnd.Int63n(1<<48))
}

// startAfresh gives the worker a new directory; its old records stay.
func (w *worker) startAfresh(name string) {
	w.name, w.model, w.flight, w.maybe, w.renamed = name, newModel(), nil, nil, true
}

// older picks n of the first records.
func (w *worker) older(first, n int) (picked []*record) {
	for range min(first, n) {
		picked = append(picked, w.records[w.rnd.Intn(first)])
	}
	return picked
}

// verifyCut holds the live directory against what was synced: the names, if
// none changed after the last barrier, and each file that did not.
func (w *worker) verifyCut(checks *cutChecks) error {
	if w.renamed {
		return nil // some call may or may not have happened; the names are not known
	}
	got, err := readNodes(w.path(""))
	if err != nil {
		return err
	}
	bad := w.model.otherNames(got)
	for path, f := range w.model.files {
		n, ok := got[path]
		switch {
		case !ok || n.mode != f.mode:
			bad = append(bad, fmt.Sprintf("%s: present %v, mode %v, want %v", path, ok, n.mode, f.mode))
		case f.synced:
			checks.files++
			if contentOf(n.data) != contentOf(f.live) {
				bad = append(bad, path+", synced: "+firstDifference(n.data, f.live))
			}
		}
	}
	checks.namespaces++
	if len(bad) > 0 {
		return fmt.Errorf("%s: after the power cut: %q\nlast calls: %q", w.name, bad, w.log)
	}
	return nil
}
