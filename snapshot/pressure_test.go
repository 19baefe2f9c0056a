package snapshot_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"stepfs/fs/stage"
	"stepfs/snapshot"
)

// rotate saves steps of 4 MiB and deletes what is older than the newest two.
func (w *world) rotate(from, to int) error {
	w.t.Helper()
	for k := from; k <= to; k++ {
		if _, err := w.tryPut(fmt.Sprintf("checkpoint-%d/a", k), noise(int64(k), 4<<20)); err != nil {
			return fmt.Errorf("save %d: %w", k, err)
		}
		w.step(fmt.Sprint(k))
		if k > 2 {
			w.remove(fmt.Sprintf("checkpoint-%d", k-2))
		}
		w.barrier() // that of somebody's log
	}
	return nil
}

// whole says that a step shows what was saved.
func (w *world) whole(k int) {
	w.t.Helper()
	i, err := w.m.Resolve("", fmt.Sprint(k))
	w.ok(err)
	w.want(i.Seq, fmt.Sprintf("checkpoint-%d/a", k), noise(int64(k), 4<<20))
}

// A job that rotates its checkpoints in a store of ten runs for ever: what it
// deleted goes, oldest first, but for the newest three steps, which show five
// checkpoints, and what is held, which shows two more.
func TestRotationMakesRoom(t *testing.T) {
	h := &hands{}
	w := newWorld(t, func(c *snapshot.Config) { keeping(h, nil)(c); c.Undo, c.UseGrace = 0, 0 })
	w.limit(40<<20, 1<<20)
	w.ok(w.rotate(1, 4))
	second, err := w.m.Resolve("", "2")
	w.ok(err)
	_, err = w.m.Hold(second.Seq, snapshot.Hold{By: "a test", Reason: "it is the best one"})
	w.ok(err)
	w.ok(w.rotate(5, 30))
	for _, k := range []int{2, 28, 29, 30} {
		w.whole(k)
	}
	for _, k := range []int{1, 3, 10} {
		if _, err := w.m.Resolve("", fmt.Sprint(k)); !errors.Is(err, snapshot.ErrNotExist) {
			t.Errorf("step %d is still there: %v", k, err)
		}
	}
	expired, forgotten := h.reported()
	for _, said := range append(strings.Split(expired, "\n"), strings.Split(forgotten, "\n")...) {
		if !strings.HasSuffix(said, " space: the store is nearly full") {
			t.Errorf("reported: %s", said)
		}
	}
	if !strings.Contains("\n"+expired, "\n10@") || !strings.Contains("\n"+forgotten, "\n10@") || !strings.Contains("\n"+expired, "\n@") {
		t.Errorf("reported as expired:\n%s\nas forgotten:\n%s", expired, forgotten)
	}
	w.noFaults()
}

// With KeepSteps nothing of that kind goes, and the writer is told.
func TestKeepSteps(t *testing.T) {
	w := newWorld(t, func(c *snapshot.Config) { c.KeepSteps = true })
	w.limit(32<<20, 1<<20)
	err := w.rotate(1, 30)
	if !errors.Is(err, stage.ErrNoSpace) {
		t.Fatalf("30 saves of 4 MiB in a store of 32: %v", err)
	}
	var last int
	if _, err := fmt.Sscanf(err.Error(), "save %d", &last); err != nil || last < 4 {
		t.Fatalf("%v, %v", err, last)
	}
	for k := 1; k < last; k++ {
		w.whole(k)
	}
	w.noFaults()
}

// What the live tree still has, and what a person named, is not given up: then
// the writer is told.
func TestLiveStepsStay(t *testing.T) {
	w := newWorld(t, nil)
	w.limit(32<<20, 1<<20)
	var err error
	k := 0
	for ; err == nil && k < 30; k++ {
		if _, err = w.tryPut(fmt.Sprintf("checkpoint-%d/a", k), noise(int64(k), 4<<20)); err == nil {
			w.step(fmt.Sprint(k))
		}
	}
	if !errors.Is(err, stage.ErrNoSpace) {
		t.Fatalf("%d saves: %v", k, err)
	}
	for s := range k - 1 {
		w.whole(s)
	}
	if got := w.steps(""); len(got) != k-1 {
		t.Errorf("steps %s, want %d", strings.Join(got, " "), k-1)
	}
	w.noFaults()
}
