package snapshot_test

import (
	"fmt"
	"syscall"
	"testing"
)

// When steps come faster than they are stored, and the room goes, they are stored
// without deltas; the next one that is alone gets deltas again.
func TestLag(t *testing.T) {
	w := newWorld(t, nil)
	w.limit(10<<20, 1<<20)
	put := func(step int) {
		for k := range 4 {
			w.put(fmt.Sprint("model", k), weights(k, step))
		}
		w.step(fmt.Sprint(step))
	}
	put(0)
	w.drain()
	put(1)
	w.drain()
	before := w.chunks.Stats()
	if before.SavedDeltas == 0 || before.Hurried != 0 {
		t.Fatalf("a step that comes alone: %+v", before)
	}
	broken := fmt.Errorf("pack: %w", syscall.EIO)
	w.failPack.Store(&broken)
	for step := 2; step < 6; step++ {
		put(step)
	}
	w.failPack.Store(nil)
	w.m.Hurry()
	w.drain()
	lagged := w.chunks.Stats()
	if lagged.Hurried == 0 {
		t.Errorf("four steps waited, and were stored at leisure: %+v", lagged)
	}
	put(6)
	w.drain()
	if st := w.chunks.Stats(); st.Hurried != lagged.Hurried || st.SavedDeltas <= lagged.SavedDeltas {
		t.Errorf("a step that comes alone again: %+v, before %+v", st, lagged)
	}
	for step := range 7 {
		i, err := w.m.Resolve("", fmt.Sprint(step))
		w.ok(err)
		w.want(i.Seq, "model3", weights(3, step))
	}
}
