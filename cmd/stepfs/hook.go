package main

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"stepfs/snapshot"
)

// hook runs the command of --on-event for each event. Whoever reports one only
// puts it into a queue: no write, barrier, seal or unmount waits for a command,
// and a command may use the mount. One runs at a time. What is too much for the
// queue is dropped, and counted in the next event.
//
// All methods are for a nil hook too, which there is without --on-event.
type hook struct {
	command      string
	store, point string
	limit        time.Duration // of one run
	patience     time.Duration // for the queue, when the mount ends

	// describe completes what is known of a snapshot; it may read the index.
	describe func(snapshot.Info) SnapshotInfo

	mu      sync.Mutex
	change  *sync.Cond // of what follows
	queue   []hookEvent
	dropped int           // since the last event that was handed over
	stop    func()        // kills the command that runs; nil: none does
	held    bool          // none is begun
	closed  bool          // nor ever again
	ended   chan struct{} // the goroutine has; nil: it was not started
}

// hookEvent is what a command gets on its standard input, in one line.
type hookEvent struct {
	Event      string    `json:"event"` // sealed, partial, forgotten, expired, verify-failed, space-low, fault
	Time       time.Time `json:"time"`
	Reason     string    `json:"reason"`
	Store      string    `json:"store"`
	Mountpoint string    `json:"mountpoint"`
	Dropped    int       `json:"dropped,omitempty"`    // events before this one that were too many
	Barriers   int       `json:"barriers,omitempty"`   // of expired: how many, and no snapshot
	Free       uint64    `json:"free_bytes,omitempty"` // of space-low
	Low        uint64    `json:"low_bytes,omitempty"`  // likewise: what should be free

	// What it is about: the fields of `stepfs snapshots --json`. Its own time and
	// reason stand under other names, since those above win.
	*SnapshotInfo
	Taken    time.Time `json:"taken,omitzero"`
	SealedBy string    `json:"sealed_by,omitempty"`

	info *snapshot.Info // of which SnapshotInfo is made when its turn comes
}

const (
	hookQueue    = 256
	hookLimit    = time.Minute
	hookPatience = 5 * time.Second
)

// newHook makes a hook that queues events until it is started; nil without a
// command.
func newHook(command, store, point string) *hook {
	if command == "" {
		return nil
	}
	h := &hook{command: command, store: store, point: point, limit: hookLimit, patience: hookPatience}
	h.change = sync.NewCond(&h.mu)
	return h
}

// chatty events are the first to be dropped.
func (e *hookEvent) chatty() bool {
	return e.Event == "expired" || e.Event == "forgotten" || e.Event == "fault"
}

// add queues an event. It does not wait.
func (h *hook) add(e hookEvent) {
	if h == nil {
		return
	}
	e.Time, e.Store, e.Mountpoint = time.Now().UTC(), h.store, h.point
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	if len(h.queue) == hookQueue {
		k := max(0, slices.IndexFunc(h.queue, func(old hookEvent) bool { return old.chatty() }))
		h.queue = slices.Delete(h.queue, k, k+1)
		h.dropped++
	}
	h.queue = append(h.queue, e)
	h.change.Broadcast()
}

// start begins to hand events over.
func (h *hook) start(describe func(snapshot.Info) SnapshotInfo) {
	if h == nil {
		return
	}
	h.describe = describe
	h.mu.Lock()
	h.ended = make(chan struct{})
	h.mu.Unlock()
	go h.work()
}

func (h *hook) work() {
	defer close(h.ended)
	for {
		e, ctx, ok := h.next()
		if !ok {
			return
		}
		h.complete(&e)
		h.run(ctx, &e)
		h.done()
	}
}

// next waits for an event. ctx ends the command that gets it.
func (h *hook) next() (e hookEvent, ctx context.Context, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for !h.closed && (h.held || len(h.queue) == 0) {
		h.change.Wait()
	}
	if h.closed {
		return e, nil, false
	}
	e = h.queue[0]
	h.queue = slices.Delete(h.queue, 0, 1)
	e.Dropped, h.dropped = h.dropped, 0
	ctx, h.stop = context.WithTimeout(context.Background(), h.limit)
	return e, ctx, true
}

func (h *hook) done() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stop()
	h.stop = nil
	h.change.Broadcast()
}

// leave gives the queue a few seconds to run empty, kills what runs then, and
// begins nothing more until resume: a command that uses the mount would keep it
// from being unmounted.
func (h *hook) leave() {
	if h == nil {
		return
	}
	over := false
	timer := time.AfterFunc(h.patience, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		over = true
		h.change.Broadcast()
	})
	defer timer.Stop()
	h.mu.Lock()
	defer h.mu.Unlock()
	for !over && !h.held && !h.closed && h.ended != nil && (h.stop != nil || len(h.queue) > 0) {
		h.change.Wait()
	}
	h.held = true
	for h.stop != nil {
		h.stop()
		h.change.Wait()
	}
}

// resume goes on after leave: the mount stays.
func (h *hook) resume() {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held = false
	h.change.Broadcast()
}

// kill ends what runs at once, and everything.
func (h *hook) kill() {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	if h.stop != nil {
		h.stop()
	}
	h.change.Broadcast()
}

// close ends the hook. The store is still open.
func (h *hook) close() {
	if h == nil {
		return
	}
	h.leave()
	h.kill()
	h.mu.Lock()
	left, ended := len(h.queue), h.ended
	h.mu.Unlock()
	if left > 0 {
		slog.Warn("the mount ended before --on-event got to these", "events", left)
	}
	if ended != nil {
		<-ended
	}
}
