//go:build !race

// Under the race detector no time means anything: these are not built there.

package snapshot_test

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"stepfs/internal/schema"
	"stepfs/internal/state"
	"stepfs/snapshot"
)

// record puts n snapshots into a store, as barriers and seals would have.
func (w *world) record(n int, name func(k int) string) {
	w.t.Helper()
	for from := 0; from < n; from += 10_000 {
		_, err := w.eng.Update(schema.KindCommit, func(tx *state.Tx) error {
			for k := from; k < min(n, from+10_000); k++ {
				seq := tx.Cut()
				s := schema.Snapshot{ScopeIno: 1, Name: name(k), Reason: "quiet", Revision: 1, Time: int64(k), Clock: 1, Drained: true}
				tx.Put(schema.Numbered(schema.PrefixSnapshot, seq), s.Encode())
				if s.Name != "" {
					tx.Put(schema.NameKey("", s.Name, seq), s.NameFlags())
				}
			}
			return nil
		})
		w.ok(err)
	}
}

func step(k int) string { return fmt.Sprint(k * 100) }

func barrier(int) string { return "" }

// best gives the shortest of some runs: others use this machine, too.
func best(n int, fn func()) time.Duration {
	least := time.Hour
	for range n {
		start := time.Now()
		fn()
		least = min(least, time.Since(start))
	}
	return least
}

// The cost of a forget, and of a pass of the keeper with nothing to do, is
// bounded whatever else is kept.
func TestCostsAmongTenThousand(t *testing.T) {
	const n, bound = 10_000, 100 * time.Millisecond
	w := newWorld(t, keeping(&hands{}, byHand))
	w.record(n, step)
	w.restart()
	w.prune()
	k := n
	for what, fn := range map[string]func(){
		"forget of the latest": func() { k--; w.forget(step(k)) },
		"unforget":             func() { _, err := w.m.Unforget("", []string{step(k)}); w.ok(err); k++ },
		"idle pass":            func() { w.prune() },
		"hold and release": func() {
			_, err := w.m.Hold(5, snapshot.Hold{By: "ann@box"})
			w.ok(err)
			_, err = w.m.Release(5, "")
			w.ok(err)
		},
		"forget and prune": func() { k--; w.forget(step(k)); w.prune() },
	} {
		if what == "unforget" {
			k--
			w.forget(step(k))
			d := best(1, fn)
			t.Logf("%s: %v", what, d)
			continue
		}
		d := best(3, fn)
		t.Logf("%s: %v", what, d)
		if d > bound {
			t.Errorf("%s: %v, more than %v", what, d, bound)
		}
	}
	w.m.SetPolicy(policy(t, "keep-last=9000"))
	w.prune()
	d := best(3, func() {
		_, err := w.m.ForgetByPolicy(nil, false, true)
		w.ok(err)
	})
	t.Logf("looking through a scope of 9,000: %v", d)
	if d > 3*bound {
		t.Errorf("looking through a scope: %v", d)
	}
}

// So many tiny barriers are dropped in time that grows with their number. With
// STEPFS_BARRIERS=1000000 it is the million of the issue.
func TestManyBarriers(t *testing.T) {
	most := 100_000
	if s := os.Getenv("STEPFS_BARRIERS"); s != "" {
		most, _ = strconv.Atoi(s)
	}
	per := map[int]time.Duration{}
	for _, n := range []int{most / 10, most} {
		h := &hands{}
		w := newWorld(t, keeping(h, func(c *snapshot.Config) { c.ReadOnly, c.Tree = true, noPrune{c.Tree} }))
		w.record(1000, step)
		w.record(n, barrier)
		w.restart()
		h.mono.Add(int64(2 * time.Hour))
		passes := 0
		start := time.Now()
		p, err := w.m.PruneNow(w.ctx(), func(snapshot.Pruned) { passes++ })
		w.ok(err)
		took := time.Since(start)
		per[n] = took / time.Duration(n)
		if p.Done != n-100 {
			t.Errorf("%d of %d barriers dropped", p.Done, n)
		}
		idle := best(3, func() { w.prune() })
		t.Logf("%d barriers: %v, %v each, in %d transactions; a pass behind them %v", n, took, per[n], passes, idle)
		if idle > 100*time.Millisecond {
			t.Errorf("a pass with nothing to do takes %v", idle)
		}
		w.close()
	}
	if per[most] > 4*per[most/10]+20*time.Microsecond {
		t.Errorf("%v each of %d, %v each of %d", per[most], most, per[most/10], most/10)
	}
}
