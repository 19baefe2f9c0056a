package prune

import (
	"math"
	"slices"
	"testing"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote"
)

// A catalog goes when tombstones lie under all of its numbers, and not before.
func TestCatalogs(t *testing.T) {
	b := newBucket(t)
	l, other := take(t, b, alice), take(t, b, bob)
	for k := range uint64(6) {
		must(t, l.Publish(t.Context(), ref(k+1)))
		must(t, other.Publish(t.Context(), ref(k+1)))
	}
	put := func(w bucket.Writer, first, last uint64) string {
		c := &bucket.Catalog{Writer: w, First: first, Last: last}
		must(t, b.Put(t.Context(), c.Key(), remote.Bytes(c.Encode())))
		return c.Key()
	}
	ofAlice, wide, later, ofBob := put(alice, 1, 3), put(alice, 1, 4), put(alice, 5, 9), put(bob, 1, 3)
	endless := put(alice, 0, math.MaxUint64)
	all := []string{ofAlice, wide, later, ofBob, endless}
	want := func(report Report, deleted int, there ...string) {
		t.Helper()
		got := keys(t, b, bucket.CatalogsPrefix)
		slices.Sort(there)
		if report.Catalogs != deleted || !slices.Equal(got, there) {
			t.Errorf("%d deleted, %v stay, want %v", report.Catalogs, got, there)
		}
	}
	want(run(t, b, 0), 0, all...)
	for _, seq := range []uint64{1, 2, 5, 6} {
		must(t, Forget(t.Context(), b, alice, seq))
	}
	want(run(t, b, 0), 0, all...)
	must(t, Forget(t.Context(), b, alice, 3))
	r, err := Run(t.Context(), b, Options{DryRun: true})
	must(t, err)
	want(r, 1, all...)
	want(run(t, b, 0), 1, wide, later, ofBob, endless)
	must(t, Forget(t.Context(), b, alice, 4))
	want(run(t, b, 0), 1, later, ofBob, endless) // refs 7 to 9 were never put
	for seq := range uint64(3) {
		must(t, Forget(t.Context(), b, bob, seq+1))
	}
	want(run(t, b, 0), 1, later, endless)
}
