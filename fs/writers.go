package fs

import (
	"os"
	"strconv"
	"sync"
	"time"
)

// writers tells whether who closes a descriptor is who writes through it. A
// process that starts another one in the middle of a write (a dataloader, a
// hook) hands it a duplicate, which is closed at the exec or at its end, with
// the same FLUSH as close(2): the file is not finished for that. So a FLUSH by
// another process than the last writer's is none while that one lives. Should
// it have been the last one after all (the descriptor was passed on, a number
// was used again), RELEASE makes up for it.
type writers struct {
	mu   sync.Mutex
	byFh map[uint64]writer
}

type writer struct {
	task    uint32 // that wrote last
	skipped bool   // the last FLUSH was none
}

func (w *writers) init() { w.byFh = map[uint64]writer{} }

// wrote notes a write, or the open: whoever opens a file is taken for its writer.
// 0 is a task from a namespace that we do not see.
func (w *writers) wrote(fh uint64, task uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if task != 0 && w.byFh[fh].task != task {
		w.byFh[fh] = writer{task: task}
	}
}

// foreign says whether a FLUSH by this task is none.
func (w *writers) foreign(fh uint64, task uint32) bool {
	last := w.last(fh)
	if last == 0 {
		return false
	}
	foreign := task != 0 && task != last && soon(func() bool { return apart(task, last) })
	w.flushed(fh, last, foreign)
	return foreign
}

func (w *writers) last(fh uint64) (task uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.byFh[fh].task
}

// flushed notes what a FLUSH was, which took a look at /proc: unless somebody else
// has written since, or the handle is gone.
func (w *writers) flushed(fh uint64, last uint32, foreign bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now, open := w.byFh[fh]; open && now.task == last {
		now.skipped = foreign
		w.byFh[fh] = now
	}
}

// release forgets a handle and says whether its last FLUSH was taken for none.
func (w *writers) release(fh uint64) (skipped bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	skipped = w.byFh[fh].skipped
	delete(w.byFh, fh)
	return skipped
}

// apart says whether two tasks are of different processes that both live.
func apart(task, other uint32) bool {
	id := strconv.FormatUint(uint64(other), 10)
	if _, err := os.Lstat("/proc/" + strconv.FormatUint(uint64(task), 10) + "/task/" + id); err == nil {
		return false
	}
	_, err := os.Lstat("/proc/" + id)
	return err == nil
}

// soon gives what /proc says, or false when that takes too long; see closerPatience.
func soon(ask func() bool) bool {
	answer := make(chan bool, 1)
	go func() { answer <- ask() }()
	late := time.NewTimer(closerPatience)
	defer late.Stop()
	select {
	case a := <-answer:
		return a
	case <-late.C:
		return false
	}
}
