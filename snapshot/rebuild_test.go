package snapshot_test

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"stepfs/chunkstore"
	"stepfs/fs/stage"
	"stepfs/internal/livetree"
	"stepfs/internal/schema"
	"stepfs/internal/state"
	"stepfs/snapshot"
)

// rebuild closes the world, throws index and journal away, and makes them again
// from packs, but for objects that can't be read any more.
func (w *world) rebuild(unreadable ...chunkstore.ID) *snapshot.Rebuilt {
	w.t.Helper()
	return w.rebuildWith(nil, nil, unreadable...)
}

// rebuildWith is rebuild that knows of records, and tells what is lost.
func (w *world) rebuildWith(known map[uint64]*schema.Snapshot, lost func(snapshot.Info, string, string), unreadable ...chunkstore.ID) *snapshot.Rebuilt {
	w.t.Helper()
	w.ok(w.stop(true))
	for _, dir := range []string{"s/index", "s/journal"} {
		w.ok(w.mem.RemoveAll(dir))
	}
	e, err := state.Open(state.Config{Dir: "s", FS: w.mem, BootID: w.boot, Bulk: true})
	w.ok(err)
	_, err = chunkstore.IndexPacks(w.ctx(), e, w.mem, "s/packs", 0, nil)
	w.ok(err)
	r, err := chunkstore.NewReader(e, w.mem, "s/packs", chunkConf)
	w.ok(err)
	objects := fewerObjects{r, unreadable}
	now := time.Now()
	res, err := snapshot.Rebuild(w.ctx(), snapshot.RebuildConfig{DB: e, Objects: objects, Known: known, Lost: lost, Now: now, Tree: func(last uint64) snapshot.RebuiltTree {
		return livetree.Rebuilder{Rebuilder: stage.NewRebuilder(e, last, 0, 0, 0, now.UnixNano())}
	}})
	w.ok(err)
	_, err = chunkstore.CountDead(w.ctx(), e, 0, func(chunkstore.Dead) (uint64, error) { return 1, nil })
	w.ok(err)
	r.Close()
	w.ok(e.Close(true))
	w.ok(state.JournalOfBulk(w.mem, "s/journal", w.boot))
	w.open()
	return res
}

// fewerObjects are objects of which some can't be read.
type fewerObjects struct {
	snapshot.Objects
	unreadable []chunkstore.ID
}

func (o fewerObjects) ReadBack(ctx context.Context, id chunkstore.ID, buf []byte) ([]byte, error) {
	if slices.Contains(o.unreadable, id) {
		return nil, chunkstore.ErrCorrupt
	}
	return o.Objects.ReadBack(ctx, id, buf)
}

// TestRebuildAfterLoss: what a step has lost is lost to that step alone. A directory
// that is in the next step as it was in the one before is there again, though in
// between nobody knows what was in it.
func TestRebuildAfterLoss(t *testing.T) {
	w := newWorld(t, nil)
	w.put("d/stays", "as it was")
	w.put("d/sub/stays", "this, too")
	before := w.step("before")
	want := describe(t, w.tree.At(before.Seq), 1)
	w.put("d/sub/passes", "for a while")
	between := w.step("between")
	w.remove("d/sub/passes")
	after := w.step("after")
	w.drain()
	// The names of d/sub at that time are lost: the one object that this step alone has
	// of it.
	object := w.objectOf(between, "d", "sub")
	if object == w.objectOf(before, "d", "sub") || w.objectOf(after, "d", "sub") != w.objectOf(before, "d", "sub") {
		t.Fatal("this proves nothing")
	}
	wantAfter := describe(t, w.tree.At(after.Seq), 1)
	res := w.rebuild(object)
	if res.Steps != 3 || res.Partial != 1 {
		t.Errorf("rebuilt %+v", res)
	}
	same(t, "the step before", want, describe(t, w.tree.At(before.Seq), 1))
	same(t, "the step after", wantAfter, describe(t, w.tree.At(after.Seq), 1))
	w.wantAbsent(between.Seq, "d/sub/passes")
}

// TestRebuildWithKnown: what records of a damaged index still say is had, and what they
// say of is named if it is not back.
func TestRebuildWithKnown(t *testing.T) {
	w := newWorld(t, nil)
	w.put("a", "stored")
	held := w.step("held")
	w.drain()
	_, err := w.m.Hold(held.Seq, snapshot.Hold{Name: "mine", By: "me@here", Reason: "it is good"})
	w.ok(err)
	w.put("a", "not stored")
	w.barrier()
	staged := w.step("staged")
	known := map[uint64]*schema.Snapshot{}
	it, err := w.eng.NewIter([]byte{schema.PrefixSnapshot}, []byte{schema.PrefixSnapshot + 1})
	w.ok(err)
	for ok := it.First(); ok; ok = it.Next() {
		seq, err := schema.ParseNumbered(it.Key())
		w.ok(err)
		known[seq], err = schema.DecodeSnapshot(slices.Clone(it.Value()))
		w.ok(err)
	}
	w.ok(it.Close())
	var lost []string
	res := w.rebuildWith(known, func(i snapshot.Info, path, _ string) { lost = append(lost, i.ID()+":"+path) })
	if res.Steps != 1 || res.Barriers != 1 || !slices.Equal(lost, []string{staged.ID() + ":."}) {
		t.Errorf("%+v, lost %q", res, lost)
	}
	i, err := w.m.Get(held.Seq)
	w.ok(err)
	if len(i.Holds) != 1 || i.Holds[0].Name != "mine" || i.Holds[0].Reason != "it is good" {
		t.Errorf("holds: %+v", i.Holds)
	}
}

// objectOf is the object of a directory in a step's tree.
func (w *world) objectOf(i snapshot.Info, path ...string) chunkstore.ID {
	w.t.Helper()
	v, err := w.eng.Get(schema.Numbered(schema.PrefixSnapshot, i.Seq))
	w.ok(err)
	rec, err := schema.DecodeSnapshot(v)
	w.ok(err)
	b, err := w.chunks.ReadBack(w.ctx(), rec.Tree, nil)
	w.ok(err)
	_, _, at, err := schema.DecodeRoot(b)
	w.ok(err)
	for _, name := range path {
		b, err := w.chunks.ReadBack(w.ctx(), at.Dir.ID, nil)
		w.ok(err)
		es, err := schema.DecodePage(b)
		w.ok(err)
		at = es[slices.IndexFunc(es, func(e schema.TreeEntry) bool { return e.Name == name })]
	}
	return at.Dir.ID
}

// TestRebuildModel: whatever a tree went through, each step shows after a rebuild
// what it showed before, to the inode's number; checks find nothing, then or after
// more changes, more rebuilds, and prunes in any order.
func TestRebuildModel(t *testing.T) {
	rounds := 12
	if s := os.Getenv("STEPFS_ROUNDS"); s != "" {
		_, err := fmt.Sscan(s, &rounds)
		if err != nil {
			t.Fatal(err)
		}
	}
	seed := time.Now().UnixNano()
	if s := os.Getenv("STEPFS_SEED"); s != "" {
		_, err := fmt.Sscan(s, &seed)
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("STEPFS_SEED=%d", seed)
	steps := 0
	for round := range rounds {
		steps += rebuildRound(t, rand.New(rand.NewSource(seed+int64(round))))
	}
	t.Logf("%d steps rebuilt", steps)
	if steps < rounds {
		t.Error("this proved nothing")
	}
}

func rebuildRound(t *testing.T, rnd *rand.Rand) (rebuilt int) {
	w := newWorld(t, nil)
	defer w.close()
	want := map[string]map[string]string{} // by scope/name
	infos := map[string]snapshot.Info{}
	names := 0
	check := func(when string) {
		t.Helper()
		if fs := w.findings(); len(fs) > 0 {
			t.Fatalf("%s the check finds %d things: %+v", when, len(fs), fs[:min(len(fs), 5)])
		}
		for name, tree := range want {
			i, err := w.m.Get(infos[name].Seq)
			if err != nil {
				t.Fatalf("%s step %s: %v", when, name, err)
			}
			same(t, when+" step "+name, tree, describe(t, w.tree.At(i.Seq), i.ScopeIno))
		}
	}
	forget := func(i snapshot.Info) {
		t.Helper()
		_, err := w.m.Forget(snapshot.Forget{Scope: i.Scope, Names: []string{i.Name}, By: "t", Reason: "t"})
		w.ok(err)
	}
	for part := range 3 {
		for range 4 {
			for range 1 + rnd.Intn(12) {
				w.change(rnd)
			}
			scope := []string{"", "", "a", "a/b", "c"}[rnd.Intn(5)]
			w.dir(scope)
			names++
			i, err := w.m.Snapshot(w.ctx(), scope, fmt.Sprintf("s%d", names), "command", []string{"tag"})
			w.ok(err)
			want[i.Path()] = describe(t, w.tree.At(i.Seq), i.ScopeIno)
			infos[i.Path()] = i
		}
		w.drain()
		res := w.rebuild()
		if res.Steps < len(want) || part == 0 && (res.Steps != len(want) || !res.Whole()) {
			t.Fatalf("%d steps rebuilt of %d: %+v", res.Steps, len(want), res)
		}
		rebuilt += len(want)
		// What was pruned before may be back, and not whole.
		for _, scope := range w.m.AllScopes() {
			all, err := w.m.Steps(scope, "", 1000)
			w.ok(err)
			for _, i := range all {
				if want[i.Path()] == nil {
					forget(i)
				}
			}
		}
		w.prune()
		check(fmt.Sprintf("part %d: rebuilt,", part))
		for name, i := range infos { // some of them go
			if rnd.Intn(3) > 0 {
				continue
			}
			forget(i)
			delete(want, name)
			delete(infos, name)
		}
		w.prune()
		check(fmt.Sprintf("part %d: pruned,", part))
		_, err := w.chunks.Collect(w.ctx(), chunkstore.CollectOptions{})
		w.ok(err)
		check(fmt.Sprintf("part %d: collected,", part))
	}
	w.noFaults()
	return rebuilt
}

// change does something to the tree.
func (w *world) change(rnd *rand.Rand) {
	w.t.Helper()
	dirs := []string{"", "a/", "a/b/", "c/", "a/x/", "c/y/", "z/"}
	path := func() string { return dirs[rnd.Intn(len(dirs))] + fmt.Sprintf("f%d", rnd.Intn(6)) }
	find := func(p string) (stage.Attr, bool) { a, err := w.tree.Now().Find(p); return a, err == nil }
	p := path()
	a, there := find(p)
	q := path()
	parent := func(p string) uint64 { return w.dir(strings.TrimSuffix(p[:strings.LastIndexByte("/"+p, '/')], "/")) }
	base := func(p string) string { return p[strings.LastIndexByte(p, '/')+1:] }
	switch rnd.Intn(9) {
	case 0, 1, 2:
		if !there || a.Mode&stage.ModeType == stage.ModeReg {
			w.put(p, noise(rnd.Int63n(8), rnd.Intn(30000)))
		}
	case 3:
		if there {
			w.remove(p)
		}
	case 4:
		if there && p != q {
			_ = w.tree.Rename(parent(p), base(p), parent(q), base(q), 0)
		}
	case 5:
		if _, taken := find(q); there && !taken {
			_, err := w.tree.Link(a.Ino, parent(q), base(q))
			w.ok(err)
		}
	case 6:
		if there {
			if rnd.Intn(2) == 0 {
				w.ok(w.tree.SetXattr(a.Ino, fmt.Sprintf("user.x%d", rnd.Intn(2)), []byte(fmt.Sprint(rnd.Intn(3))), 0))
			} else {
				_ = w.tree.RemoveXattr(a.Ino, fmt.Sprintf("user.x%d", rnd.Intn(2)))
			}
		}
	case 7:
		from, to := dirs[1+rnd.Intn(len(dirs)-1)], dirs[1+rnd.Intn(len(dirs)-1)]
		from, to = strings.TrimSuffix(from, "/"), strings.TrimSuffix(to, "/")+"2"
		if rnd.Intn(2) == 0 {
			from, to = to, strings.TrimSuffix(to, "2")
		}
		if _, ok := find(from); ok && !strings.HasPrefix(to, from+"/") { // which the kernel refuses
			_ = w.tree.Rename(parent(from), base(from), parent(to), base(to), 0)
		}
	case 8:
		if !there {
			_, err := w.tree.Symlink(parent(p), base(p), noise(rnd.Int63n(3), 5), stage.Cred{})
			w.ok(err)
		} else if rnd.Intn(3) == 0 {
			if d := strings.TrimSuffix(dirs[1+rnd.Intn(len(dirs)-1)], "/"); d != "" {
				if _, ok := find(d); ok {
					_ = w.tree.RemoveAll(parent(d), base(d))
				}
			}
		}
	}
}
