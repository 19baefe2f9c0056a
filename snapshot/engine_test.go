package snapshot_test

import (
	"context"
	"fmt"
	"math/rand"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stepfs/fs/stage"
	"stepfs/snapshot"
	"stepfs/snapshot/inspect"
)

// eagerly seals what is committed at once, and what is quiet soon.
func eagerly(quiet time.Duration) func(c *snapshot.Config) {
	return func(c *snapshot.Config) { c.SealQuiet, c.SealGrace = quiet, 30*time.Millisecond }
}

// never is a quiet time that no test waits for.
const never = time.Hour

// move is rename(2).
func (w *world) move(from, to string) {
	w.t.Helper()
	fd, fn := splitPath(from)
	td, tn := splitPath(to)
	w.ok(w.tree.Rename(w.dir(fd), fn, w.dir(td), tn, 0))
}

// resize is truncate(2).
func (w *world) resize(path string, size int64) {
	w.t.Helper()
	a, err := w.tree.Find(path)
	w.ok(err)
	_, err = w.tree.SetAttr(a.Ino, stage.SetAttr{Size: &size})
	w.ok(err)
}

// play plays a sequence, one operation a word: "path=data" writes a file,
// "from>to" moves, "-path" removes, "path/" makes a directory.
func (w *world) play(ops string) {
	w.t.Helper()
	for _, op := range strings.Fields(ops) {
		path, data, put := strings.Cut(op, "=~")
		from, to, move := strings.Cut(op, ">")
		switch {
		case put:
			w.put(path, data)
		case move:
			w.move(from, to)
		case op[0] == '-':
			w.remove(op[1:])
		case strings.HasSuffix(op, "/"):
			w.dir(op[:len(op)-1])
		}
	}
}

// sealedAs waits until a step has so many revisions, and gives the newest.
func (w *world) sealedAs(scope, step string, revision int) (i snapshot.Info) {
	w.t.Helper()
	until(w.t, fmt.Sprintf("step %s of %q has revision %d", step, scope, revision), func() bool {
		var err error
		i, err = w.m.Resolve(scope, step)
		return err == nil && i.Revision >= revision
	})
	if i.Revision != revision {
		w.t.Errorf("step %s of %q has revision %d, want %d", step, scope, i.Revision, revision)
	}
	return i
}

func (w *world) wantStep(i snapshot.Info, rule, reason, verdict string) {
	w.t.Helper()
	if i.Rule != rule || i.Reason != reason || i.Verdict != verdict {
		w.t.Errorf("%s: %s, %s, %s: %q; want %s, %s, %s", i.ID(), i.Rule, i.Reason, i.Verdict, i.Findings, rule, reason, verdict)
	}
}

func (w *world) wantLatestOf(scope, id string) {
	w.t.Helper()
	if i, ok := w.m.Latest(scope); !ok || i.Name != id && i.ID() != id {
		w.t.Errorf("latest of %q is %s (%v), want %s", scope, i.ID(), ok, id)
	}
}

// sequences are how each framework writes step N, and what comes of it; X is
// its data. integration/frameworks plays the real system calls.
var sequences = []struct{ rule, reason, step, play string }{
	{"torch-save", "commit-file", "N", "model_step_N.pt=~X"},
	{"renamed-file", "rename", "N", "model.tmp=~X model.tmp>checkpoint-N.pt"},
	{"torchtitan", "rename", "N", "step-N/__0_0.distcp=~X step-N/__1_0.distcp=~X step-N/.metadata.tmp=~X step-N/.metadata.tmp>step-N/.metadata"},
	{"torch-dcp", "rename", "N", "checkpoint-N/__0_0.distcp=~X checkpoint-N/.metadata.tmp=~X checkpoint-N/.metadata.tmp>checkpoint-N/.metadata"},
	{"hf-trainer", "commit-file", "N", `checkpoint-N/model.safetensors=~X checkpoint-N/optimizer.pt=~X checkpoint-N/trainer_state.json=~{"global_step":N}`},
	{"safetensors", "rename", "N", "tmpabc=~X tmpabc>step_N.safetensors"},
	{"safetensors-in-place", "commit-file", "N", "step_N.safetensors=~X"},
	{"lightning", "commit-file", "N", "epoch=1-step=N.ckpt=~X"},
	{"lightning-fsdp", "commit-file", "N", "a-step=N.ckpt/__0_0.distcp=~X a-step=N.ckpt/m.tmp=~X a-step=N.ckpt/m.tmp>a-step=N.ckpt/.metadata a-step=N.ckpt/meta.pt=~X"},
	{"deepspeed", "tracker", "N", "global_stepN/mp_rank_00_model_states.pt=~X global_stepN/zero_pp_rank_0_mp_rank_00_optim_states.pt=~X latest=~global_stepN"},
	{"megatron", "tracker", "N", "iter_000N/__0_0.distcp=~X iter_000N/.metadata=~X latest_checkpointed_iteration.txt=~N"},
	{"megatron", "tracker", "release", "release/common.pt=~XN latest_checkpointed_iteration.txt=~release"},
	{"nvrx-local", "rename", "N", "0/iter_00N_0_local.dirty.pt=~X 1/iter_00N_1_local.dirty.pt=~X 0/iter_00N_0_local.dirty.pt>0/iter_00N_0_local.pt 1/iter_00N_1_local.dirty.pt>1/iter_00N_1_local.pt"},
	{"orbax", "rename", "N", "N.orbax-checkpoint-tmp/d/x=~X N.orbax-checkpoint-tmp/commit_success.txt=~X N.orbax-checkpoint-tmp>N"},
	{"nemo", "commit-file", "N", "a-step=N-unfinished=~X a-step=N/weights/x=~X -a-step=N-unfinished"},
	{"hf-deepspeed", "commit-file", "N", `checkpoint-N/global_stepN/mp_rank_00_model_states.pt=~X checkpoint-N/latest=~global_stepN checkpoint-N/trainer_state.json=~{"global_step":N}`},
	{"hf-fsdp", "commit-file", "N", `checkpoint-N/pytorch_model_fsdp_0/__0_0.distcp=~X checkpoint-N/pytorch_model_fsdp_0/.metadata=~X checkpoint-N/trainer_state.json=~{"global_step":N}`},
	{"renamed-directory", "rename", "N", "tmp-checkpoint-N/x=~X tmp-checkpoint-N>checkpoint-N"},
}

// Each framework's step is sealed at its commit point, once, and stays as it
// was when the job goes on to write it again.
func TestSequences(t *testing.T) {
	w := newWorld(t, eagerly(never))
	for k, q := range sequences {
		scope := fmt.Sprint("run", k)
		at := func(n, data string) string {
			ops := strings.NewReplacer("N", n, "=~X", "=~"+data).Replace(q.play)
			var out []string
			for _, op := range strings.Fields(ops) {
				op = scope + "/" + op
				op = strings.ReplaceAll(op, ">", ">"+scope+"/")
				if rest, ok := strings.CutPrefix(op, scope+"/-"); ok {
					op = "-" + scope + "/" + rest
				}
				out = append(out, op)
			}
			return strings.Join(out, " ")
		}
		step := strings.ReplaceAll(q.step, "N", "7")
		w.play(at("7", "one"))
		i := w.sealedAs(scope, step, 1)
		w.wantStep(i, q.rule, q.reason, snapshot.VerdictComplete)
		w.wantLatestOf(scope, step)
		want := describe(t, w.tree.At(i.Seq), i.ScopeIno)
		if dir := map[string]string{"orbax": "/7", "renamed-directory": "/checkpoint-7"}[q.rule]; dir != "" {
			w.remove(scope + dir) // nobody renames over what is there
		}
		w.play(at("7", "two"))
		w.wantStep(w.sealedAs(scope, step, 2), q.rule, q.reason, snapshot.VerdictComplete)
		same(t, q.rule, want, describe(t, w.tree.At(i.Seq), i.ScopeIno))
	}
	w.noFaults()
}

// Cut off before its last operation, no sequence makes a complete step, and
// the one before stays the latest.
func TestSequencesCutOff(t *testing.T) {
	w := newWorld(t, eagerly(200*time.Millisecond))
	for k, q := range sequences {
		scope := fmt.Sprint("run", k)
		if q.step != "N" {
			continue
		}
		prefix := func(n string) (ops []string) {
			for _, op := range strings.Fields(strings.NewReplacer("N", n, "=~X", "=~data").Replace(q.play)) {
				if rest, ok := strings.CutPrefix(op, "-"); ok {
					op = "-" + scope + "/" + rest
				} else {
					op = scope + "/" + strings.ReplaceAll(op, ">", ">"+scope+"/")
				}
				ops = append(ops, op)
			}
			return ops
		}
		w.play(strings.Join(prefix("7"), " "))
		w.sealedAs(scope, "7", 1)
		ops := prefix("8")
		w.play(strings.Join(ops[:len(ops)-1], " "))
	}
	w.settledSteps()
	for k, q := range sequences {
		scope := fmt.Sprint("run", k)
		if q.step != "N" {
			continue
		}
		w.wantLatestOf(scope, "7")
		if i, err := w.m.Resolve(scope, "8"); err == nil && i.Verdict != snapshot.VerdictPartial {
			t.Errorf("%s, cut off: %s, %q", q.rule, i.Verdict, i.Findings)
		}
	}
	w.noFaults()
}

// While a file of the step is open, or has a range that nobody wrote, its
// commit point seals nothing.
func TestCommittedAndNotWhole(t *testing.T) {
	w := newWorld(t, eagerly(never))
	w.put("step-1/__0_0.distcp", "x")
	ino, fh := w.openFile("step-1/__1_0.distcp", 0)
	w.pwrite(ino, fh, "half", 0)
	w.play("step-1/.m=~m step-1/.m>step-1/.metadata")
	w.put("step-2/__0_0.distcp", "x")
	w.resize("step-2/__0_0.distcp", 1<<20)
	w.play("step-2/.m=~m step-2/.m>step-2/.metadata")
	w.play("step-3/__0_0.distcp=~x step-3/.m=~m step-3/.m>step-3/.metadata")
	w.sealedAs("", "3", 1)
	w.wantSteps("", "[3 r1]")
	w.pwrite(ino, fh, "whole, now", 0)
	w.closeFile(ino, fh)
	i := w.sealedAs("", "1", 1)
	w.want(i.Seq, "step-1/__1_0.distcp", "whole, now")
	w.wantSteps("", "[1 r1 3 r1]")
	ino, fh = w.openFile("step-2/__0_0.distcp", 0)
	w.pwrite(ino, fh, text("y", 1<<20), 0)
	w.closeFile(ino, fh)
	w.play("step-2/.m=~m step-2/.m>step-2/.metadata")
	w.wantStep(w.sealedAs("", "2", 1), "torchtitan", "rename", snapshot.VerdictComplete)
	w.noFaults()
}

// A range that was never written makes a quiet step partial, until it is.
func TestUnwrittenRange(t *testing.T) {
	w := newWorld(t, eagerly(80*time.Millisecond))
	w.put("checkpoint-1.pt", "x")
	w.resize("checkpoint-1.pt", 1<<20)
	i := w.sealedAs("", "1", 1)
	if i.Verdict != snapshot.VerdictPartial || len(i.Findings) != 1 || !strings.Contains(i.Findings[0], "not written") {
		t.Errorf("%s: %q", i.Verdict, i.Findings)
	}
	if _, ok := w.m.Latest(""); ok {
		t.Error("a partial step is the latest")
	}
	w.put("checkpoint-1.pt", text("y", 1<<20))
	w.wantStep(w.sealedAs("", "1", 2), "torch-save", "commit-file", snapshot.VerdictComplete)
	w.wantLatestOf("", "1")
	w.noFaults()
}

// What comes a moment after the commit point is in the step; what comes later
// makes a revision of the same verdict; what overwrites makes a partial one.
func TestStragglers(t *testing.T) {
	w := newWorld(t, func(c *snapshot.Config) { c.SealQuiet, c.SealGrace = 300*time.Millisecond, 200*time.Millisecond })
	const commit = `checkpoint-5/trainer_state.json=~{"global_step":5}`
	w.play("checkpoint-5/optimizer.pt=~o " + commit + " checkpoint-5/rng_state_1.pth=~r")
	i := w.sealedAs("", "5", 1)
	w.want(i.Seq, "checkpoint-5/rng_state_1.pth", "r")
	w.put("checkpoint-5/tokenizer.json", "{}")
	w.wantStep(w.sealedAs("", "5", 2), "hf-trainer", "quiet", snapshot.VerdictComplete)
	w.put("checkpoint-5/optimizer.pt", "torn")
	w.wantStep(w.sealedAs("", "5", 3), "hf-trainer", "quiet", snapshot.VerdictPartial)
	w.wantLatestOf("", fmt.Sprintf("5@%d", w.revision("5", 2).Seq))
	w.play(commit)
	w.wantStep(w.sealedAs("", "5", 4), "hf-trainer", "commit-file", snapshot.VerdictComplete)
	w.noFaults()
}

func (w *world) revision(step string, n int) (out snapshot.Info) {
	w.t.Helper()
	revs, err := w.m.Revisions("", step, 0)
	w.ok(err)
	for _, i := range revs {
		if i.Revision == n {
			out = i
		}
	}
	return out
}

// A job that goes on to something else at once leaves the step as it was at
// its commit point.
func TestGoneAtOnce(t *testing.T) {
	w := newWorld(t, func(c *snapshot.Config) { c.SealQuiet, c.SealGrace = never, 10*time.Second })
	for k, hurt := range []func(){
		func() { w.remove("step-1") },
		func() { w.put("step-2/__0_0.distcp", "overwritten") },
		func() { w.put("step-3/x", "x"); w.move("step-3/x", "step-3/__0_0.distcp") },
	} {
		n := fmt.Sprint(k + 1)
		w.play(strings.ReplaceAll("step-N/__0_0.distcp=~x step-N/.m=~m step-N/.m>step-N/.metadata", "N", n))
		until(t, "the step is cut", func() bool { return w.m.Sealing() })
		hurt()
		i := w.sealedAs("", n, 1)
		w.wantStep(i, "torchtitan", "rename", snapshot.VerdictComplete)
		w.want(i.Seq, "step-"+n+"/__0_0.distcp", "x")
	}
	w.noFaults()
}

// The same bytes once more make no revision, but the step is the latest; a
// change of modes alone makes nothing.
func TestSameBytesAgain(t *testing.T) {
	w := newWorld(t, eagerly(50*time.Millisecond))
	w.put("checkpoint-1.pt", "one")
	w.sealedAs("", "1", 1)
	w.put("checkpoint-2.pt", "two")
	w.sealedAs("", "2", 1)
	mode := uint32(0o600)
	a, err := w.tree.Find("checkpoint-1.pt")
	w.ok(err)
	_, err = w.tree.SetAttr(a.Ino, stage.SetAttr{Mode: &mode})
	w.ok(err)
	w.settledSteps()
	w.wantLatestOf("", "2")
	w.put("checkpoint-1.pt", "one")
	until(t, "latest is 1", func() bool { i, _ := w.m.Latest(""); return i.Name == "1" })
	w.wantSteps("", "[1 r1 2 r1]")
	w.restart()
	w.wantLatestOf("", "1")
	w.put("checkpoint-2.pt", "other")
	w.sealedAs("", "2", 2)
	w.wantLatestOf("", "2")
}

// A hand-written loop has no commit point: its steps are unverified, until
// they look like the one before.
func TestHandWrittenLoop(t *testing.T) {
	w := newWorld(t, quietly)
	w.play("checkpoint-1/model.pt=~m checkpoint-1/opt-1.pt=~o")
	w.wantStep(w.sealedAs("", "1", 1), "directory", "quiet", snapshot.VerdictUnverified)
	w.wantLatestOf("", "1")
	w.play("checkpoint-2/model.pt=~m checkpoint-2/opt-2.pt=~o")
	w.wantStep(w.sealedAs("", "2", 1), "directory", "quiet", snapshot.VerdictComplete)
	w.put("checkpoint-3/model.pt", "m")
	w.wantStep(w.sealedAs("", "3", 1), "directory", "quiet", snapshot.VerdictUnverified)
	w.wantLatestOf("", "2")
	w.restart()
	w.wantLatestOf("", "2")
	w.put("checkpoint-3/opt-3.pt", "o")
	w.wantStep(w.sealedAs("", "3", 2), "directory", "quiet", snapshot.VerdictComplete)
	w.wantLatestOf("", "3")
}

// What the files say of the step is believed when it can be.
func TestStepNumbers(t *testing.T) {
	w := newWorld(t, eagerly(60*time.Millisecond))
	for dir, c := range map[string]struct{ json, step, verdict string }{
		"a/checkpoint-1": {`{"x":[{"global_step":9}],"global_step":500,"y":"`, "500", snapshot.VerdictComplete}, // read as far as it takes
		"b/checkpoint-2": {`{"global_step":-5}`, "2", snapshot.VerdictPartial},
		"c/checkpoint-3": {`{"global_step":1e300}`, "3", snapshot.VerdictPartial},
		"d/checkpoint-4": {"\x00\xff\x80", "4", snapshot.VerdictPartial},
		"e/checkpoint-5": {`{"global_step":"5"}`, "5", snapshot.VerdictPartial},
		"f/checkpoint-6": {`["global_step",7]`, "6", snapshot.VerdictPartial},
		"g/checkpoint-7": {"", "7", snapshot.VerdictPartial},
		"h/checkpoint-8": {`{"global_step":` + strings.Repeat("[", 100000), "8", snapshot.VerdictPartial},
	} {
		w.put(dir+"/optimizer.pt", "o")
		w.put(dir+"/trainer_state.json", c.json)
		scope, _ := splitPath(dir)
		if i := w.sealedAs(scope, c.step, 1); i.Verdict != c.verdict || c.verdict == snapshot.VerdictPartial && len(i.Findings) == 0 {
			t.Errorf("%s with %.20q: %s, %q", dir, c.json, i.Verdict, i.Findings)
		}
	}
	w.put("checkpoint-99999999999999999999/optimizer.pt", "o")
	w.put("checkpoint--3/optimizer.pt", "o")
	w.settledSteps()
	w.wantSteps("", "[]")
	w.noFaults()
}

// A tracker that makes no sense commits nothing, and hurts nobody.
func TestBadTrackers(t *testing.T) {
	w := newWorld(t, eagerly(never))
	w.put("global_step5/mp_rank_00_model_states.pt", "x")
	w.put("iter_0000005/__0_0.distcp", "x")
	huge := make([]byte, 1<<20)
	rand.New(rand.NewSource(1)).Read(huge)
	for _, bad := range []string{"", "../../etc/passwd", "global_step6", "/", "\xff\xfe\x00", "-5", "99999999999999999999", string(huge)} {
		w.put("latest", bad)
		w.put("latest_checkpointed_iteration.txt", bad)
		w.m.Notice()
	}
	w.remove("latest")
	_, err := w.tree.Symlink(1, "latest", "/etc/hostname", stage.Cred{})
	w.ok(err)
	w.move("latest", "l")
	w.move("l", "latest")
	w.m.Notice()
	w.put("step-1/__0_0.distcp", "x")
	w.play("step-1/.m=~m step-1/.m>step-1/.metadata")
	w.sealedAs("", "1", 1)
	w.wantSteps("", "[1 r1]")
	w.remove("latest")
	w.put("latest", "global_step5\n")
	w.wantStep(w.sealedAs("", "5", 1), "deepspeed", "tracker", snapshot.VerdictComplete)
	w.noFaults()
}

// A rollback and new training make the new branch the latest.
func TestNewBranchIsLatest(t *testing.T) {
	w := newWorld(t, eagerly(never))
	for _, n := range []string{"9000", "9500", "10000"} {
		w.put("model_step_"+n+".pt", n)
		w.sealedAs("", n, 1)
	}
	w.wantLatestOf("", "10000")
	_, err := w.m.Rollback(w.ctx(), "", "9000")
	w.ok(err)
	w.put("model_step_9500.pt", "other")
	i := w.sealedAs("", "9500", 2)
	w.wantLatestOf("", i.ID())
	w.restart()
	w.wantLatestOf("", i.ID())
}

// A directory of numbers gives way to the steps in it.
func TestRunsThatAreNumbers(t *testing.T) {
	w := newWorld(t, eagerly(60*time.Millisecond))
	w.put("3/checkpoint-7.pt", "x")
	w.put("4/x", "x")
	w.sealedAs("3", "7", 1)
	w.sealedAs("", "4", 1)
	w.settledSteps()
	w.wantSteps("", "[4 r1]")
	w.noFaults()
}

// What was committed when the daemon died is sealed by the next one, for the
// reason that it has.
func TestCommitSurvives(t *testing.T) {
	for name, again := range map[string]func(w *world){"restart": (*world).restart, "kill": (*world).kill} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(c *snapshot.Config) { c.SealQuiet, c.SealGrace = never, never })
			w.play("step-1/__0_0.distcp=~x step-1/.m=~m step-1/.m>step-1/.metadata")
			w.play("global_step2/mp_rank_00_model_states.pt=~x latest=~global_step2")
			w.put("step-3/__0_0.distcp", "x")
			w.m.Notice()
			w.conf = eagerly(300 * time.Millisecond)
			again(w)
			w.wantStep(w.sealedAs("", "1", 1), "torchtitan", "rename", snapshot.VerdictComplete)
			w.wantStep(w.sealedAs("", "2", 1), "deepspeed", "tracker", snapshot.VerdictComplete)
			w.wantStep(w.sealedAs("", "3", 1), "torchtitan", "quiet", snapshot.VerdictPartial)
		})
	}
}

// Where nobody saw what happened, the tree has to tell: whether the commit
// point is there, and the last that was changed.
func TestUnseenCommits(t *testing.T) {
	w := newWorld(t, eagerly(100*time.Millisecond))
	w.m.Unseen(func() {
		w.play("step-1/__0_0.distcp=~x step-1/.m=~m step-1/.m>step-1/.metadata")
		w.play("global_step2/mp_rank_00_model_states.pt=~x latest=~global_step2")
		w.play("step-3/.m=~m step-3/.m>step-3/.metadata step-3/__0_0.distcp=~x step-3/other=~x")
		w.play("step-4/__0_0.distcp=~x")
		w.play("checkpoint-5.pt=~x")
	})
	w.wantStep(w.sealedAs("", "1", 1), "torchtitan", "rename", snapshot.VerdictComplete)
	w.wantStep(w.sealedAs("", "2", 1), "deepspeed", "tracker", snapshot.VerdictComplete)
	w.wantStep(w.sealedAs("", "3", 1), "torchtitan", "quiet", snapshot.VerdictUnverified)
	w.wantStep(w.sealedAs("", "4", 1), "torchtitan", "quiet", snapshot.VerdictPartial)
	w.sealedAs("", "5", 1)
	w.settledSteps()
	w.noFaults()
}

// A check that takes too long holds nothing up: the verdict comes later, also
// after a restart. What is not sound is partial, what is but odd is reported.
func TestVerdicts(t *testing.T) {
	var slow atomic.Bool
	slow.Store(true)
	w := newWorld(t, func(c *snapshot.Config) {
		eagerly(never)(c)
		c.CheckTime = 20 * time.Millisecond
		c.Inspect(func(ctx context.Context, scope string) ([]inspect.Problem, error) {
			if slow.Load() {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			switch scope {
			case "torn":
				return []inspect.Problem{{Path: "f", Why: "is cut off"}}, nil
			case "odd":
				return []inspect.Problem{{Path: "f", Why: "has no checksum", Minor: true}}, nil
			}
			return nil, nil
		})
	})
	check := func(step string, pending bool, verdicts ...string) {
		t.Helper()
		for k, scope := range []string{"torn", "odd", "good"} {
			var i snapshot.Info
			until(t, "the verdict on "+scope, func() (ok bool) {
				i = w.sealedAs(scope, step, 1)
				return i.Pending == pending
			})
			if i.Verdict != verdicts[k] || !pending && (len(i.Findings) > 0) != (scope != "good") {
				t.Errorf("%s: %s, %q", scope, i.Verdict, i.Findings)
			}
			until(t, "latest to follow the verdict on "+scope, func() bool {
				_, ok := w.m.Latest(scope)
				return ok == (verdicts[k] != snapshot.VerdictPartial)
			})
		}
	}
	for _, scope := range []string{"torn", "odd", "good"} {
		w.put(scope+"/model_step_1.pt", "x")
	}
	check("1", true, snapshot.VerdictUnverified, snapshot.VerdictUnverified, snapshot.VerdictUnverified)
	slow.Store(false)
	w.restart()
	check("1", false, snapshot.VerdictPartial, snapshot.VerdictComplete, snapshot.VerdictComplete)
	for _, scope := range []string{"torn", "odd", "good"} {
		w.put(scope+"/model_step_2.pt", "x")
	}
	check("2", false, snapshot.VerdictPartial, snapshot.VerdictComplete, snapshot.VerdictComplete)
	w.noFaults()
}

// One write notes its file once, until it is closed.
func TestWritesAreNotedOnce(t *testing.T) {
	w := newWorld(t, eagerly(never))
	ino, fh := w.openFile("log", unix.O_APPEND)
	for range 1000 {
		w.pwrite(ino, fh, "x", 0)
	}
	if n := w.m.Events(); n > 2 {
		t.Errorf("%d events for one open file", n)
	}
	w.closeFile(ino, fh)
}
