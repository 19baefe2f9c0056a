package snapshot_test

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"stepfs/fs/stage"
	"stepfs/internal/state"
	"stepfs/snapshot"
)

// What a snapshot shows of files that are closed, being written, or logs.
func TestNoTornFiles(t *testing.T) {
	w := newWorld(t, nil)
	for _, size := range []int{10, big} {
		w.put("closed", text("closed", size))
		w.put("rewritten", text("old", size))
		reino, refh := w.openFile("rewritten", 0)
		w.pwrite(reino, refh, text("NEW", size/2), 1)
		trino, trfh := w.openFile("rewritten2", unix.O_TRUNC)
		w.pwrite(trino, trfh, text("half", size/2), 0)
		seq := w.barrier()
		w.want(seq, "closed", text("closed", size))
		w.want(seq, "rewritten", text("old", size))
		w.wantAbsent(seq, "rewritten2")

		// The file's own barrier takes it as it is.
		own := w.barrier(reino)
		w.want(own, "rewritten", "o"+text("NEW", size/2)+text("old", size)[1+size/2:])
		w.wantAbsent(own, "rewritten2")
		w.closeFile(reino, refh)
		w.closeFile(trino, trfh)
		w.want(seq, "rewritten", text("old", size))
		w.wantAbsent(seq, "rewritten2")
		w.want(w.barrier(), "rewritten2", text("half", size/2))
		w.remove("rewritten2")
	}
	w.noFaults()
}

// A log is taken up to its size by what is sealed, and marked; by a plain
// barrier of somebody else it is not.
func TestOpenLogs(t *testing.T) {
	w := newWorld(t, nil)
	ino, fh := w.openFile("train.log", unix.O_APPEND)
	w.pwrite(ino, fh, "line 1\n", 0)
	w.wantAbsent(w.barrier(), "train.log")
	i := w.step("1")
	w.pwrite(ino, fh, "line 2\n", 0)
	w.want(i.Seq, "train.log", "line 1\n")
	if !contains(i.Marks, "train.log: open, taken up to its size") {
		t.Errorf("marks: %q", i.Marks)
	}
	if mark, err := w.tree.At(i.Seq).Marks(ino); mark != "open" || err != nil {
		t.Errorf("mark of the file: %q, %v", mark, err)
	}
	got, err := w.m.Get(i.Seq)
	if err != nil || !contains(got.Marks, i.Marks[0]) {
		t.Errorf("the registry lost the marks: %q, %v", got.Marks, err)
	}
	w.closeFile(ino, fh)
	last := w.step("2")
	w.want(last.Seq, "train.log", "line 1\nline 2\n")
	if len(last.Marks) != 0 {
		t.Errorf("marks of a closed log: %q", last.Marks)
	}
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

// A checkpoint that is being written from front to back looks like a log, but
// half of one is a torn file. It is named as open.
func TestHalfACheckpointIsNoLog(t *testing.T) {
	w := newWorld(t, nil)
	w.put("checkpoint-1/model.pt", "whole")
	ino, fh := w.openFile("checkpoint-2/model.pt", unix.O_TRUNC)
	w.pwrite(ino, fh, "half", 0)
	top, topfh := w.openFile("model.pt", unix.O_TRUNC)
	w.pwrite(top, topfh, "half", 0)
	i := w.step("now")
	w.want(i.Seq, "checkpoint-1/model.pt", "whole")
	w.wantAbsent(i.Seq, "checkpoint-2/model.pt")
	w.wantAbsent(i.Seq, "model.pt")
	w.closeFile(ino, fh)
	w.closeFile(top, topfh)
}

// A sealed snapshot says which files it shows as of before.
func TestOpenFilesAreMarked(t *testing.T) {
	w := newWorld(t, nil)
	w.put("run/f", "old")
	ino, fh := w.openFile("run/f", 0)
	w.pwrite(ino, fh, "x", 1) // no append: no log
	other, otherfh := w.openFile("other", 0)
	w.pwrite(other, otherfh, "xx", 5)
	i, err := w.m.Snapshot(w.ctx(), "run", "s", "mkdir", nil)
	w.ok(err)
	w.want(i.Seq, "run/f", "old")
	if len(i.Marks) != 1 || !strings.HasPrefix(i.Marks[0], "run/f: open for writing") {
		t.Errorf("marks: %q", i.Marks)
	}
	w.closeFile(ino, fh)
	w.closeFile(other, otherfh)
}

// Nothing that the job does later changes a snapshot.
func TestSnapshotsStay(t *testing.T) {
	w := newWorld(t, nil)
	for _, size := range []int{100, big} {
		w.put("d/overwritten", text("1", size))
		w.put("d/truncated", text("2", size))
		w.put("d/appended", text("3", size))
		w.put("d/deleted", text("4", size))
		w.put("d/renamed", text("5", size))
		w.put("d/target", text("6", size))
		w.dir("d/sub/deep")
		a := w.put("d/attr", "7")
		w.ok(w.tree.SetXattr(a, "user.k", []byte("v"), 0))
		plain := w.barrier()
		before := describe(t, w.tree.At(plain), 1)
		sealed := w.step("s").Seq

		dir := w.dir("d")
		ino, fh := w.openFile("d/overwritten", 0)
		w.pwrite(ino, fh, "XYZ", 7)
		w.closeFile(ino, fh)
		half := int64(size / 2)
		ino, fh = w.openFile("d/truncated", 0)
		_, err := w.tree.SetAttr(ino, stage.SetAttr{Size: &half})
		w.ok(err)
		w.closeFile(ino, fh)
		ino, fh = w.openFile("d/appended", unix.O_APPEND)
		w.pwrite(ino, fh, "more", 0)
		w.closeFile(ino, fh)
		w.ok(w.tree.Unlink(dir, "deleted"))
		w.ok(w.tree.Rename(dir, "renamed", dir, "target", 0))
		mode := uint32(0o600)
		_, err = w.tree.SetAttr(a, stage.SetAttr{Mode: &mode})
		w.ok(err)
		w.ok(w.tree.SetXattr(a, "user.k", []byte("w"), 0))
		w.ok(w.tree.RemoveXattr(a, "user.k"))
		w.barrier()
		w.remove("d")
		w.barrier()
		for _, seq := range []uint64{plain, sealed} {
			same(t, "after the changes", before, describe(t, w.tree.At(seq), 1))
		}
		w.drain()
		w.restart()
		for _, seq := range []uint64{plain, sealed} {
			same(t, "after storing and a restart", before, describe(t, w.tree.At(seq), 1))
		}
	}
	w.noFaults()
}

// A snapshot that was answered is there after the daemon's death and after a
// power cut; one whose journal sync had not ended never was.
func TestAnsweredSnapshotsSurvive(t *testing.T) {
	w := newWorld(t, nil)
	ino := w.put("f", "1")
	first := w.barrier(ino)
	w.kill()
	w.want(first, "f", "1")
	if _, err := w.m.Get(first); err != nil {
		t.Error(err)
	}
	w.put("f", "2")
	second := w.barrier(ino)
	i := w.step("s")
	w.powerCut()
	w.want(first, "f", "1")
	w.want(second, "f", "2")
	got, err := w.m.Resolve("", "s")
	if err != nil || got.Seq != i.Seq {
		t.Errorf("the step is %+v, %v", got, err)
	}
}

// Once the journal can't be synced, nothing is answered any more, and nothing
// shows.
func TestJournalFailure(t *testing.T) {
	w := newWorld(t, nil)
	w.put("f", "1")
	first := w.barrier()
	broken := errors.New("journal is broken")
	w.put("f", "2")
	w.failSync.Store(&broken)
	if seq, err := w.m.Barrier(w.ctx(), "fsync"); !errors.Is(err, state.ErrReadOnly) {
		t.Errorf("barrier: %d, %v", seq, err)
	}
	if _, err := w.m.Snapshot(w.ctx(), "", "s", "mkdir", nil); !errors.Is(err, state.ErrReadOnly) && !errors.Is(err, stage.ErrReadOnly) {
		t.Errorf("snapshot: %v", err)
	}
	w.failSync.Store(nil)
	if _, err := w.m.Barrier(w.ctx(), "fsync"); !errors.Is(err, state.ErrReadOnly) && !errors.Is(err, stage.ErrReadOnly) {
		t.Errorf("barrier after the disk got well: %v", err)
	}
	all, err := w.m.Barriers(0, 10)
	if err != nil || len(all) != 1 || all[0].Seq != first {
		t.Errorf("snapshots: %+v, %v", all, err)
	}
	if _, err := w.m.Resolve("", "s"); !errors.Is(err, snapshot.ErrNotExist) {
		t.Errorf("the failed snapshot: %v", err)
	}
}
