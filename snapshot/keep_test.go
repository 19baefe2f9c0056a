package snapshot_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"stepfs/internal/schema"
	"stepfs/snapshot"
)

// hands are clocks that a test sets, and what the keeper reports.
type hands struct {
	wall, mono atomic.Int64 // ns besides the true time

	mu        sync.Mutex
	expired   []string
	forgotten []string
}

// keeping opens a store whose clocks the test sets and whose keeper waits for
// nothing but them.
func keeping(h *hands, more func(*snapshot.Config)) func(*snapshot.Config) {
	start := time.Now()
	return func(c *snapshot.Config) {
		c.Undo, c.UseGrace = -1, -1
		c.Now = func() time.Time { return time.Now().Add(time.Duration(h.wall.Load())) }
		c.Ticks = func() time.Duration { return time.Since(start) + time.Duration(h.mono.Load()) }
		c.Events.Expired = func(i snapshot.Info, why string) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.expired = append(h.expired, i.ID()+" "+why)
		}
		c.Events.Forgotten = func(i snapshot.Info) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.forgotten = append(h.forgotten, i.ID()+" "+i.Forgotten.Reason)
		}
		if more != nil {
			more(c)
		}
	}
}

func (h *hands) reported() (expired, forgotten string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.expired, "\n"), strings.Join(h.forgotten, "\n")
}

// byHand has forgotten snapshots stay until somebody asks for a prune.
func byHand(c *snapshot.Config) { c.Undo = 24 * time.Hour }

func (w *world) forget(names ...string) []snapshot.Info {
	w.t.Helper()
	is, err := w.m.Forget(snapshot.Forget{Names: names, By: "ann@box", Reason: "test"})
	w.ok(err)
	return is
}

// prune removes all that is forgotten and not read; what the storer has in hand
// at the moment, a moment later.
func (w *world) prune() (p snapshot.Pruned) {
	w.t.Helper()
	for range 200 {
		q, err := w.m.PruneNow(w.ctx(), nil)
		w.ok(err)
		p.Done, p.Left = p.Done+q.Done, q.Left
		if p.Left == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	return p
}

func (w *world) wantLatest(name string) {
	w.t.Helper()
	if i, ok := w.m.Latest(""); i.Name != name || ok != (name != "") {
		w.t.Errorf("latest is %q, want %q", i.Name, name)
	}
}

// gone checks that nothing is left of a snapshot's record.
func (w *world) gone(seq uint64) {
	w.t.Helper()
	if _, err := w.m.Get(seq); !errors.Is(err, snapshot.ErrNotExist) {
		w.t.Errorf("snapshot %d: %v", seq, err)
	}
}

func TestForgetAndUnforget(t *testing.T) {
	h := &hands{}
	w := newWorld(t, keeping(h, byHand))
	w.put("f", "1")
	one := w.step("1")
	w.put("f", "2")
	two, again := w.step("2"), w.step("2")
	check := func(steps, latest string) {
		t.Helper()
		for range 2 {
			w.wantSteps("", steps)
			w.wantLatest(latest)
			w.kill()
		}
	}
	check("[1 r1 2 r2]", "2")
	if is, err := w.m.Forget(snapshot.Forget{Names: []string{"2"}, DryRun: true}); err != nil || len(is) != 2 {
		t.Errorf("dry run: %v, %v", is, err)
	}
	check("[1 r1 2 r2]", "2")
	if is := w.forget(again.ID()); len(is) != 1 || is[0].Seq != again.Seq {
		t.Errorf("forgot %v", is)
	}
	check("[1 r1 2 r1]", "2")
	w.forget("2")
	check("[1 r1]", "1")
	for _, seq := range []uint64{two.Seq, again.Seq} {
		i, err := w.m.Resolve("", fmt.Sprintf("2@%d", seq))
		if err != nil || i.Forgotten == nil || i.Forgotten.By != "ann@box" || i.Forgotten.Reason != "forgotten by ann@box: test" {
			t.Errorf("by its exact name: %+v, %v", i, err)
		}
		w.want(seq, "f", "2")
	}
	if is, err := w.m.Forgotten(""); err != nil || len(is) != 2 {
		t.Errorf("forgotten: %v, %v", is, err)
	}
	w.forget("1")
	check("[]", "")
	if !slices.Contains(w.m.AllScopes(), "") {
		t.Error("the scope is gone before its snapshots are")
	}
	for name, want := range map[string]error{"2": snapshot.ErrForgotten, two.ID(): snapshot.ErrForgotten, "3": snapshot.ErrNotExist, "@99999": snapshot.ErrNotExist} {
		if _, err := w.m.Forget(snapshot.Forget{Names: []string{name}}); !errors.Is(err, want) {
			t.Errorf("forget %s: %v, want %v", name, err, want)
		}
	}
	back, err := w.m.Unforget("", []string{"2", one.ID()})
	if err != nil || len(back) != 3 {
		t.Errorf("unforget: %v, %v", back, err)
	}
	check("[1 r1 2 r2]", "2")
	if _, err := w.m.Unforget("", []string{"2"}); err == nil {
		t.Error("unforget of what is not forgotten went well")
	}
	w.forget("2")
	if p := w.prune(); p.Done != 2 || p.Left != 0 {
		t.Errorf("pruned %+v", p)
	}
	check("[1 r1]", "1")
	w.gone(two.Seq)
	w.gone(again.Seq)
	for _, name := range []string{two.ID(), fmt.Sprintf("@%d", two.Seq)} {
		if _, err := w.m.Unforget("", []string{name}); !errors.Is(err, snapshot.ErrPruned) {
			t.Errorf("unforget %s: %v", name, err)
		}
	}
	if _, err := w.m.Unforget("", []string{"2"}); !errors.Is(err, snapshot.ErrNotExist) {
		t.Errorf("unforget of what is gone: %v", err)
	}
	if i := w.step("2"); i.Revision != 1 {
		t.Errorf("the step once more: %+v", i)
	}
	expired, forgotten := h.reported()
	if strings.Count(expired, "forgotten by ann@box: test") != 2 || strings.Count(forgotten, "\n") != 4 {
		t.Errorf("reported expired:\n%s\nforgotten:\n%s", expired, forgotten)
	}
}

// All or none: one that is held, or not there, leaves the others alone.
func TestForgetIsAllOrNone(t *testing.T) {
	w := newWorld(t, keeping(&hands{}, byHand))
	for _, s := range []string{"1", "2", "3"} {
		w.step(s)
	}
	barrier := w.barrier(w.put("f", "x"))
	two, _ := w.m.Resolve("", "2")
	_, err := w.m.Hold(two.Seq, snapshot.Hold{By: "ann@box", Reason: "paper"})
	w.ok(err)
	for _, names := range [][]string{{"1", "2"}, {"1", "4"}, {"1", fmt.Sprintf("@%d", barrier)}} {
		if is, err := w.m.Forget(snapshot.Forget{Names: names}); err == nil {
			t.Errorf("forgot %v", is)
		}
	}
	w.wantSteps("", "[1 r1 2 r1 3 r1]")
}

func TestHold(t *testing.T) {
	h := &hands{}
	w := newWorld(t, keeping(h, nil))
	i := w.step("1")
	w.step("2")
	named, err := w.m.SnapshotAs(w.ctx(), "", "mine", "mkdir", 7, nil)
	w.ok(err)
	barrier := w.barrier(w.put("f", "held"))
	for _, seq := range []uint64{i.Seq, named.Seq, barrier} {
		_, err := w.m.Hold(seq, snapshot.Hold{By: "ann@box", UID: 7, Reason: "for the paper"})
		w.ok(err)
		_, err = w.m.Hold(seq, snapshot.Hold{Name: "eval", By: "bob@box"})
		w.ok(err)
	}
	w.kill()
	refused := func(err error) {
		t.Helper()
		var held *snapshot.HeldError
		if !errors.Is(err, snapshot.ErrHeld) || !errors.As(err, &held) || len(held.Holds) != 2 ||
			!strings.Contains(err.Error(), "held by ann@box since "+held.Holds[1].Time.UTC().Format("2006-01-02 15:04:05")) ||
			!strings.Contains(err.Error(), "for the paper") || !strings.Contains(err.Error(), "held by bob@box") {
			t.Errorf("%v", err)
		}
	}
	_, err = w.m.Forget(snapshot.Forget{Names: []string{"1"}})
	refused(err)
	refused(w.m.Remove(w.ctx(), "mine", 0))
	w.m.SetPolicy(policy(t, "keep-last=1", "keep-barriers=0s", "keep-barriers-last=1"))
	w.put("g", "newer")
	w.barrier()
	h.mono.Add(int64(1000 * time.Hour))
	w.prune()
	for _, seq := range []uint64{i.Seq, named.Seq, barrier} {
		if _, err := w.m.Get(seq); err != nil {
			t.Errorf("held snapshot %d: %v", seq, err)
		}
	}
	if gone, err := w.m.Expire("room", i.Seq, barrier); err != nil || len(gone) != 0 {
		t.Errorf("pressure took %v, %v", gone, err)
	}
	if _, err := w.m.Release(i.Seq, "nobody"); !errors.Is(err, snapshot.ErrNotExist) || !strings.Contains(err.Error(), "ann@box") {
		t.Errorf("release of another name: %v", err)
	}
	for _, seq := range []uint64{i.Seq, barrier} {
		_, err := w.m.Release(seq, "")
		w.ok(err)
	}
	w.prune()
	if _, err := w.m.Get(barrier); err != nil {
		t.Errorf("one of two holds was released: %v", err)
	}
	for _, seq := range []uint64{i.Seq, barrier} {
		_, err := w.m.Release(seq, "eval")
		w.ok(err)
	}
	w.prune()
	w.gone(i.Seq) // by the policy: it is not the last
	w.gone(barrier)
	if _, err := w.m.Release(named.Seq, "eval"); err != nil {
		t.Error(err)
	}
	if got, _ := w.m.Get(named.Seq); len(got.Holds) != 1 || got.Holds[0].UID != 7 {
		t.Errorf("%+v", got)
	}
	if _, err := w.m.Hold(i.Seq, snapshot.Hold{}); !errors.Is(err, snapshot.ErrNotExist) {
		t.Errorf("hold of what is gone: %v", err)
	}
	if _, err := w.m.Hold(named.Seq, snapshot.Hold{Reason: "a\nb"}); !errors.Is(err, snapshot.ErrBadName) {
		t.Errorf("a reason of two lines: %v", err)
	}
	w.noFaults()
}

// The policy acts by itself when a step is sealed or the policy changes.
func TestPolicyActs(t *testing.T) {
	h := &hands{}
	p := policy(t, "keep-last=2", "keep-every=300", "scope:run=keep-all")
	w := newWorld(t, keeping(h, func(c *snapshot.Config) { c.Policy = &p }))
	w.dir("run")
	for k := 1; k <= 6; k++ {
		w.step(fmt.Sprint(k * 100))
		_, err := w.m.Snapshot(w.ctx(), "run", fmt.Sprint(k), "xattr", nil)
		w.ok(err)
	}
	want := func(n int) {
		t.Helper()
		until(t, "what the policy does not keep is gone", func() bool {
			is, err := w.m.Barriers(0, 1000)
			w.ok(err)
			return len(is) == n
		})
	}
	want(3 + 6)
	w.wantSteps("", "[300 r1 500 r1 600 r1]")
	w.wantSteps("run", "[1 r1 2 r1 3 r1 4 r1 5 r1 6 r1]")
	w.m.SetPolicy(policy(t, "keep-last=1"))
	want(2)
	w.wantSteps("", "[600 r1]")
	w.wantSteps("run", "[6 r1]")
	w.wantLatest("600")
	for _, why := range []string{"100@1 expired: not kept by keep-last 2, keep-every 300", "expired: not kept by keep-last 1"} {
		until(t, "it is reported that "+why, func() bool { // behind the record
			expired, _ := h.reported()
			return strings.Contains(expired, why)
		})
	}
	w.noFaults()
}

// What was brought back no policy forgets again, until somebody does.
func TestUnforgetHoldsAgainstPolicy(t *testing.T) {
	p := policy(t, "keep-last=1")
	w := newWorld(t, keeping(&hands{}, func(c *snapshot.Config) { c.Policy, c.Undo = &p, 24*time.Hour }))
	one := w.step("1")
	w.step("2")
	forgotten := func() bool { i, err := w.m.Get(one.Seq); return err == nil && i.Forgotten != nil }
	until(t, "step 1 is forgotten", forgotten)
	_, err := w.m.Unforget("", []string{"1"})
	w.ok(err)
	w.step("3")
	until(t, "step 2 is forgotten", func() bool { return len(w.steps("")) == 2 })
	w.wantSteps("", "[1 r1 3 r1]")
	w.restart()
	all, err := w.m.ForgetByPolicy(nil, false, false)
	if err != nil || len(all) != 2 || !all[1].Keep || !strings.Contains(all[1].Why, "unforget") {
		t.Errorf("%+v, %v", all, err)
	}
	w.forget("1")
	w.wantSteps("", "[3 r1]")
}

// A dry run by policy changes nothing.
func TestPolicyDryRun(t *testing.T) {
	w := newWorld(t, keeping(&hands{}, nil))
	for k := range 5 {
		w.step(fmt.Sprint(k))
	}
	w.ok(w.stop(true))
	p := policy(t, "keep-last=2")
	w.conf = keeping(&hands{}, func(c *snapshot.Config) { c.Policy, c.ReadOnly = &p, true })
	w.open()
	all, err := w.m.ForgetByPolicy(nil, false, true)
	w.ok(err)
	keep := 0
	for _, d := range all {
		if d.Keep {
			keep++
		}
	}
	if len(all) != 5 || keep != 2 || len(w.steps("")) != 5 {
		t.Errorf("%d decisions, %d to keep, steps %v", len(all), keep, w.steps(""))
	}
	all, err = w.m.ForgetByPolicy(new(""), false, false)
	w.ok(err)
	if w.wantSteps("", "[3 r1 4 r1]"); len(all) != 5 {
		t.Errorf("%d decisions", len(all))
	}
	if p := w.prune(); p.Done != 3 { // also where no keeper runs
		t.Errorf("pruned %+v", p)
	}
}

// Who reads a snapshot keeps it, and its plain name, from being pruned.
func TestReadersKeep(t *testing.T) {
	h := &hands{}
	w := newWorld(t, keeping(h, func(c *snapshot.Config) { c.UseGrace = time.Minute }))
	one := w.step("1")
	release := w.m.Pin(one.Seq)
	w.forget("1")
	h.mono.Add(int64(time.Hour))
	if p := w.prune(); p.Done != 0 || p.Left != 1 {
		t.Errorf("pruned %+v", p)
	}
	if i, err := w.m.Reach("", "1"); err != nil || i.Seq != one.Seq {
		t.Errorf("the reader's path: %+v, %v", i, err)
	}
	if _, err := w.m.Resolve("", "1"); !errors.Is(err, snapshot.ErrNotExist) {
		t.Errorf("for everybody else: %v", err)
	}
	again := w.step("1")
	if i, err := w.m.Reach("", "1"); err != nil || i.Seq != again.Seq {
		t.Errorf("the newer revision: %+v, %v", i, err)
	}
	release()
	release()
	w.prune()
	if _, err := w.m.Get(one.Seq); err != nil {
		t.Errorf("closed a moment ago: %v", err)
	}
	h.mono.Add(int64(50 * time.Second))
	w.m.Use(one.Seq)
	h.mono.Add(int64(50 * time.Second))
	w.prune()
	if _, err := w.m.Get(one.Seq); err != nil {
		t.Errorf("looked into a moment ago: %v", err)
	}
	h.mono.Add(int64(11 * time.Second))
	w.prune()
	w.gone(one.Seq)
	w.wantSteps("", "[1 r2]")
	w.noFaults()
}

// A prune that races with readers: who has pinned it and finds it, keeps it.
func TestPinAgainstPrune(t *testing.T) {
	w := newWorld(t, keeping(&hands{}, byHand))
	for round := range 200 {
		i := w.step(fmt.Sprint(round))
		w.forget(i.Name)
		var wg sync.WaitGroup
		wg.Add(1)
		go func() { defer wg.Done(); _, err := w.m.PruneNow(w.ctx(), nil); w.fault("prune", err) }()
		release := w.m.Pin(i.Seq)
		_, err := w.m.Get(i.Seq)
		wg.Wait()
		if _, now := w.m.Get(i.Seq); err == nil && now != nil {
			t.Fatalf("round %d: %v under a pin", round, now)
		}
		release()
	}
	w.noFaults()
}

func (w *world) barriers(n int) (seqs []uint64) {
	w.t.Helper()
	for range n {
		ino := w.put("b", fmt.Sprint(time.Now()))
		seqs = append(seqs, w.barrier(ino))
	}
	return seqs
}

func (w *world) left(seqs []uint64) (n int) {
	for _, seq := range seqs {
		if _, err := w.m.Get(seq); err == nil {
			n++
		}
	}
	return n
}

// Barriers are kept for their time, and beyond that the newest.
func TestBarriersExpire(t *testing.T) {
	h := &hands{}
	p := policy(t, "keep-barriers=1h", "keep-barriers-last=10")
	w := newWorld(t, keeping(h, func(c *snapshot.Config) { c.Policy = &p }))
	w.step("1")
	named, err := w.m.Snapshot(w.ctx(), "", "mine", "mkdir", nil)
	w.ok(err)
	old := w.barriers(600)
	h.mono.Add(int64(59 * time.Minute))
	young := w.barriers(5)
	w.prune()
	if n := w.left(old); n != len(old) {
		t.Errorf("%d of %d are left before their time", n, len(old))
	}
	h.mono.Add(int64(2 * time.Minute))
	if p := w.prune(); p.Done != 595 {
		t.Errorf("%+v", p)
	}
	if n := w.left(old[:595]); n != 0 {
		t.Errorf("%d old barriers are left", n)
	}
	if n := w.left(old[595:]) + w.left(young); n != 10 {
		t.Errorf("%d of the newest 10 are left", n)
	}
	h.mono.Add(int64(1000 * time.Hour))
	for range 3 {
		w.prune()
		w.restart()
	}
	if n := w.left(old[595:]) + w.left(young); n != 10 {
		t.Errorf("%d of the newest 10 are left after restarts", n)
	}
	w.barriers(3)
	w.prune()
	if n := w.left(old[595:]) + w.left(young); n != 7 {
		t.Errorf("%d of the older 10 are left after three more", n)
	}
	// A name that is removed leaves a barrier, an old one.
	if _, err := w.m.Get(named.Seq); err != nil {
		t.Error(err)
	}
	w.ok(w.m.Remove(w.ctx(), "mine", 0))
	w.prune()
	w.gone(named.Seq)
	w.wantSteps("", "[1 r1]")
	if expired, _ := h.reported(); !strings.Contains(expired, "expired: barrier older than 1h and not among the newest 10") {
		t.Errorf("reported: %s", brief(expired))
	}
	w.noFaults()
}

// Wall clocks that jump expire nothing, and time without a daemon does not count.
func TestBarriersAndClocks(t *testing.T) {
	h := &hands{}
	p := policy(t, "keep-barriers=1h", "keep-barriers-last=0")
	w := newWorld(t, keeping(h, func(c *snapshot.Config) { c.Policy = &p }))
	old := w.barriers(3)
	for _, jump := range []time.Duration{10 * 365 * 24 * time.Hour, -20 * 365 * 24 * time.Hour} {
		h.wall.Add(int64(jump))
		w.prune()
		w.restart()
		w.prune()
		old = append(old, w.barriers(1)...)
	}
	if n := w.left(old); n != len(old) {
		t.Fatalf("%d of %d are left after the clock jumped", n, len(old))
	}
	h.mono.Add(int64(40 * time.Minute))
	w.prune() // samples the clock
	w.ok(w.stop(false))
	h.mono.Add(int64(1000 * time.Hour)) // nobody has it open
	w.open()
	w.prune()
	if n := w.left(old); n != len(old) {
		t.Fatalf("%d of %d are left after a pause", n, len(old))
	}
	h.mono.Add(int64(19 * time.Minute))
	w.prune()
	if n := w.left(old); n != len(old) {
		t.Fatalf("%d of %d are left after 59 minutes", n, len(old))
	}
	h.mono.Add(int64(2 * time.Minute))
	w.prune()
	if n := w.left(old); n != 0 {
		t.Errorf("%d are left after an hour", n)
	}
	w.barriers(1)
	w.noFaults()
}

// The clock keeps one sample, whatever the time.
func TestClockSamples(t *testing.T) {
	h := &hands{}
	w := newWorld(t, keeping(h, nil))
	for range 20 {
		h.mono.Add(int64(10 * time.Minute))
		w.prune()
	}
	w.kill()
	it, err := w.eng.NewIter([]byte{schema.PrefixClock}, []byte{schema.PrefixClock + 1})
	w.ok(err)
	n := 0
	for ok := it.First(); ok; ok = it.Next() {
		n++
	}
	w.ok(it.Close())
	if n != 1 {
		t.Errorf("%d samples", n)
	}
	w.ok(w.stop(true))
	w.open()
	i, err := w.m.Get(w.barriers(1)[0])
	w.ok(err)
	if i.Clock < 200*time.Minute || i.Clock > 220*time.Minute {
		t.Errorf("the store's clock stands at %v", i.Clock)
	}
}

// A prune returns once what only the forgotten saw is freed, also of a file that
// the reaper lets rest, since it took long to look at.
func TestPruneFreesWhatRests(t *testing.T) {
	w := newWorld(t, keeping(&hands{}, byHand))
	w.put("f", noise(1, 100<<10))
	w.step("1")
	queue := func() (n int) {
		it, err := w.eng.NewIter([]byte{schema.PrefixReap}, []byte{schema.PrefixReap + 1})
		w.ok(err)
		for ok := it.First(); ok; ok = it.Next() {
			n++
		}
		w.ok(it.Close())
		return n
	}
	slow := func() { time.Sleep(20 * time.Millisecond) } // then it rests twenty times as long
	w.onLog.Store(&slow)
	w.remove("f")
	until(t, "the reaper has looked", func() bool { return queue() == 0 })
	w.onLog.Store(nil)
	w.barrier()
	w.forget("1")
	w.prune()
	if r, err := w.m.PruneReport(); err != nil || r.Staged < 100<<10 {
		t.Errorf("its staging file is there still: %+v, %v", r, err)
	}
	w.noFaults()
}

// An interrupted prune leaves whole snapshots, and the rest is done later.
func TestPruneInterrupted(t *testing.T) {
	w := newWorld(t, keeping(&hands{}, byHand))
	for k := range 600 {
		w.step(fmt.Sprint(k))
	}
	var names []string
	for k := range 590 {
		names = append(names, fmt.Sprint(k))
	}
	w.forget(names...)
	ctx, cancel := context.WithCancel(w.ctx())
	var reports []snapshot.Pruned
	p, err := w.m.PruneNow(ctx, func(p snapshot.Pruned) { reports = append(reports, p); cancel() })
	if !errors.Is(err, context.Canceled) || len(reports) != 1 || p.Done == 0 || p.Left == 0 || p.Done+p.Left != 590 {
		t.Errorf("interrupted: %+v, %v, reports %v", p, err, reports)
	}
	if q := w.prune(); q.Done != p.Left || q.Left != 0 {
		t.Errorf("the rest: %+v", q)
	}
	if n := len(w.steps("")); n != 10 {
		t.Errorf("%d steps are left", n)
	}
	w.noFaults()
}

// A step that expired while its live directory stays is not sealed again, as
// the latest of all, by the daemon after a crash.
func TestExpiredStepsAreNotRediscovered(t *testing.T) {
	p := policy(t, "keep-last=1")
	w := newWorld(t, keeping(&hands{}, func(c *snapshot.Config) { quietly(c); c.Policy = &p }))
	for _, step := range []string{"100", "200", "300"} {
		w.put("checkpoint-"+step+"/model.pt", step)
		w.settledSteps()
	}
	until(t, "older steps are gone", func() bool { return len(w.steps("")) == 1 })
	w.prune()
	w.m.Notice()
	time.Sleep(2 * quiet)
	w.restart() // a sample of the clock, and of what was noticed
	w.put("checkpoint-400/model.pt", "changed a moment before the crash")
	w.kill()
	w.mu.Lock()
	known := len(w.sealed)
	w.mu.Unlock()
	until(t, "what was not noticed is sealed", func() bool { i, _ := w.m.Latest(""); return i.Name == "400" })
	w.settledSteps()
	time.Sleep(5 * quiet)
	w.prune()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, i := range w.sealed[known:] {
		if i.Name != "400" {
			t.Errorf("%s was sealed again", i.ID())
		}
	}
	w.wantLatest("400")
}

// By itself a prune leaves time to undo a forget, also over a restart.
func TestTimeToUndo(t *testing.T) {
	h := &hands{}
	w := newWorld(t, keeping(h, func(c *snapshot.Config) { c.Undo, c.ReadOnly = 10*time.Minute, true }))
	i := w.step("1")
	w.forget("1")
	pass := func(want int) {
		t.Helper()
		if n, err := w.m.Keep(w.ctx()); err != nil || n != want {
			t.Errorf("%d pruned, %v; want %d", n, err, want)
		}
	}
	pass(0)
	h.mono.Add(int64(9 * time.Minute))
	pass(0)
	w.ok(w.stop(true))
	h.mono.Add(int64(time.Hour)) // while nobody could have undone it
	w.conf = keeping(h, func(c *snapshot.Config) { c.Undo = 10 * time.Minute })
	w.open()
	pass(0)
	h.mono.Add(int64(2 * time.Minute))
	until(t, "it is pruned", func() bool { _, err := w.m.Keep(w.ctx()); w.ok(err); _, err = w.m.Get(i.Seq); return err != nil })
}

// A name that was forgotten is free again; the scope stays while one of them is there.
func TestForgottenNamesAreFree(t *testing.T) {
	w := newWorld(t, keeping(&hands{}, byHand))
	w.dir("run")
	named := func() (snapshot.Info, error) { return w.m.Snapshot(w.ctx(), "run", "mine", "mkdir", nil) }
	first, err := named()
	w.ok(err)
	if _, err := named(); !errors.Is(err, snapshot.ErrExist) {
		t.Errorf("the name twice: %v", err)
	}
	_, err = w.m.Forget(snapshot.Forget{Scope: "run", Names: []string{"mine"}})
	w.ok(err)
	second, err := named()
	if err != nil || second.Revision != 2 {
		t.Fatalf("the name again: %+v, %v", second, err)
	}
	w.ok(w.m.Remove(w.ctx(), "run/mine", 0))
	for range 2 {
		if got := w.m.Scopes(""); !slices.Equal(got, []string{"run"}) {
			t.Errorf("scopes %q", got)
		}
		w.restart()
	}
	w.prune()
	w.gone(first.Seq)
	if got := w.m.Scopes(""); len(got) != 0 {
		t.Errorf("scopes %q after the last name is gone", got)
	}
}

// A reader that comes while its snapshot is being removed does not find it.
func TestReaderComesTooLate(t *testing.T) {
	w := newWorld(t, keeping(&hands{}, func(c *snapshot.Config) { byHand(c); c.ReadOnly = true }))
	i := w.step("1")
	_, err := w.m.Keep(w.ctx()) // samples the clock
	w.ok(err)
	w.forget("1")
	var hidden atomic.Bool
	hook := func() {
		_, err := w.m.Get(i.Seq)
		if _, there := w.eng.Get(schema.Numbered(schema.PrefixSnapshot, i.Seq)); there == nil && errors.Is(err, snapshot.ErrNotExist) {
			hidden.Store(true)
		}
	}
	w.onLog.Store(&hook)
	w.prune()
	w.onLog.Store(nil)
	w.gone(i.Seq)
	if !hidden.Load() {
		t.Error("it could be found until it was gone")
	}
}
