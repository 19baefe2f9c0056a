package fs

import (
	"testing"

	"pgregory.net/rapid"
)

// TestNodeID: what goes into a node's number comes out of it, no two places
// share a number, and none is a number that has another meaning.
func TestNodeID(t *testing.T) {
	type place struct {
		v    view
		slot uint32
		ino  uint64
	}
	anyPlace := func(r *rapid.T) place {
		return place{
			v:    view(rapid.IntRange(0, int(byBarrier)).Draw(r, "view")),
			slot: uint32(rapid.IntRange(1, maxSlot).Draw(r, "slot")),
			ino:  rapid.Uint64Range(1, maxIno).Draw(r, "ino"),
		}
	}
	rapid.Check(t, func(r *rapid.T) {
		a, b := anyPlace(r), anyPlace(r)
		na, nb := snapshotNode(a.v, a.slot, a.ino), snapshotNode(b.v, b.slot, b.ino)
		if got := (place{na.view(), na.slot(), na.ino()}); got != a {
			t.Fatalf("node of %+v says %+v", a, got)
		}
		if (na == nb) != (a == b) {
			t.Fatalf("%+v and %+v: nodes %x and %x", a, b, na, nb)
		}
		if !na.isSnapshot() || na.isLive() || na.isName() {
			t.Fatalf("node %x of a snapshot is something else, too", na)
		}
		if got := na.sibling(b.ino); got != snapshotNode(a.v, a.slot, b.ino) {
			t.Fatalf("sibling of %x: %x", na, got)
		}
		if na == ^nodeID(0) {
			t.Fatal("the number that go-fuse keeps for itself")
		}
	})
}

func TestLiveAndNameNodes(t *testing.T) {
	for _, n := range []nodeID{1, 2, maxIno} {
		if !n.isLive() || n.isSnapshot() || n.isName() || n.ino() != uint64(n) || n.sibling(7) != 7 {
			t.Errorf("live node %d is something else", n)
		}
	}
	for _, n := range []nodeID{snapRoot, barriersNode, textNode, jsonNode, rootLatest, nameNode(firstHashed), nameNode(maxIno)} {
		if !n.isName() || n.isLive() || n.isSnapshot() {
			t.Errorf("name node %x is something else", n)
		}
	}
}

// TestNameTable: a scope has the same number in every process, and each its
// own.
func TestNameTable(t *testing.T) {
	var a, b nameTable
	a.init()
	b.init()
	seen := map[nodeID]nameOf{}
	for _, scope := range []string{"", "run-a", "run-b", "run-a/x", "x/run-a"} {
		for _, kind := range []nameKind{dirName, latestOf} {
			of := nameOf{kind, scope}
			n := a.id(of)
			if again := a.id(of); again != n {
				t.Errorf("%v is %x, then %x", of, n, again)
			}
			if other := b.id(of); other != n {
				t.Errorf("%v is %x here and %x there", of, n, other)
			}
			if was, taken := seen[n]; taken {
				t.Errorf("%v and %v are both %x", of, was, n)
			}
			seen[n] = of
			if back, ok := a.get(n); !ok || back != of {
				t.Errorf("%x is %v, want %v", n, back, of)
			}
		}
	}
	if n := a.id(nameOf{kind: dirName}); n != snapRoot {
		t.Errorf("the directory of snapshots is %x", n)
	}
}
