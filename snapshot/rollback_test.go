package snapshot_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"stepfs/fs/stage"
	"stepfs/snapshot"
)

// After a rollback the live scope is exactly the step, and nothing was copied.
func TestRollback(t *testing.T) {
	for _, stored := range []bool{false, true} {
		for _, scope := range []string{"", "run"} {
			t.Run(fmt.Sprintf("stored %v scope %q", stored, scope), func(t *testing.T) {
				w := newWorld(t, nil)
				at := func(name string) string {
					if scope == "" {
						return name
					}
					return scope + "/" + name
				}
				w.everything(at("d"))
				w.put("outside", "1")
				root := w.dir(scope)
				mode := uint32(0o2771)
				_, err := w.tree.SetAttr(root, stage.SetAttr{Mode: &mode})
				w.ok(err)
				w.ok(w.tree.SetXattr(root, "user.kept", []byte("k"), 0))
				i, err := w.m.Snapshot(w.ctx(), scope, "7", "xattr", nil)
				w.ok(err)
				want := describe(t, w.tree.At(i.Seq), root)
				if stored {
					w.drain()
				}
				w.remove(at("d"))
				w.put(at("d"), "a file now")
				w.put(at("later"), noise(1, big))
				w.put("outside", "2")
				w.ok(w.tree.SetXattr(root, "user.kept", []byte("changed"), 0))
				w.ok(w.tree.SetXattr(root, "user.later", []byte("x"), 0))
				mode = 0o700
				_, err = w.tree.SetAttr(root, stage.SetAttr{Mode: &mode})
				w.ok(err)
				now := describe(t, live{w.tree}, root)

				before, err := w.m.Rollback(w.ctx(), scope, "7")
				w.ok(err)
				same(t, "live", want, describe(t, live{w.tree}, root))
				same(t, "before", now, describe(t, w.tree.At(before.Seq), root))
				if i, err := w.m.Resolve(scope, before.Name); err != nil || i.Reason != "rollback" {
					t.Errorf("the snapshot before: %+v, %v", i, err)
				}
				ingested := w.chunks.Stats().Written
				w.drain()
				if got := w.chunks.Stats().Written - ingested; stored && got > big+128<<10 {
					t.Errorf("the rollback made %d bytes to store", got)
				}
				f, fh := w.openFile(at("d/sub/large"), 0)
				w.pwrite(f, fh, "hurt", 100)
				w.closeFile(f, fh)
				w.remove(at("d/small"))
				w.drain()
				w.restart()
				same(t, "the step, after more writes", want, describe(t, w.tree.At(i.Seq), root))
				if l, ok := w.m.Latest(scope); !ok || l.Seq != i.Seq {
					t.Errorf("latest: %+v, %v", l, ok)
				}
				w.noFaults()
			})
		}
	}
}

func TestRollbackRefuses(t *testing.T) {
	w := newWorld(t, nil)
	w.put("run/f", "1")
	_, err := w.m.Snapshot(w.ctx(), "run", "7", "xattr", nil)
	w.ok(err)
	w.put("run/f", "2")
	if _, err := w.m.Rollback(w.ctx(), "run", "8"); !errors.Is(err, snapshot.ErrNotExist) {
		t.Errorf("to a step that is not there: %v", err)
	}
	ino, fh := w.openFile("run/sub/f", 0)
	if _, err := w.m.Rollback(w.ctx(), "run", "7"); !errors.Is(err, snapshot.ErrBusy) {
		t.Errorf("with an open file: %v", err)
	}
	w.want(w.barrier(), "run/f", "2")
	w.closeFile(ino, fh)
	out, outfh := w.openFile("elsewhere", 0)
	_, err = w.m.Rollback(w.ctx(), "run", "7")
	w.ok(err)
	w.want(w.barrier(), "run/f", "1")
	w.closeFile(out, outfh)
}

// The steps that a rollback brings back are not sealed once more: an old one
// would become the latest.
func TestRollbackSealsNothing(t *testing.T) {
	w := newWorld(t, func(c *snapshot.Config) { c.SealQuiet = 100 * time.Millisecond })
	w.put("checkpoint-1/f", "1")
	w.settledSteps()
	w.put("checkpoint-2/f", "2")
	w.settledSteps()
	_, err := w.m.Rollback(w.ctx(), "", "2")
	w.ok(err)
	w.put("checkpoint-3/f", "3")
	w.settledSteps()
	w.m.Notice()
	for _, step := range []string{"1", "2", "3"} {
		if revs, err := w.m.Revisions("", step, 0); err != nil || len(revs) != 1 {
			t.Errorf("step %s has %d revisions, %v", step, len(revs), err)
		}
	}
	if l, ok := w.m.Latest(""); !ok || l.Name != "3" {
		t.Errorf("latest is %+v, %v", l, ok)
	}
	w.noFaults()
}

// Killed at any moment of a rollback, the scope is what it was or the step.
func TestRollbackIsAllOrNothing(t *testing.T) {
	w := newWorld(t, nil)
	w.everything("d")
	w.ok(w.tree.SetXattr(1, "user.x", []byte("1"), 0))
	w.step("7")
	step := describe(t, live{w.tree}, 1)
	w.remove("d")
	w.put("now", "now")
	w.ok(w.tree.SetXattr(1, "user.x", []byte("2"), 0))
	now := describe(t, live{w.tree}, 1)
	done := make(chan error)
	images := make(chan *world, 1<<12)
	go func() {
		_, err := w.m.Rollback(w.ctx(), "", "7")
		done <- err
	}()
	for running := true; running; {
		select {
		case err := <-done:
			w.ok(err)
			running = false
		default:
			images <- w.image()
		}
	}
	close(images)
	n := 0
	for x := range images {
		if n++; n > 60 && n%10 != 0 {
			continue
		}
		x.open()
		got := describe(t, live{x.tree}, 1)
		if got[""] != now[""] || len(got) != len(now) {
			same(t, fmt.Sprintf("killed at moment %d", n), step, got)
		}
		x.close()
	}
	if n == 0 {
		t.Error("no moment was looked at")
	}
}

// renaming is a live tree in which a job renames at the worst of times: during a
// rollback, and when it is asked where something lies.
type renaming struct {
	snapshot.Tree
	rename func()
}

func (r *renaming) Rollback(dir, seq, scope uint64, skip string) ([]string, error) {
	names, err := r.Tree.Rollback(dir, seq, scope, skip)
	r.rename()
	return names, err
}

func (r *renaming) Parent(ino uint64) (uint64, error) {
	r.rename()
	return r.Tree.Parent(ino)
}

// TestRollbackWhileRenaming: a rollback sorts out what the sealer was told
// meanwhile. Whoever renames tells it with locks of the tree, so the sealer must
// not ask the tree with its own: each would wait for the other for ever.
func TestRollbackWhileRenaming(t *testing.T) {
	r := &renaming{rename: func() {}}
	w := newWorld(t, func(c *snapshot.Config) {
		r.Tree = c.Tree
		c.Tree = r
	})
	w.put("run/model", "1")
	_, err := w.m.Snapshot(w.ctx(), "run", "7", "xattr", nil)
	w.ok(err)
	from, to := w.dir("a/below"), w.dir("b/below")
	w.put("a/below/f", "1")
	renames := 0
	r.rename = func() {
		done := make(chan error, 1)
		go func() { done <- w.tree.Rename(from, "f", to, "f", 0) }()
		select {
		case err := <-done:
			w.ok(err)
		case <-time.After(10 * time.Second):
			panic("a rename waits for the rollback") // and the rollback for it, from here on
		}
		from, to = to, from
		renames++
	}
	_, err = w.m.Rollback(w.ctx(), "run", "7")
	r.rename = func() {}
	w.ok(err)
	if renames < 2 {
		t.Fatal("the rollback asked the tree nothing: this proves nothing")
	}
}
