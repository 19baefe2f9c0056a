package posix

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// lockstep is one run of a script, in a new directory of both trees.
type lockstep struct {
	s       *session
	name    string // of the directory, in both trees
	commits *commits
	stamps  [2]map[uint64]stamp // what was last seen, by inode
	step    int
	done    []op // as they were made
	counts  *counts
}

// difference found by a run: the harness's own troubles are other errors.
type found struct{ text string }

func (f *found) Error() string { return f.text }

func differ(format string, args ...any) error { return &found{fmt.Sprintf(format, args...)} }

// everySteps is how often the trees are compared whole.
const everySteps = 40

// run makes the operations one after the other, up to the first difference.
func (s *session) run(ops []op, counts *counts) (done []op, err error) {
	if err := s.ready(); err != nil {
		return nil, err
	}
	s.runs++
	l := &lockstep{s: s, name: fmt.Sprintf("run-%d", s.runs), commits: newCommits(), counts: counts}
	l.stamps[peer], l.stamps[mount] = map[uint64]stamp{}, map[uint64]stamp{}
	for tree := range s.bases {
		if err := os.Mkdir(l.dir(tree), 0o700); err != nil {
			return nil, err
		}
		if err := os.Chmod(l.dir(tree), 0o777); err != nil {
			return nil, err
		}
	}
	if err := l.enter(true, true); err != nil {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, l.enter(false, false), os.RemoveAll(l.dir(peer)))
		if s.daemon.Running() {
			err = errors.Join(err, os.RemoveAll(l.dir(mount)))
		}
	}()
	for _, o := range ops {
		if err := l.do(o); err != nil {
			return l.done, fmt.Errorf("step %d: %w", len(l.done), err)
		}
	}
	return l.done, l.compare()
}

func (l *lockstep) dir(tree int) string { return filepath.Join(l.s.bases[tree], l.name) }

// enter has all workers close what they have open and enter the trees, or
// leave them.
func (l *lockstep) enter(inPeer, inMount bool) error {
	var dirs [2]string
	for tree, in := range []bool{inPeer, inMount} {
		if in {
			dirs[tree] = l.dir(tree)
		}
	}
	for _, w := range l.s.workers {
		if err := w.enter(dirs); err != nil {
			return err
		}
	}
	return nil
}

// do makes one operation.
func (l *lockstep) do(o op) error {
	w := l.s.workers[o.who]
	if w != nil {
		var ok bool
		var err error
		if o, ok, err = l.resolve(w, o); !ok || err != nil {
			return err // or nothing is open that it could be made with
		}
	}
	l.done = append(l.done, o)
	var err error
	switch o.kind {
	case "kill":
		err = l.kill()
	case "remount":
		err = l.remount()
	case "compare":
		err = l.compare()
	case "snapshot":
		err = l.snapshot()
	default:
		err = l.call(w, o)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", o, err)
	}
	if l.step++; l.step%everySteps == 0 {
		return l.compare()
	}
	return nil
}

// resolve turns descriptors that are not open into ones that are, and frees the
// slot that a call fills.
func (l *lockstep) resolve(w *worker, o op) (op, bool, error) {
	k := kinds[o.kind]
	args := append([]string(nil), o.args...)
	fills := -1
	switch o.kind {
	case "open", "tmpfile":
		fills = 0
	case "dup":
		fills = 1
	}
	for i, typ := range k.args {
		if typ != "slot" || i == fills {
			continue
		}
		slot, ok := w.openSlot(args[i])
		if !ok {
			return o, false, nil
		}
		args[i] = slot
	}
	o.args = args
	if fills >= 0 {
		if _, full := w.fds[args[fills]]; full {
			if o.kind == "dup" && args[0] == args[1] {
				return o, false, nil
			}
			if err := l.do(op{o.who, "close", []string{args[fills]}}); err != nil {
				return o, false, err
			}
		}
	}
	return o, true, nil
}

// openSlot gives the slot, or the next one that is not empty.
func (w *worker) openSlot(slot string) (string, bool) {
	at := int(slot[1] - '0')
	for i := range slots {
		s := fmt.Sprintf("f%d", (at+i)%slots)
		if _, ok := w.fds[s]; ok {
			return s, true
		}
	}
	return "", false
}

// call makes a call in both trees and compares what it did.
func (l *lockstep) call(w *worker, o op) error {
	refs := l.refs(w, o)
	before := make([][2]look, len(refs))
	for i, r := range refs {
		before[i] = [2]look{r.look(peer), r.look(mount)}
		if moved := l.seen(before[i]); moved[peer] != moved[mount] {
			return differ("before it, times of %s had moved\n   ext4   %s\n   stepfs %s", r.what, moved[peer], moved[mount])
		}
	}
	l.beforeCall(o, refs, before)
	results, err := w.do(o)
	if err != nil {
		return differ("%v\n%s", err, l.s.daemon.Output())
	}
	l.counts.add(o, results)
	if err := compareResults(o, results); err != nil {
		return err
	}
	l.afterCall(w, o, results, before, refs)
	if o.kind != "close" && w.fds[lastSlot(o)] != [2]int{} { // what it has opened
		refs = append(refs, l.refs(w, op{o.who, "fstat", []string{lastSlot(o)}})...)
	}
	for _, r := range refs {
		if o.kind == "close" && r.what == o.args[0] {
			continue
		}
		if err := l.compareRef(o, r); err != nil {
			return err
		}
	}
	if l.isBarrier(o, results[mount]) {
		return l.compareBarrier()
	}
	return nil
}

// isBarrier says whether a call was one: a sync, or a write with O_SYNC.
func (l *lockstep) isBarrier(o op, result string) bool {
	switch how := kinds[o.kind].how; {
	case !good(result):
		return false
	case how&isBarrier != 0:
		return true
	case how&changesContent == 0:
		return false
	}
	d := l.commits.descs[descKey{o.who, lastSlot(o)}]
	n, _ := strconv.Atoi(strings.TrimPrefix(result, "ok "))
	return n > 0 && d.sync && d.writable
}

func good(result string) bool {
	return strings.HasPrefix(result, "ok") && result != "ok "+skipped
}

// lastSlot is the descriptor that a call fills, or writes to.
func lastSlot(o op) string {
	slot := ""
	for i, typ := range kinds[o.kind].args {
		if typ == "slot" {
			slot = o.args[i]
		}
	}
	return slot
}

// snapshot takes one under a name.
func (l *lockstep) snapshot() error {
	l.s.snapshots++
	dir := filepath.Join(l.s.daemon.Mnt, "snapshots", fmt.Sprintf("s%d", l.s.snapshots))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return differ("%v", err)
	}
	return l.compareSnapshot(filepath.Join(dir, l.name), true)
}

// kill kills the daemon and mounts again: all that was answered is there.
func (l *lockstep) kill() error {
	l.commits.killed()
	if err := l.s.daemon.Kill(); err != nil {
		return differ("%v", err)
	}
	return l.back(&l.counts.kills)
}

// remount ends the daemon as an operator would.
func (l *lockstep) remount() error {
	for key := range l.commits.descs {
		l.commits.closed(key.who, key.slot)
	}
	if err := l.enter(false, false); err != nil {
		return err
	}
	if err := l.s.daemon.Stop(); err != nil {
		return differ("%v", err)
	}
	return l.back(&l.counts.remounts)
}

func (l *lockstep) back(count *int) error {
	if err := l.enter(true, false); err != nil {
		return err
	}
	if err := l.s.daemon.Start(); err != nil {
		return differ("%v", err)
	}
	if err := l.enter(true, true); err != nil {
		return err
	}
	*count++
	return l.compare()
}
