package integration

import (
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// worker makes one file operation after the other in a directory of its own,
// until a call fails because the daemon was killed. Its knowledge is outside
// the mount: the model and the records are what the daemon must not lose.
type worker struct {
	name    string
	mnt     string
	rnd     *rand.Rand
	killed  *atomic.Bool // the daemon is being killed: errors are expected
	native  bool         // there is no daemon: no snapshots, and killed ends the work
	steward *steward     // makes snapshots and has them removed; may be nil

	model   *model
	handles []*handle
	records []*record // acknowledged snapshots
	maybe   *record   // one that was in flight
	flight  *op       // the call that was in flight when the daemon died
	renamed bool      // names or modes were changed since the last barrier
	next    int       // numbers names
	log     []string  // the last calls
	counts  map[string]int
	bytes   int64
}

// handle is an open file of the worker.
type handle struct {
	fd     int
	f      *file
	append bool
}

// op is one call: what it does, and what is known once it is acknowledged.
type op struct {
	what string
	call func() error
	ack  func()
	torn *tornWrite // a write, which may be there in part if it was in flight
}

type tornWrite struct {
	f    *file
	off  int64
	data []byte
}

func newWorker(name string, rnd *rand.Rand, killed *atomic.Bool) *worker {
	return &worker{name: name, rnd: rnd, killed: killed, model: newModel(), counts: map[string]int{}}
}

// path is where a name of the worker is on the mount.
func (w *worker) path(name string) string { return filepath.Join(w.mnt, w.name, name) }

// errKilled ends a worker whose daemon was killed.
var errKilled = errors.New("the daemon was killed")

// do makes one call. After an error the call is the one in flight.
func (w *worker) do(o op) error {
	w.flight = &o
	kind, _, _ := strings.Cut(o.what, " ")
	w.renamed = w.renamed || slices.Contains(namespaceCalls, kind)
	if err := o.call(); err != nil {
		w.note(o.what + ": " + err.Error())
		if w.killed.Load() {
			return errKilled
		}
		return fmt.Errorf("%s: %s: %w\nlast calls:\n%s", w.name, o.what, err, strings.Join(w.log, "\n"))
	}
	o.ack()
	w.flight = nil
	w.note(o.what)
	if slices.Contains(barrierCalls, kind) {
		w.renamed = false
	}
	w.counts[kind]++
	return nil
}

// namespaceCalls change names or modes, barrierCalls make all earlier ones
// durable.
var (
	namespaceCalls = []string{"open", "rename", "renamedir", "unlink", "mkdir", "rmdir", "chmod", "link", "symlink"}
	barrierCalls   = []string{"fsync", "fdatasync", "fsyncdir", "snapshot"}
)

func (w *worker) note(line string) {
	if w.log = append(w.log, line); len(w.log) > 40 {
		w.log = w.log[1:]
	}
}

// run works until the daemon is killed.
func (w *worker) run() error {
	defer w.crash()
	for !w.native || !w.killed.Load() {
		if err := w.act(); errors.Is(err, errKilled) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}

// crash forgets what a dead daemon takes along: the handles.
func (w *worker) crash() {
	for _, h := range w.handles {
		unix.Close(h.fd)
	}
	w.handles = nil
}

// verifyLive holds the directory against what was acknowledged. The call in
// flight may have happened, or not; a write may have happened in part.
func (w *worker) verifyLive() error {
	got, err := readNodes(filepath.Join(w.mnt, w.name))
	if err != nil {
		return err
	}
	diff := w.model.differs(got)
	if o := w.flight; diff != "" && o != nil {
		before := diff
		if o.torn != nil {
			w.adopt(o.torn, got)
		} else {
			o.ack()
		}
		if diff = w.model.differs(got); diff != "" {
			diff = fmt.Sprintf("%s\nand without the call in flight (%s):\n%s", diff, o.what, before)
		}
	}
	w.settle()
	if diff != "" {
		return fmt.Errorf("%s: the live directory is not what was acknowledged:\n%s\nlast calls:\n%s",
			w.name, diff, strings.Join(w.log, "\n"))
	}
	return nil
}

// settle takes into the model that all handles are gone.
func (w *worker) settle() {
	w.flight = nil
	for _, f := range w.model.files {
		f.unsure()
		f.open, f.grew = false, false
	}
}

// adopt takes what there is of a write in flight, byte by byte the old or the
// new, into the model. Anything else it leaves for differs to find.
func (w *worker) adopt(t *tornWrite, got map[string]node) {
	for path, f := range w.model.files {
		if f != t.f {
			continue
		}
		old, is := f.live, got[path].data
		end := t.off + int64(len(t.data))
		if len(is) < len(old) || int64(len(is)) > max(int64(len(old)), end) {
			return
		}
		wanted := overlay(old, t.off, t.data)[:len(is)]
		for i, b := range is {
			was := byte(0)
			if i < len(old) {
				was = old[i]
			}
			if b != wanted[i] && b != was {
				return
			}
		}
		f.live, f.dirty, f.grew = is, true, false
		return
	}
}

// verifyRecords holds acknowledged snapshots against their records.
func (w *worker) verifyRecords(records []*record) error {
	for _, r := range records {
		if w.steward != nil && r.barrier && w.steward.owns(r.path) {
			continue
		}
		if err := r.verify(w.mnt); err != nil {
			return err
		}
	}
	return nil
}

// verifyMaybe looks at the snapshot that was in flight: whole or not there.
func (w *worker) verifyMaybe() error {
	r := w.maybe
	w.maybe = nil
	if r == nil {
		return nil
	}
	if _, err := os.Stat(filepath.Join(w.mnt, "snapshots", r.path)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := r.verify(w.mnt); err != nil {
		return fmt.Errorf("a snapshot in flight was published, but: %w", err)
	}
	w.records = append(w.records, r)
	return nil
}
