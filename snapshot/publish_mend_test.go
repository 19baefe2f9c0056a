package snapshot_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"stepfs/chunkstore"
	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/mem"
	"stepfs/snapshot"
)

// What the bucket has lost is sent again, under the key by which refs know it, if
// it is still here and still needed; what prune has deleted is not.
func TestMendRemote(t *testing.T) {
	w := newWorld(t, nil)
	if _, err := w.m.MendRemote(t.Context()); !errors.Is(err, snapshot.ErrNoBucket) {
		t.Errorf("without a bucket: %v", err)
	}
	b := mem.New()
	w.publishTo(b, snapshot.Publish{})
	w.put("a", noise(1, 1<<20))
	one := w.step("1")
	w.published()
	w.put("a", noise(2, 1<<20))
	two := w.step("2")
	w.published()
	mend := func(want chunkstore.Mended) {
		t.Helper()
		got, err := w.m.MendRemote(t.Context())
		w.ok(err)
		if got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	packs := packsIn(t, b)
	mend(chunkstore.Mended{Packs: packs})
	w.noFaults()

	lost := refs(t, b)[one.Seq].Packs
	others := bucket.Pack{Writer: bucket.NewWriter(), Seq: lost[0].Seq, Size: 1}
	w.ok(b.Put(t.Context(), others.Key(), remote.Bytes([]byte("x")))) // its number says nothing
	for _, p := range lost[:2] {
		w.ok(b.Delete(t.Context(), p.Key()))
	}
	mend(chunkstore.Mended{Packs: packs, Sent: 2})
	w.wantFault("were not there any more: 2 of them were sent again")
	w.wantPublished(b, one, two)
	w.ok(b.Delete(t.Context(), others.Key()))

	forgetAndPrune(t, b, one)
	left := packsIn(t, b)
	if left >= packs {
		t.Fatalf("%d packs of %d are left", left, packs)
	}
	mend(chunkstore.Mended{Packs: packs})
	if n := packsIn(t, b); n != left {
		t.Errorf("%d packs, %d before: what was pruned is back", n, left)
	}

	// One that is not here either is said to be lost, and keeps no other back.
	lost = refs(t, b)[two.Seq].Packs
	for _, p := range lost {
		w.ok(b.Delete(t.Context(), p.Key()))
	}
	w.ok(w.mem.Remove("s/packs/" + lost[0].Name.FileName()))
	w.hurt = true
	mend(chunkstore.Mended{Packs: packs, Sent: len(lost) - 1, Lost: 1})
	for k, p := range lost {
		if _, err := b.Stat(context.Background(), p.Key()); (err == nil) != (k > 0) {
			t.Errorf("pack %d of %d: %v", k, len(lost), err)
		}
	}
}

// wantFault looks for a fault, and forgets all.
func (w *world) wantFault(says string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if all := strings.Join(w.faults, "\n"); !strings.Contains(all, says) {
		w.t.Errorf("%q was not reported: %s", says, all)
	}
	w.faults = nil
}
