package stage

import (
	"bytes"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"stepfs/internal/schema"
)

func (w *world) exclude(patterns ...string) {
	w.t.Helper()
	e, err := ParseExcludes(patterns)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.tree.Exclude(e); err != nil {
		w.t.Fatal(err)
	}
}

// checkExcluded compares a snapshot of the tree as it is with the live tree:
// what matches no pattern is there, nothing else is, and nothing of it is
// excluded.
func (w *world) checkExcluded(seq uint64) {
	w.t.Helper()
	shown := w.listing(seq, RootIno)
	var walk func(dir uint64, path string)
	walk = func(dir uint64, path string) {
		es, err := w.tree.ReadDir(dir, "", 1000)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, e := range es {
			p := join(path, e.Name)
			_, ok := shown[p]
			delete(shown, p)
			rec, _, err := w.tree.readInode(e.Ino, newest)
			if err != nil {
				w.t.Fatal(err)
			}
			switch {
			case w.tree.excludes.match(p, e.Type == ModeDir):
				if ok {
					w.t.Fatalf("snapshot %d shows %s", seq, p)
				}
				continue
			case rec.Excluded:
				w.t.Fatalf("%s can be seen, and is excluded", p)
			case !ok && w.tree.Writers(e.Ino) == 0:
				w.t.Fatalf("snapshot %d does not show %s", seq, p)
			}
			if e.Type == ModeDir {
				walk(e.Ino, p)
			}
		}
	}
	walk(RootIno, "")
	for p := range shown {
		if p != "" {
			w.t.Fatalf("snapshot %d shows %s, which is not there", seq, p)
		}
	}
}

// TestExcludes: patterns match as gitignore's do.
func TestExcludes(t *testing.T) {
	for _, c := range []struct {
		pattern, yes, no string // paths; those of directories end with a slash
	}{
		{"cache", "cache a/cache cache/x a/cache/b/c", "caches a/xcache"},
		{"*.tmp", "x.tmp a/x.tmp .tmp x.tmp/y", "tmp x.tmp1"},
		{"/cache", "cache cache/x", "a/cache"},
		{"runs/*/tb", "runs/a/tb runs/a/tb/x", "runs/tb runs/a/b/tb a/runs/a/tb"},
		{"runs/**/tb", "runs/tb runs/a/b/tb", "tb a/runs/tb"},
		{"wandb/", "wandb/ a/wandb/ wandb/x", "wandb a/wandb"},
		{"events.{a,b}*", "events.a1 x/events.b", "events.c"},
		{"tmp-checkpoint-[0-9]*", "tmp-checkpoint-10/ tmp-checkpoint-1/a", "checkpoint-10 tmp-checkpoint-x"},
		{`a\*b`, "a*b", "axb"},
	} {
		e, err := ParseExcludes([]string{"unrelated", c.pattern})
		if err != nil {
			t.Fatal(err)
		}
		for want, paths := range map[bool]string{true: c.yes, false: c.no} {
			for _, p := range strings.Fields(paths) {
				path, dir := strings.CutSuffix(p, "/")
				if got := e.match(path, dir); got != want {
					t.Errorf("%q matches %q: %v", c.pattern, p, got)
				}
			}
		}
	}
	for _, bad := range []string{"", "/", "*", "**", "/**/*", "..", "a/../b", "a//b", "./a", "[a", "{a", "a\nb"} {
		if _, err := ParseExcludes([]string{bad}); err == nil {
			t.Errorf("%q is taken for a pattern", bad)
		}
	}
}

// TestExcludedIsNotStored: nothing of an excluded file waits for ingest, is
// held by a cut, or counts as bytes that a pack will need.
func TestExcludedIsNotStored(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	w.exclude("cache")
	dir, err := w.tree.Mknod(RootIno, "cache", ModeDir|0o755, 0, Cred{})
	if err != nil {
		t.Fatal(err)
	}
	a, fh, err := w.tree.Create(dir.Ino, "db", 0o644, unix.O_RDWR, Cred{})
	if err != nil {
		t.Fatal(err)
	}
	for k := range 5 {
		w.mustWrite(a.Ino, fh, byte('a'+k), 300000, 0)
		if err := w.tree.SyncLive(a.Ino); err != nil {
			t.Fatal(err)
		}
		w.snap()
	}
	if n, err := w.tree.unstored(); err != nil || n != 0 {
		t.Errorf("%d bytes are to be stored, %v", n, err)
	}
	w.shut(a.Ino, fh)
	w.snap(a.Ino) // with a file that is not excluded, say
	size := int64(300000)
	if _, err := w.tree.SetAttr(a.Ino, SetAttr{Size: &size}); err != nil { // is a close of its own
		t.Fatal(err)
	}
	w.snap()
	if n := w.count(schema.PrefixPending); n != 0 {
		t.Errorf("%d contents wait for ingest", n)
	}
	w.tree.settler.wait()
	w.reapAll()
	if n := w.count(schema.PrefixGen); n != 1 {
		t.Errorf("%d generations, want one", n)
	}
	if n := len(w.tree.marks(a.Ino)); n != 0 {
		t.Errorf("%d generations are not settled after a sync", n)
	}
	w.reopen()
	w.wantLive(a.Ino, bytes.Repeat([]byte("e"), 300000))
}

// TestExcludedLater: a file that snapshots have shown, and that is excluded
// then, does not change in them when it is overwritten.
func TestExcludedLater(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	ino, fh := w.create("f")
	w.mustWrite(ino, fh, 'a', 300000, 0)
	w.shut(ino, fh)
	old := w.snap(ino)
	w.exclude("f")
	for _, c := range []byte("bc") {
		fh, err := w.tree.Open(ino, unix.O_RDWR, Cred{})
		if err != nil {
			t.Fatal(err)
		}
		w.mustWrite(ino, fh, c, 1000, 5000)
		w.shut(ino, fh)
		w.checkExcluded(w.snap())
		w.wantSnap(old, ino, bytes.Repeat([]byte("a"), 300000), "")
	}
	want := bytes.Repeat([]byte("a"), 300000)
	copy(want[5000:], bytes.Repeat([]byte("c"), 1000))
	w.wantLive(ino, want)
	w.exclude()
	seq := w.snap()
	w.checkExcluded(seq)
	w.wantSnap(seq, ino, want, "")
}

// TestExcludedComesIntoSight: what is renamed or linked to a name that is not
// excluded is in the next snapshot, whole, with all below it.
func TestExcludedComesIntoSight(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	w.exclude("*.tmp", "tmp-*", "keep")
	tmp, err := w.tree.Mknod(RootIno, "tmp-1", ModeDir|0o755, 0, Cred{})
	if err != nil {
		t.Fatal(err)
	}
	make := func(dir uint64, name string) uint64 {
		a, fh, err := w.tree.Create(dir, name, 0o644, unix.O_RDWR, Cred{})
		if err != nil {
			t.Fatal(err)
		}
		w.mustWrite(a.Ino, fh, 'x', 100000, 0)
		w.shut(a.Ino, fh)
		return a.Ino
	}
	sub, err := w.tree.Mknod(tmp.Ino, "sub", ModeDir|0o755, 0, Cred{})
	if err != nil {
		t.Fatal(err)
	}
	in := []uint64{make(tmp.Ino, "model"), make(sub.Ino, "optim"), make(sub.Ino, "keep")}
	file := make(RootIno, "a.tmp")
	linked := make(RootIno, "b.tmp")
	before := w.snap()
	w.checkExcluded(before)
	if len(w.listing(before, RootIno)) != 1 {
		t.Fatal("something is shown before")
	}
	for _, err := range []error{
		w.tree.Rename(RootIno, "tmp-1", RootIno, "step-1", 0),
		w.tree.Rename(RootIno, "a.tmp", RootIno, "a", unix.RENAME_NOREPLACE),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.tree.Link(linked, RootIno, "b"); err != nil {
		t.Fatal(err)
	}
	seq := w.snap()
	w.checkExcluded(seq)
	for _, ino := range []uint64{in[0], in[1], file, linked} {
		w.wantSnap(seq, ino, bytes.Repeat([]byte("x"), 100000), "")
	}
	if got := w.listing(seq, RootIno); len(got) != 7 { // the root, step-1, model, sub, optim, a, b
		t.Errorf("shown: %v", got)
	}
	w.checkDiff(before, RootIno, seq, RootIno)
	if fs := treeFindings(w.tree); len(fs) > 0 {
		t.Errorf("the check finds %+v", fs)
	}
}

// TestExcludedSurvivesRollback: in the root and in directories that the step
// has, and an older file of that name does not come back in its place.
func TestExcludedSurvivesRollback(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	run, err := w.tree.Mknod(RootIno, "run", ModeDir|0o755, 0, Cred{})
	if err != nil {
		t.Fatal(err)
	}
	ino, fh := w.create("log")
	w.mustWrite(ino, fh, 'o', 10, 0)
	w.shut(ino, fh)
	seq := w.snap()
	w.exclude("log", "cache/")
	ino, fh = w.create("new")
	w.mustWrite(ino, fh, 'n', 10, 0)
	w.shut(ino, fh)
	if err := w.tree.Rename(RootIno, "new", RootIno, "log", 0); err != nil {
		t.Fatal(err)
	}
	cache, err := w.tree.Mknod(run.Ino, "cache", ModeDir|0o755, 0, Cred{})
	if err != nil {
		t.Fatal(err)
	}
	a, fh, err := w.tree.Create(cache.Ino, "x", 0o644, unix.O_RDWR, Cred{})
	if err != nil {
		t.Fatal(err)
	}
	w.mustWrite(a.Ino, fh, 'c', 10, 0) // and stays open
	if _, err := w.tree.Rollback(RootIno, seq, RootIno, ""); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]uint64{"log": ino, "run/cache/x": a.Ino} {
		if got, err := w.tree.Find(path); err != nil || got.Ino != want {
			t.Errorf("%s: inode %d, want %d, %v", path, got.Ino, want, err)
		}
	}
	w.mustWrite(a.Ino, fh, 'd', 10, 10)
	w.shut(a.Ino, fh)
	w.checkExcluded(w.snap())
	if fs := treeFindings(w.tree); len(fs) > 0 {
		t.Errorf("the check finds %+v", fs)
	}
}

// TestExcludedIsNotToldOf: the sealing engine hears of what can be seen alone.
func TestExcludedIsNotToldOf(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	var ops []Op
	w.tree.cfg.Events.Happened = func(e Event) { ops = append(ops, e.Op) }
	want := func(what string, want ...Op) {
		t.Helper()
		if got := string(opBytes(ops)); got != string(opBytes(want)) {
			t.Errorf("%s: %v, want %v", what, ops, want)
		}
		ops = nil
	}
	w.exclude("x*")
	ino, fh := w.create("x")
	w.mustWrite(ino, fh, 'a', 10, 0)
	w.shut(ino, fh)
	mode := uint32(0o600)
	if _, err := w.tree.SetAttr(ino, SetAttr{Mode: &mode}); err != nil {
		t.Fatal(err)
	}
	want("in the dark")
	_ = w.tree.Rename(RootIno, "x", RootIno, "x2", 0)
	want("from dark to dark")
	_ = w.tree.Rename(RootIno, "x2", RootIno, "y", 0)
	want("into sight", OpRename, OpWrite, OpClose)
	_ = w.tree.Rename(RootIno, "y", RootIno, "x", 0)
	want("out of sight", OpUnlink)
	_ = w.tree.Unlink(RootIno, "x")
	want("removed in the dark")
}

func opBytes(ops []Op) (b []byte) {
	for _, op := range ops {
		b = append(b, byte(op))
	}
	return b
}

// TestExcludedDirLater: what is in a directory that is excluded afterwards is
// stored no more, and is in the next snapshot once it is not excluded.
func TestExcludedDirLater(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	dir, err := w.tree.Mknod(RootIno, "cache", ModeDir|0o755, 0, Cred{})
	if err != nil {
		t.Fatal(err)
	}
	a, fh, err := w.tree.Create(dir.Ino, "x", 0o644, unix.O_RDWR, Cred{})
	if err != nil {
		t.Fatal(err)
	}
	w.exclude("cache")
	w.mustWrite(a.Ino, fh, 'x', 100000, 0)
	w.shut(a.Ino, fh)
	if n := w.count(schema.PrefixPending); n != 0 || !w.tree.Excluded(a.Ino) {
		t.Errorf("%d contents wait for ingest", n)
	}
	w.exclude()
	seq := w.snap()
	w.checkExcluded(seq)
	w.wantSnap(seq, a.Ino, bytes.Repeat([]byte("x"), 100000), "")
}

// TestExcludedGivesBack: what an excluded file held before goes at once, though
// snapshots were taken meanwhile.
func TestExcludedGivesBack(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	w.exclude("x")
	ino, fh := w.create("x")
	for k := range 5 {
		w.mustWrite(ino, fh, byte('a'+k), 300000, 0)
		w.shut(ino, fh)
		w.snap()
		var err error
		if fh, err = w.tree.Open(ino, unix.O_RDWR|unix.O_TRUNC, Cred{}); err != nil {
			t.Fatal(err)
		}
	}
	w.reapAll()
	if n := w.count(schema.PrefixGen); n != 1 { // without bytes
		t.Errorf("%d generations, want one", n)
	}
}

// TestExcludedIsStoredInSight: what was synced in the dark and is renamed into
// sight waits for ingest, though nothing of it is to be committed any more.
func TestExcludedIsStoredInSight(t *testing.T) {
	for _, open := range []bool{false, true} {
		w := newWorld(t)
		w.exclude("*.tmp")
		ino, fh := w.create("a.tmp")
		w.mustWrite(ino, fh, 'x', 100000, 0)
		if err := w.tree.SyncLive(ino); err != nil {
			t.Fatal(err)
		}
		if !open {
			w.shut(ino, fh)
		}
		if n := w.count(schema.PrefixPending); n != 0 {
			t.Errorf("%d contents wait while it is excluded", n)
		}
		if err := w.tree.Rename(RootIno, "a.tmp", RootIno, "a", 0); err != nil {
			t.Fatal(err)
		}
		if n := w.count(schema.PrefixPending); n != 1 {
			t.Errorf("open %v: %d contents wait for ingest, want one", open, n)
		}
		if open {
			w.shut(ino, fh)
		}
		w.close()
	}
}

// TestExcludedHalfway: the daemon dies while other patterns are put in force, and
// the next mount has those of before, or those again.
func TestExcludedHalfway(t *testing.T) {
	excludedHalfway(t)
	excludedHalfway(t, "a", "c")
}

func excludedHalfway(t *testing.T, next ...string) {
	w := newWorld(t)
	defer func() { w.close() }()
	for _, name := range []string{"a", "b", "c"} {
		ino, fh := w.create(name)
		w.shut(ino, fh)
	}
	e, err := ParseExcludes([]string{"a", "c"})
	if err != nil {
		t.Fatal(err)
	}
	// As Exclude does, up to the first entry.
	if err := w.tree.putExcludes(halfwayMark + e.text); err != nil {
		t.Fatal(err)
	}
	root, err := w.tree.get(RootIno)
	if err != nil {
		t.Fatal(err)
	}
	a, err := w.tree.Find("a")
	if err != nil {
		t.Fatal(err)
	}
	n, err := w.tree.get(a.Ino)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.tree.turn(root, "a", n, true, true); err != nil {
		t.Fatal(err)
	}
	w.tree.put(n)
	w.tree.put(root)
	w.reopen()
	w.exclude(next...)
	w.checkExcluded(w.snap())
}

// TestExcludedByItsDirectory: a pattern with a slash that matches only since a
// directory was renamed hides nothing, and a rollback brings such a file back; one
// that matches no more goes on hiding, and a rollback leaves that file alone.
func TestExcludedByItsDirectory(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	w.exclude("step-*/optim", "tmp-*/x")
	dir, err := w.tree.Mknod(RootIno, "tmp-1", ModeDir|0o755, 0, Cred{})
	if err != nil {
		t.Fatal(err)
	}
	inos := map[string]uint64{}
	for _, name := range []string{"optim", "x"} {
		a, fh, err := w.tree.Create(dir.Ino, name, 0o644, unix.O_RDWR, Cred{})
		if err != nil {
			t.Fatal(err)
		}
		w.mustWrite(a.Ino, fh, name[0], 10, 0)
		w.shut(a.Ino, fh)
		inos[name] = a.Ino
	}
	if err := w.tree.Rename(RootIno, "tmp-1", RootIno, "step-1", 0); err != nil {
		t.Fatal(err)
	}
	seq := w.snap()
	if _, err := w.tree.At(seq).Find("step-1/optim"); err != nil {
		t.Errorf("optim is hidden: %v", err)
	}
	if _, err := w.tree.Rollback(RootIno, seq, RootIno, ""); err != nil {
		t.Fatal(err)
	}
	if a, err := w.tree.Find("step-1/optim"); err != nil || a.Size != 10 {
		t.Errorf("optim did not come back: %v", err)
	}
	if a, err := w.tree.Find("step-1/x"); err != nil || a.Ino != inos["x"] {
		t.Errorf("x did not stay: inode %d, %v", a.Ino, err)
	}
}

// TestExcludedIsSettled: a closed file is synced in the background, or it would
// keep its descriptor for ever.
func TestExcludedIsSettled(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	w.exclude("x")
	ino, fh := w.create("x")
	w.mustWrite(ino, fh, 'x', 300000, 0)
	w.shut(ino, fh)
	w.tree.settler.wait()
	if n := len(w.tree.marks(ino)); n != 0 {
		t.Errorf("%d generations are not synced", n)
	}
}
