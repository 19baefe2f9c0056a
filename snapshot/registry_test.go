package snapshot_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"stepfs/snapshot"
)

func TestNamesAndRevisions(t *testing.T) {
	w := newWorld(t, nil)
	w.put("f", "1")
	first := w.step("12000")
	w.put("f", "2")
	second := w.step("12000")
	if first.Revision != 1 || second.Revision != 2 || first.Name != "12000" {
		t.Errorf("revisions %+v and %+v", first, second)
	}
	for name, want := range map[string]uint64{"12000": second.Seq, first.ID(): first.Seq, second.ID(): second.Seq} {
		i, err := w.m.Resolve("", name)
		if err != nil || i.Seq != want {
			t.Errorf("%s is %d, %v; want %d", name, i.Seq, err, want)
		}
	}
	for _, name := range []string{"", "1200", "120000", "12000@", "12000@0", fmt.Sprintf("12000@0%d", first.Seq), "12000@+1",
		fmt.Sprint("@", first.Seq), fmt.Sprint("1@", first.Seq), "12000@99999", "12000@18446744073709551616"} {
		if i, err := w.m.Resolve("", name); !errors.Is(err, snapshot.ErrNotExist) {
			t.Errorf("%q is %+v, %v", name, i, err)
		}
	}
	if _, err := w.m.Resolve("other", first.ID()); !errors.Is(err, snapshot.ErrNotExist) {
		t.Errorf("a revision of another scope: %v", err)
	}
	revs, err := w.m.Revisions("", "12000", 0)
	if err != nil || len(revs) != 2 || revs[0].Seq != second.Seq || revs[1].Seq != first.Seq {
		t.Errorf("revisions %+v, %v", revs, err)
	}
	steps, err := w.m.Steps("", "", 10)
	if err != nil || len(steps) != 1 || steps[0].Seq != second.Seq {
		t.Errorf("steps %+v, %v", steps, err)
	}
}

func TestBadNames(t *testing.T) {
	w := newWorld(t, nil)
	for _, name := range []string{"", ".", "..", ".x", "a/b", "a@1", "latest", "a\nb", "a\x00b", strings.Repeat("x", 201)} {
		if _, err := w.m.Snapshot(w.ctx(), "", name, "mkdir", nil); !errors.Is(err, snapshot.ErrBadName) {
			t.Errorf("%q: %v", name, err)
		}
	}
	w.put("file", "x")
	for _, scope := range []string{"gone", "file"} {
		if _, err := w.m.Snapshot(w.ctx(), scope, "x", "mkdir", nil); !errors.Is(err, snapshot.ErrNotExist) {
			t.Errorf("scope %q: %v", scope, err)
		}
	}
}

// A name that a person gives is given once, also when two ask at a time.
func TestExplicitNamesAreTakenOnce(t *testing.T) {
	w := newWorld(t, nil)
	w.dir("run")
	_, err := w.m.Snapshot(w.ctx(), "run", "inner", "mkdir", nil)
	w.ok(err)
	if _, err := w.m.Snapshot(w.ctx(), "", "run", "mkdir", nil); !errors.Is(err, snapshot.ErrExist) {
		t.Errorf("a name that is a scope: %v", err)
	}
	var wg sync.WaitGroup
	errs := make([]error, 8)
	w.disk.shut()
	w.put("f", text("f", big))
	for k := range errs {
		wg.Add(1)
		go func() {
			defer wg.Done()
			_, errs[k] = w.m.Snapshot(w.ctx(), "", "name", "mkdir", nil)
		}()
	}
	until(t, "all have found the name free", func() bool { return w.disk.held() >= len(errs) })
	w.disk.openGate()
	wg.Wait()
	made := 0
	for _, err := range errs {
		if err == nil {
			made++
		} else if !errors.Is(err, snapshot.ErrExist) {
			t.Error(err)
		}
	}
	if made != 1 {
		t.Errorf("%d of %d made the name", made, len(errs))
	}
}

// latest is what was sealed last, whatever its number; names that people give
// count only where there is no step.
func TestLatest(t *testing.T) {
	w := newWorld(t, nil)
	check := func(want uint64, there bool) {
		t.Helper()
		for _, when := range []string{"", " after a restart"} {
			i, ok := w.m.Latest("")
			if ok != there || i.Seq != want {
				t.Errorf("latest%s is %d, %v; want %d, %v", when, i.Seq, ok, want, there)
			}
			w.restart()
		}
	}
	named := func(name string) snapshot.Info {
		i, err := w.m.Snapshot(w.ctx(), "", name, "mkdir", nil)
		w.ok(err)
		return i
	}
	check(0, false)
	a := named("a")
	check(a.Seq, true)
	b := named("b")
	check(b.Seq, true)
	w.ok(w.m.Remove(w.ctx(), "b", 0))
	check(a.Seq, true)
	high := w.step("9000")
	check(high.Seq, true)
	low := w.step("1000")
	check(low.Seq, true)
	named("c")
	check(low.Seq, true)
	w.ok(w.m.Remove(w.ctx(), "c", 0))
	check(low.Seq, true)
}

func TestScopes(t *testing.T) {
	w := newWorld(t, nil)
	for _, scope := range []string{"a", "a/b/c", "ab", "d/e"} {
		w.dir(scope)
		_, err := w.m.Snapshot(w.ctx(), scope, "s", "mkdir", nil)
		w.ok(err)
	}
	w.step("1")
	for range 2 {
		for parent, want := range map[string][]string{"": {"a", "ab", "d"}, "a": {"b"}, "a/b": {"c"}, "a/b/c": nil, "d": {"e"}, "ab": nil} {
			got := w.m.Scopes(parent)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("scopes in %q: %q, want %q", parent, got, want)
			}
		}
		w.restart()
	}
	w.ok(w.m.Remove(w.ctx(), "d/e/s", 0))
	if got := w.m.Scopes(""); slices.Contains(got, "d") {
		t.Errorf("scopes after the last name was removed: %q", got)
	}
}

func TestStepsPages(t *testing.T) {
	w := newWorld(t, nil)
	var want []string
	for k := range 25 {
		name := fmt.Sprint(k * 7)
		want = append(want, name)
		w.step(name)
		if k%3 == 0 {
			w.step(name)
		}
	}
	slices.Sort(want)
	for _, page := range []int{1, 4, 100} {
		var got []string
		for after := ""; ; {
			is, err := w.m.Steps("", after, page)
			w.ok(err)
			if len(is) == 0 {
				break
			}
			for _, i := range is {
				got, after = append(got, i.Name), i.Name
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("pages of %d: %q, want %q", page, got, want)
		}
	}
	n := 0
	for after := uint64(0); ; {
		is, err := w.m.Barriers(after, 4)
		w.ok(err)
		if len(is) == 0 {
			break
		}
		for _, i := range is {
			if i.Seq <= after {
				t.Errorf("barrier %d after %d", i.Seq, after)
			}
			after = i.Seq
			n++
		}
	}
	if n != 25+9 {
		t.Errorf("%d barriers", n)
	}
}

func TestSlotsAreForEver(t *testing.T) {
	w := newWorld(t, nil)
	slots := map[uint32]uint64{}
	for k := range 5 {
		w.put("f", fmt.Sprint(k))
		seq := w.barrier()
		slot, err := w.m.Slot(seq)
		w.ok(err)
		if again, err := w.m.Slot(seq); again != slot || err != nil || slot == 0 || slots[slot] != 0 {
			t.Errorf("slot of %d: %d, then %d, %v", seq, slot, again, err)
		}
		slots[slot] = seq
	}
	seq := w.step("s").Seq
	var wg sync.WaitGroup
	got := make([]uint32, 8)
	for k := range got {
		wg.Add(1)
		go func() { defer wg.Done(); got[k], _ = w.m.Slot(seq) }()
	}
	wg.Wait()
	for _, s := range got {
		if s != got[0] || s == 0 {
			t.Errorf("slots of one snapshot: %v", got)
		}
	}
	slots[got[0]] = seq
	w.restart()
	for slot, seq := range slots {
		if i, err := w.m.BySlot(slot); err != nil || i.Seq != seq {
			t.Errorf("slot %d is %d, %v; want %d", slot, i.Seq, err, seq)
		}
		if got, err := w.m.Slot(seq); err != nil || got != slot {
			t.Errorf("slot of %d became %d, %v", seq, got, err)
		}
	}
	if _, err := w.m.BySlot(1000); !errors.Is(err, snapshot.ErrNotExist) {
		t.Errorf("a slot that was not given out: %v", err)
	}
}

func TestRemove(t *testing.T) {
	w := newWorld(t, nil)
	w.put("f", "1")
	i, err := w.m.SnapshotAs(w.ctx(), "", "mine", "mkdir", 1000, []string{"tag"})
	w.ok(err)
	w.step("7")
	for name, want := range map[string]error{"7": snapshot.ErrReadOnly, "gone": snapshot.ErrNotExist, i.ID(): snapshot.ErrReadOnly} {
		if err := w.m.Remove(w.ctx(), name, 0); !errors.Is(err, want) {
			t.Errorf("remove %s: %v, want %v", name, err, want)
		}
	}
	if err := w.m.Remove(w.ctx(), "mine", 1001); !errors.Is(err, snapshot.ErrPerm) {
		t.Errorf("remove another user's: %v", err)
	}
	w.ok(w.m.Remove(w.ctx(), "mine", 1000))
	if err := w.m.Remove(w.ctx(), "mine", 1000); !errors.Is(err, snapshot.ErrNotExist) {
		t.Errorf("remove twice: %v", err)
	}
	w.kill()
	if _, err := w.m.Resolve("", "mine"); !errors.Is(err, snapshot.ErrNotExist) {
		t.Errorf("the name is back: %v", err)
	}
	left, err := w.m.Get(i.Seq)
	if err != nil || left.Name != "" || left.Explicit {
		t.Errorf("what is left: %+v, %v", left, err)
	}
	w.want(i.Seq, "f", "1")
	again, err := w.m.Snapshot(w.ctx(), "", "mine", "mkdir", nil)
	if err != nil || again.Revision != 1 {
		t.Errorf("the name again: %+v, %v", again, err)
	}
	w.drain()
}
