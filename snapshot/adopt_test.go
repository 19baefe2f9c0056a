package snapshot_test

import (
	"errors"
	"testing"
	"time"

	"stepfs/fs/stage"
	"stepfs/snapshot"
)

// TestAdopt: steps that were copied in are judged by what they show, sealed
// once, and not again when they have been quiet.
func TestAdopt(t *testing.T) {
	w := newWorld(t, func(c *snapshot.Config) { c.SealQuiet = 400 * time.Millisecond })
	for _, c := range []struct {
		path  string
		files []string
		want  string
	}{
		{"checkpoint-1", []string{"model.bin", "training_args.bin"}, snapshot.VerdictComplete},
		{"checkpoint-2", []string{"model.bin", "training_args.bin"}, snapshot.VerdictPartial}, // the commit point is missing
		{"step-3", []string{"__0_0.distcp", ".metadata"}, snapshot.VerdictComplete},
		{"model-step=4.ckpt", []string{"weights/common.pt"}, snapshot.VerdictComplete},
		{"m-step=5.ckpt", []string{"weights/common.pt"}, snapshot.VerdictPartial}, // as its marker says, unfinished
	} {
		// Written only now: a slow machine would seal it as a job's before.
		path, want := c.path, c.want
		for _, f := range c.files {
			w.put(path+"/"+f, path+f)
		}
		switch path {
		case "checkpoint-1":
			w.put(path+"/trainer_state.json", `{"global_step": 1}`)
		case "m-step=5.ckpt":
			w.put("m-step=5-unfinished", "")
		}
		i, err := w.m.Adopt(w.ctx(), path)
		w.ok(err)
		if i.Verdict != want || i.Reason == "" || want == snapshot.VerdictComplete && i.Reason != snapshot.ReasonImport {
			t.Errorf("%s: %s by %q, %v; want %s", path, i.Verdict, i.Reason, i.Findings, want)
		}
		again, err := w.m.Adopt(w.ctx(), path)
		if w.ok(err); again.Seq != i.Seq {
			t.Errorf("%s was sealed as %s, and again as %s", path, i.ID(), again.ID())
		}
	}
	time.Sleep(time.Second)
	w.settledSteps()
	for k := '1'; k <= '5'; k++ {
		if is, err := w.m.Revisions("", string(k), 10); err != nil || len(is) != 1 {
			t.Errorf("step %c has the revisions %v, %v", k, is, err)
		}
	}
	if _, err := w.m.Adopt(w.ctx(), "checkpoint-9"); !errors.Is(err, snapshot.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
	w.put("notes/a", "a")
	if _, err := w.m.Adopt(w.ctx(), "notes"); !errors.Is(err, snapshot.ErrBadName) {
		t.Errorf("what is no step: %v", err)
	}
}

// TestAdoptRenamed: what is not whole yet is no step, nor is what is in it; an
// importer that dies between giving it its name and sealing it leaves a step
// that is sealed as an import.
func TestAdoptRenamed(t *testing.T) {
	w := newWorld(t, func(c *snapshot.Config) { c.SealQuiet = 200 * time.Millisecond })
	aside := snapshot.ImportPrefix + "0123"
	w.put(aside+"/trainer_state.json", `{"global_step": 7}`)
	w.put(aside+"/global_step7/x_model_states.pt", "x")
	w.put(aside+"/step_8.pt", "x")
	w.put(snapshot.ImportPrefix+"4567", "a file")
	time.Sleep(600 * time.Millisecond)
	for _, scope := range append(w.m.AllScopes(), aside) {
		if is, err := w.m.Steps(scope, "", 10); err != nil || len(is) > 0 {
			t.Fatalf("steps in %q: %v, %v", scope, is, err)
		}
	}
	const root = 1
	w.ok(w.tree.Rename(root, aside, root, "checkpoint-7", 0))
	w.ok(w.tree.Rename(root, snapshot.ImportPrefix+"4567", root, "step_9.safetensors", 0))
	for _, name := range []string{"7", "9"} {
		if i := w.sealedAs("", name, 1); i.Reason != snapshot.ReasonImport {
			t.Fatalf("step %s was sealed by %s: %s, %v", name, i.Reason, i.Verdict, i.Findings)
		}
	}
}

// TestAdoptWhileEventsCome: what the importer did last may be told of only while
// its step is being sealed.
func TestAdoptWhileEventsCome(t *testing.T) {
	w := newWorld(t, func(c *snapshot.Config) { c.SealQuiet = never })
	ino := w.put("checkpoint-1/config.json", "{}")
	w.put("checkpoint-1/trainer_state.json", `{"global_step": 1}`)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); time.Sleep(time.Millisecond) {
			mode := uint32(0o600)
			if _, err := w.tree.SetAttr(ino, stage.SetAttr{Mode: &mode}); err != nil {
				t.Error(err)
			}
		}
	}()
	i, err := w.m.Adopt(w.ctx(), "checkpoint-1")
	<-stopped
	w.ok(err)
	if i.Verdict != snapshot.VerdictComplete {
		t.Errorf("%s: %v", i.Verdict, i.Findings)
	}
}
