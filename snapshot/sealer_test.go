package snapshot_test

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stepfs/internal/schema"
	"stepfs/snapshot"
)

const quiet = 30 * time.Millisecond

func quietly(c *snapshot.Config) { c.SealQuiet = quiet }

// idle says whether no step waits any more.
func (w *world) idle() bool { return len(w.m.Waiting()) == 0 }

// settled waits until what was changed has been noticed and dealt with.
func (w *world) settledSteps() {
	w.t.Helper()
	w.m.Notice()
	until(w.t, "all steps are dealt with", w.idle)
}

func (w *world) steps(scope string) (names []string) {
	w.t.Helper()
	is, err := w.m.Steps(scope, "", 1000)
	w.ok(err)
	for _, i := range is {
		names = append(names, fmt.Sprintf("%s r%d", i.Name, i.Revision))
	}
	return names
}

func (w *world) wantSteps(scope, want string) {
	w.t.Helper()
	if got := fmt.Sprint(w.steps(scope)); got != want {
		w.t.Errorf("steps of %q: %s, want %s", scope, got, want)
	}
}

func TestQuietStepsAreSealed(t *testing.T) {
	w := newWorld(t, quietly)
	w.put("trainer.json", "root")
	w.put("checkpoint-100/model.pt", "100")
	w.put("checkpoint-100/sub/opt.pt", "100")
	w.put("epoch=3-step=77.ckpt", "77")
	w.put("runA/checkpoint-5/model.pt", "A5")
	w.put("checkpoint-200/global_step199/x", "nested: the outer one is the step")
	w.dir("checkpoint-300/empty")
	w.put("checkpoint-x/f", "no step")
	w.settledSteps()
	w.wantSteps("", "[100 r1 200 r1 77 r1]")
	w.wantSteps("runA", "[5 r1]")
	w.wantSteps("checkpoint-200", "[]")
	i, err := w.m.Resolve("runA", "5")
	w.ok(err)
	if i.Reason != "quiet" || i.Verdict != snapshot.VerdictUnverified || i.Explicit || i.Scope != "runA" || i.ScopeIno != w.dir("runA") {
		t.Errorf("step of a scope: %+v", i)
	}
	w.want(i.Seq, "runA/checkpoint-5/model.pt", "A5")
	if j, ok := w.m.Latest("runA"); !ok || j.Seq != i.Seq {
		t.Errorf("latest of the scope: %+v, %v", j, ok)
	}
	w.noFaults()
}

// A change after the seal makes a revision, once; what was not changed and
// what is deleted makes none.
func TestRevisionsAfterTheSeal(t *testing.T) {
	w := newWorld(t, quietly)
	w.put("step-1/a", "1")
	w.put("step-2/a", "1")
	w.put("step-3/a", "1")
	w.settledSteps()
	w.put("step-1/a", "2")
	w.remove("step-3")
	w.settledSteps()
	w.wantSteps("", "[1 r2 2 r1 3 r1]")
	revs, err := w.m.Revisions("", "1", 0)
	w.ok(err)
	w.want(revs[0].Seq, "step-1/a", "2")
	w.want(revs[1].Seq, "step-1/a", "1")
	w.barrier()
	w.settledSteps()
	w.wantSteps("", "[1 r2 2 r1 3 r1]")
	w.noFaults()
}

// A step that is open for writing waits, however long it is quiet; another
// one, and a log elsewhere, do not wait for it.
func TestOpenStepsWait(t *testing.T) {
	w := newWorld(t, quietly)
	log, logfh := w.openFile("train.log", unix.O_APPEND)
	w.pwrite(log, logfh, "x", 0)
	ino, fh := w.openFile("step-1/sub/a", 0)
	w.pwrite(ino, fh, "half", 0)
	w.put("step-1/b", "b")
	w.put("step-2/a", "a")
	w.m.Notice()
	until(t, "the other step is sealed", func() bool { return len(w.steps("")) > 0 })
	for k := range 3 {
		w.put("step-9/a", fmt.Sprint(k))
		w.m.Notice()
		until(t, "a later step is sealed", func() bool {
			revs, err := w.m.Revisions("", "9", 0)
			w.ok(err)
			return len(revs) == k+1
		})
	}
	w.wantSteps("", "[2 r1 9 r3]")
	w.pwrite(ino, fh, "whole", 0)
	w.closeFile(ino, fh)
	w.settledSteps()
	w.wantSteps("", "[1 r1 2 r1 9 r3]")
	i, err := w.m.Resolve("", "1")
	w.ok(err)
	w.want(i.Seq, "step-1/sub/a", "whole")
	w.closeFile(log, logfh)
	w.noFaults()
}

// A file that a killed process left open and never closed is in no snapshot:
// a step that holds nothing else is none.
func TestNothingToSeal(t *testing.T) {
	w := newWorld(t, quietly)
	ino, fh := w.openFile("step-1/a", 0)
	w.pwrite(ino, fh, "half", 0)
	w.tree.Release(ino, fh) // no flush: killed
	ino, fh = w.openFile("checkpoint_7.pt", 0)
	w.pwrite(ino, fh, "half", 0)
	w.tree.Release(ino, fh)
	w.settledSteps()
	w.wantSteps("", "[]")
	w.put("step-1/a", "whole")
	w.settledSteps()
	w.wantSteps("", "[1 r1]")
	w.noFaults()
}

// What waits to be sealed is not forgotten by a restart, nor by the daemon's
// death.
func TestWaitingStepsSurvive(t *testing.T) {
	for name, again := range map[string]func(w *world){"restart": (*world).restart, "kill": (*world).kill, "power cut": func(w *world) {
		w.barrier()
		w.powerCut()
	}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil) // very patient
			w.put("step-1/a", "1")
			w.put("run/step-2/b", "2")
			w.conf = quietly
			again(w)
			until(t, "both are sealed", func() bool { return len(w.steps("")) == 1 && len(w.steps("run")) == 1 })
			w.settledSteps()
			again(w)
			w.settledSteps()
			w.wantSteps("", "[1 r1]")
			w.wantSteps("run", "[2 r1]")
		})
	}
}

// Half of a step that is being deleted is not sealed.
func TestDeletionRestartsTheQuiet(t *testing.T) {
	w := newWorld(t, func(c *snapshot.Config) { c.SealQuiet = 400 * time.Millisecond })
	for k := range 40 {
		w.put(fmt.Sprintf("step-1/f%02d", k), "x")
	}
	w.m.Notice()
	dir := w.dir("step-1")
	for k := range 39 {
		time.Sleep(20 * time.Millisecond) // twice the quiet time in all
		w.ok(w.tree.Unlink(dir, fmt.Sprintf("f%02d", k)))
		w.wantSteps("", "[]")
	}
	w.remove("step-1")
	w.settledSteps()
	w.wantSteps("", "[]")
}

// TestNoSeal: with NoSeal nothing but what is asked for is a step.
func TestNoSeal(t *testing.T) {
	w := newWorld(t, func(c *snapshot.Config) { c.NoSeal, c.SealQuiet = true, quiet })
	w.put("checkpoint-1/model.bin", "weights")
	w.put("checkpoint-1/trainer_state.json", `{"global_step": 1}`)
	w.step("asked")
	time.Sleep(time.Second) // with sealing on it takes a third of that
	if is, err := w.m.Steps("", "", 10); err != nil || len(is) != 1 || is[0].Name != "asked" {
		t.Errorf("steps: %v, %v", is, err)
	}
}

// What is sealed is not recorded as waiting any more, whenever changes are
// resolved: an expired step would be sealed once more by the next daemon.
func TestSealedStepsAreNotRecorded(t *testing.T) {
	var w *world
	w = newWorld(t, func(c *snapshot.Config) {
		quietly(c)
		sealed := c.Events.Sealed
		c.Events.Sealed = func(i snapshot.Info) { // behind its commit; the sealer has not forgotten it yet
			w.m.Notice()
			sealed(i)
		}
	})
	w.put("checkpoint-100/model.pt", "100")
	w.settledSteps()
	w.wantSteps("", "[100 r1]")
	it, err := w.eng.NewIter([]byte{schema.PrefixCandidate}, []byte{schema.PrefixCandidate + 1})
	w.ok(err)
	if it.First() {
		t.Errorf("it is said to wait: %x", it.Key())
	}
	w.ok(it.Close())
	w.noFaults()
}
