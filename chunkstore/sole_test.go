package chunkstore

import (
	"slices"
	"testing"

	"stepfs/internal/state"
)

// What only some holders hold is put down to the first of them, once, and its
// end is what becomes dead; of what others hold nothing is.
func TestSole(t *testing.T) {
	f := newFixture(t)
	own, both, others := f.store(solid(randomBytes(1, 9000))), f.store(solid(randomBytes(2, 9000))), f.store(solid(randomBytes(3, 9000)))
	f.hold(1, own, both, own)
	f.hold(2, both, others)
	f.hold(3, others)
	sum := func(holder uint64, refs [][]Ref, freed ...uint64) int64 {
		t.Helper()
		n, err := f.Sole(holder, ids(refs...), func(h uint64) bool { return slices.Contains(freed, h) })
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	one, two := [][]Ref{own, both, own}, [][]Ref{both, others}
	if a, b, c := sum(1, one, 1), sum(1, one, 1, 2), sum(2, two, 1, 2); a != 9000 || b != 18000 || c != 0 {
		t.Errorf("%d by one alone, %d and %d by both", a, b, c)
	}
	dead, _ := f.Dead()
	f.drop(1, one...)
	f.drop(2, two...)
	if now, _ := f.Dead(); now-dead != 18000 {
		t.Errorf("%d bytes died", now-dead)
	}
}

// Whoever may now be the only holder of a chunk is told of, and whoever was and
// is no more.
func TestWatch(t *testing.T) {
	f := newFixture(t)
	refs := f.store(solid(randomBytes(1, 3000)))
	var told []uint64
	f.Watch(func(h uint64) { told = append(told, h) })
	want := func(what string, holders ...uint64) {
		t.Helper()
		slices.Sort(told)
		if told = slices.Compact(told); !slices.Equal(told, holders) {
			t.Errorf("%s: told of %v, want %v", what, told, holders)
		}
		told = nil
	}
	f.hold(5, refs)
	want("the first holder", 5)
	f.hold(7, refs)
	want("5 is not alone any more", 5, 7)
	f.hold(6, refs)
	want("a third", 5, 6)
	f.update(func(tx *state.Tx) error { // both in one transaction
		if err := f.Drop(tx, 5, ids(refs)); err != nil {
			return err
		}
		return f.Drop(tx, 6, ids(refs))
	})
	if !slices.Contains(told, 7) {
		t.Errorf("7 is alone now; told of %v", told)
	}
}
