package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/internal/schema"
	"stepfs/snapshot"
)

// frees stands between a manager and its tree, to see what it has freed.
type frees struct {
	snapshot.Tree
	calls  int
	marks  int  // expired snapshots at the last call
	synced bool // the journal held durably all of them
	fail   error
	w      *world
}

func (f *frees) Prune(context.Context, bool) (bool, error) {
	f.calls++
	f.marks = len(f.w.numbers(schema.PrefixExpired))
	crash := f.w.image()
	crash.mem = f.w.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0, RNG: rand.New(rand.NewPCG(1, 2))})
	crash.conf = func(c *snapshot.Config) { c.ReadOnly = true }
	crash.open()
	f.synced = len(crash.numbers(schema.PrefixExpired)) == f.marks
	_ = crash.stop(false)
	return f.calls%3 == 1, f.fail
}

// numbers gives the numbers of the keys of a kind.
func (w *world) numbers(prefix byte) (out []uint64) {
	w.t.Helper()
	it, err := w.eng.NewIter([]byte{prefix}, []byte{prefix + 1})
	w.ok(err)
	for ok := it.First(); ok; ok = it.Next() {
		n, err := schema.ParseNumbered(it.Key())
		w.ok(err)
		out = append(out, n)
	}
	w.ok(it.Close())
	return out
}

type collected struct {
	n    int
	fail error
}

func (c *collected) Collect(context.Context, bool, func(int64)) error { c.n++; return c.fail }

// What expired snapshots saw is freed after their expiry is durable, chunks
// after that; a failure is told and tried again.
func TestPruneFreesInOrder(t *testing.T) {
	f, col := &frees{}, &collected{}
	w := newWorld(t, keeping(&hands{}, func(c *snapshot.Config) {
		c.ReadOnly = true // no keeper but this test
		f.Tree = c.Tree
		c.Tree, c.Collector = f, col
	}))
	f.w = w
	for k := range 5 {
		w.step(fmt.Sprint(k))
	}
	w.forget("1", "3")
	p := w.prune()
	if p.Done != 2 || f.calls != 2 || f.marks != 2 || !f.synced || col.n != 1 {
		t.Errorf("pruned %+v; the tree was asked %d times, with %d marks (durable: %v), the chunks %d times", p, f.calls, f.marks, f.synced, col.n)
	}
	f.fail = errors.New("disk on fire")
	if _, err := w.m.PruneNow(w.ctx(), nil); !errors.Is(err, f.fail) || col.n != 1 {
		t.Errorf("%v, chunks %d times", err, col.n)
	}
	f.fail = nil
	w.prune()
	if col.n != 2 {
		t.Errorf("chunks %d times", col.n)
	}
}

// snapStates is what a store says of its snapshots.
type snapStates map[uint64]string

func (w *world) state() snapStates {
	w.t.Helper()
	s := snapStates{}
	is, err := w.m.Barriers(0, 1<<20)
	w.ok(err)
	for _, i := range is {
		s[i.Seq] = fmt.Sprintf("%s forgotten %v held %d spared %v", i.Path(), i.Forgotten != nil, len(i.Holds), i.Spared)
	}
	return s
}

// consistent checks that the keys of snapshots fit together.
func (w *world) consistent(what string) {
	w.t.Helper()
	records := w.numbers(schema.PrefixSnapshot)
	names := map[uint64]byte{}
	it, err := w.eng.NewIter([]byte{schema.PrefixName}, []byte{schema.PrefixName + 1})
	w.ok(err)
	for ok := it.First(); ok; ok = it.Next() {
		_, _, seq, err := schema.ParseNameKey(it.Key())
		w.ok(err)
		names[seq] = it.Value()[0]
	}
	w.ok(it.Close())
	for _, seq := range records {
		i, err := w.m.Get(seq)
		w.ok(err)
		flags, named := names[seq]
		if named != (i.Name != "") || named && (flags&schema.NameForgotten != 0) != (i.Forgotten != nil) {
			w.t.Errorf("%s: snapshot %d (%s): name key %v, flags %d", what, seq, i.ID(), named, flags)
		}
		delete(names, seq)
	}
	if len(names) > 0 {
		w.t.Errorf("%s: names of snapshots that are gone: %v", what, names)
	}
	for _, slot := range w.numbers(schema.PrefixSlot) {
		if _, err := w.m.BySlot(uint32(slot)); err != nil {
			w.t.Errorf("%s: slot %d: %v", what, slot, err)
		}
	}
	for _, seq := range append(w.numbers(schema.PrefixSlotOf), w.numbers(schema.PrefixExpired)...) {
		if there := slices.Contains(records, seq); there != (slices.Contains(w.numbers(schema.PrefixSlotOf), seq)) {
			w.t.Errorf("%s: snapshot %d is there: %v", what, seq, there)
		}
	}
	// latest is what reading all names says.
	var want snapshot.Info
	for _, seq := range records {
		if i, _ := w.m.Get(seq); i.Name != "" && i.Forgotten == nil {
			want = i
		}
	}
	if got, ok := w.m.Latest(""); ok != (want.Seq != 0) || got.Seq != want.Seq {
		w.t.Errorf("%s: latest is %d, want %d", what, got.Seq, want.Seq)
	}
}

// A crash at any point of a forget, a hold or an expiry leaves each snapshot as
// it was before the operation or as it is after; what was acknowledged stays.
func TestCrashWhileForgetting(t *testing.T) {
	p := policy(t, "keep-last=6", "keep-barriers=0s", "keep-barriers-last=2")
	conf := keeping(&hands{}, func(c *snapshot.Config) { c.ReadOnly, c.Policy, c.Tree = true, &p, noPrune{c.Tree} })
	w := newWorld(t, conf)
	rng := rand.New(rand.NewPCG(3, 4))
	step := 0
	any := func(forgotten bool) string {
		var names []string
		is, err := w.m.Barriers(0, 1<<20)
		w.ok(err)
		for _, i := range is {
			if i.Name != "" && (i.Forgotten != nil) == forgotten {
				names = append(names, i.ID())
			}
		}
		if len(names) == 0 {
			return "none"
		}
		return names[rng.IntN(len(names))]
	}
	seqOf := func(id string) uint64 {
		i, err := w.m.Resolve("", id)
		if err != nil {
			return 1 << 40
		}
		return i.Seq
	}
	ops := []struct {
		name string
		do   func()
	}{
		{"step", func() { step++; w.step(fmt.Sprint(step)) }},
		{"revision", func() { w.step(fmt.Sprint(max(1, step-1))) }},
		{"barrier", func() { w.barrier(w.put("f", fmt.Sprint(step, rng.Int()))) }},
		{"look", func() { _, _ = w.m.Slot(seqOf(any(false))) }},
		{"look at a forgotten one", func() { _, _ = w.m.Slot(seqOf(any(true))) }},
		{"hold", func() { _, _ = w.m.Hold(seqOf(any(false)), snapshot.Hold{By: "a"}) }},
		{"release", func() { _, _ = w.m.Release(seqOf(any(false)), "") }},
		{"forget", func() { _, _ = w.m.Forget(snapshot.Forget{Names: []string{any(false), any(false)}}) }},
		{"unforget", func() { _, _ = w.m.Unforget("", []string{any(true)}) }},
		{"policy", func() { _, err := w.m.ForgetByPolicy(nil, false, false); w.ok(err) }},
		{"prune", func() { _, err := w.m.PruneNow(w.ctx(), nil); w.ok(err) }},
	}
	images, killed := 0, 0
	for round := range 70 {
		op := ops[rng.IntN(len(ops))]
		if round < 12 {
			op = ops[round%4]
		}
		before := w.state()
		var crashes []*world
		var mu sync.Mutex
		hook := func() {
			mu.Lock()
			defer mu.Unlock()
			for _, percent := range []int{0, 100} {
				i := w.image()
				i.mem = w.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(5, 6))})
				crashes = append(crashes, i)
			}
		}
		w.onLog.Store(&hook)
		op.do()
		w.onLog.Store(nil)
		mu.Lock() // a segment that is prepared in the background may be about to call
		found := slices.Clone(crashes)
		mu.Unlock()
		after := w.state()
		w.consistent(op.name)
		if !maps.Equal(before, after) {
			killed++
		}
		for k, c := range append(found, w.image()) {
			images++
			c.open()
			what := fmt.Sprintf("round %d, %s, crash %d", round, op.name, k)
			c.consistent(what)
			got := c.state()
			for seq := range maps.Keys(merged(before, after, got)) {
				// A prune applies the policy first.
				between := strings.Replace(before[seq], "forgotten false", "forgotten true", 1)
				if got[seq] != before[seq] && got[seq] != after[seq] && (op.name != "prune" || got[seq] != between) {
					t.Errorf("%s: snapshot %d is %q; before %q, after %q", what, seq, got[seq], before[seq], after[seq])
				}
			}
			if k == len(crashes) && !maps.Equal(got, after) {
				t.Errorf("%s: after the acknowledgement %v, want %v", what, got, after)
			}
			_ = c.stop(false)
			c.m = nil
		}
		if t.Failed() {
			return
		}
	}
	if images < 200 || killed < 30 {
		t.Errorf("only %d crashes, %d operations that changed something", images, killed)
	}
	t.Logf("%d crashes, %d operations that changed something", images, killed)
}

func merged(ms ...snapStates) snapStates {
	out := snapStates{}
	for _, m := range ms {
		maps.Copy(out, m)
	}
	return out
}

// noPrune is a tree that frees nothing, so that the marks of expiry stay.
type noPrune struct{ snapshot.Tree }

func (noPrune) Prune(context.Context, bool) (bool, error) { return false, nil }

// A failing journal is told, ends the expiry and shows nothing half.
func TestExpiryOnAFailingDisk(t *testing.T) {
	w := newWorld(t, keeping(&hands{}, func(c *snapshot.Config) { c.Undo = 24 * time.Hour; c.Tree = noPrune{c.Tree} }))
	one := w.step("1")
	w.step("2")
	w.drain() // the storer reads a step that it stores, and then it stays
	w.forget("1")
	fail := errors.New("disk on fire")
	w.failSync.Store(&fail)
	if _, err := w.m.PruneNow(w.ctx(), nil); !errors.Is(err, fail) && (err == nil || !strings.Contains(err.Error(), "read-only")) {
		t.Errorf("%v", err)
	}
	if _, err := w.m.Unforget("", []string{one.ID()}); err == nil {
		t.Error("unforget on a store that is read-only went well")
	}
	w.failSync.Store(nil)
	w.kill()
	w.consistent("after the failure")
	w.wantSteps("", "[2 r1]")
	if i, err := w.m.Get(one.Seq); err == nil && i.Forgotten == nil {
		t.Errorf("%+v", i)
	}
}
