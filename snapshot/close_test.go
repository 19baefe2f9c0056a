package snapshot_test

import (
	"context"
	"errors"
	"testing"
)

// Close waits for a barrier that its caller has given up: what is below is
// about to be closed.
func TestCloseWaitsForBarriers(t *testing.T) {
	w := newWorld(t, nil)
	ino, fh := w.openFile("f", 0)
	w.pwrite(ino, fh, text("f", big), 0)
	w.disk.shut()
	ctx, cancel := context.WithCancel(w.ctx())
	given := make(chan error)
	go func() {
		_, err := w.m.Barrier(ctx, "fsync", ino)
		given <- err
	}()
	until(t, "the barrier syncs", func() bool { return w.disk.held() == 1 })
	cancel()
	if err := <-given; !errors.Is(err, context.Canceled) {
		t.Errorf("a barrier that was given up: %v", err)
	}
	closed := make(chan error)
	go func() { closed <- w.m.Close() }()
	select {
	case <-closed:
		t.Error("closed while a barrier is under way")
	default:
	}
	w.disk.openGate()
	w.ok(<-closed)
	all, err := w.m.Barriers(0, 10)
	if err != nil || len(all) != 1 {
		t.Errorf("the barrier was not completed: %+v, %v", all, err)
	}
}
