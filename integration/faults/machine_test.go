package faults

import (
	"fmt"
	"math/rand"
	"os"
	"sync"
	"testing"
	"time"

	"stepfs/integration/harness"
)

// ledger records what was acknowledged before the power failed. A call that
// returns at that moment counts only if its record was made before: any disk
// may lose the rest.
type ledger struct {
	mu   sync.Mutex
	down bool
}

// ack records, unless it is too late.
func (l *ledger) ack(record func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.down {
		record()
	}
}

// over says that the power has failed: errors are expected.
func (l *ledger) over() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.down
}

// machine is a store on a disk of its own.
type machine struct {
	t    *testing.T
	rnd  *rand.Rand
	disk *harness.LoopFS
	d    *harness.Daemon
	ledger

	cuts, ackedOps, inFlight, files, snapshots int // what was done and compared
}

// newMachine makes a disk and mounts a new store on it. Nothing of stored files
// stays hot, so that what is read back later comes from packs.
func newMachine(t *testing.T, rnd *rand.Rand, fstype string) *machine {
	t.Helper()
	var disk *harness.LoopFS
	var err error
	if fstype == "btrfs" { // has no ioctl to be shut down
		disk, err = root.NewVolatileFS(fstype, 3<<30)
	} else {
		disk, err = root.NewLoopFS(fstype, 3<<30)
	}
	must(t, err)
	t.Cleanup(func() { must(t, disk.Close()) })
	m := &machine{t: t, rnd: rnd, disk: disk, d: prepare(t, "--seal-quiet", "100ms", "--hot-limit", "1")}
	m.d.Store = disk.Dir + "/store"
	m.d.BootID = bootID(rnd)
	must(t, m.d.Start())
	return m
}

// cut fails the power.
func (m *machine) cut() error {
	m.mu.Lock()
	m.down = true
	err := m.disk.CutPower()
	m.mu.Unlock()
	m.cuts++
	if err != nil {
		return err
	}
	return m.d.Kill()
}

// boot is the start of the machine after that.
func (m *machine) boot() error {
	if err := m.disk.Remount(); err != nil {
		return err
	}
	m.down = false
	m.d.BootID = bootID(m.rnd)
	return m.d.Start()
}

func bootID(rnd *rand.Rand) string {
	return fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", rnd.Uint32(), rnd.Intn(1<<16), rnd.Intn(1<<12), rnd.Intn(1<<12), rnd.Int63n(1<<48))
}

// cutsToADisk is how often the power of one disk fails before a fresh one takes
// its place: most crash bugs are to be had on a fresh file system.
const cutsToADisk = 34

// TestPowerCuts fails the power of a store's disk, and looks that nothing is
// gone that was acknowledged before. Every third cut is in the middle of four
// ranks' saves, the others at barriers after sequences of operations, of which
// each disk sees all.
func TestPowerCuts(t *testing.T) {
	total := number(t, "STEPFS_CUTS", 102)
	for i, fstype := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			t.Parallel()
			rnd := seeded(t)
			all := sequences()
			start := time.Now()
			for left := (total + 2 - i) / 3; left > 0; left -= cutsToADisk {
				rnd.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
				t.Run("disk", func(t *testing.T) { newMachine(t, rnd, fstype).fail(all, min(left, cutsToADisk)) })
			}
			t.Logf("%v", time.Since(start))
		})
	}
}

// fail cuts the power n times.
func (m *machine) fail(all []sequence, n int) {
	ranks := &rankJob{m: m}
	// Some are still in flight at the cut, and have to be run again.
	seqs := &sequenceJob{m: m, left: all, seen: map[string]bool{}, perRound: 2*len(all)/(n-n/3) + 1}
	for round := range n {
		work, verify := seqs.work, seqs.verify
		if round%3 == 2 {
			work, verify = ranks.work, ranks.verify
		}
		for _, step := range []func() error{
			func() error { return work(round) },
			m.boot,
			verify,
			// Once more after another power cut: what a restart made of it is
			// kept, and nothing comes from a cache.
			ranks.verifyOlder, seqs.verifyOlder,
		} {
			if err := step(); err != nil {
				m.t.Fatalf("cut %d: %v", round, err)
			}
		}
		if round%6 == 5 || round == n-1 {
			if err := clean(m.d.Mnt); err != nil {
				m.t.Fatalf("cut %d: %v", round, err)
			}
		}
	}
	m.finish(seqs, ranks)
}

// finish stores everything, starts afresh with cold caches, and compares all.
func (m *machine) finish(seqs *sequenceJob, ranks *rankJob) {
	t := m.t
	_, err := root.Must("drain", m.d.Mnt)
	must(t, err)
	must(t, m.d.Stop())
	must(t, m.boot())
	must(t, seqs.verifyAll())
	must(t, ranks.verifyAll())
	must(t, m.d.Stop())
	must(t, clean(m.d.Store))
	t.Logf("%d power cuts; %d sequences acknowledged (%d different ones of %d), %d in flight; %d saves acknowledged, %d snapshots of them; %d files and %d directories in snapshots compared",
		m.cuts, m.ackedOps, len(seqs.seen), len(sequences()), m.inFlight, ranks.acked, len(ranks.steps), m.files, m.snapshots)
	if m.cuts >= cutsToADisk && (m.ackedOps == 0 || m.inFlight == 0 || ranks.acked == 0 || len(ranks.steps) == 0 || m.files == 0 || m.snapshots == 0) {
		t.Error("this proved nothing")
	}
}

func (m *machine) path(parts string) string { return m.d.Mnt + "/" + parts }

// remove takes directories away that are no longer compared.
func (m *machine) remove(dirs ...string) error {
	for _, d := range dirs {
		if err := os.RemoveAll(m.path(d)); err != nil {
			return err
		}
	}
	return nil
}
