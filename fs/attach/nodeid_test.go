package attach

import (
	"testing"

	"stepfs/chunkstore/bucket"
	"stepfs/internal/schema"
	"stepfs/snapshot/published"
)

// A node's number says where it lies, to the last bit of each field.
func TestNodeID(t *testing.T) {
	for _, slot := range []uint32{1, 77, maxSlot} {
		for _, page := range []int{0, 1, maxPage} {
			for _, place := range []int{0, 9, maxPlace} {
				n := snapshotNode(slot, page, place)
				if !n.isSnapshot() || n.slot() != slot || n.page() != page || n.place() != place {
					t.Errorf("%d %d %d became %d %d %d", slot, page, place, n.slot(), n.page(), n.place())
				}
			}
		}
	}
	if rootNode.isSnapshot() || inodeNumber(1, 5) == inodeNumber(2, 5) || inodeNumber(maxSlot, 1<<39-1) != 1<<63|1<<61-1 {
		t.Error("numbers are mixed up")
	}
}

// A directory's pages get their numbers once; what is gone and comes back gets
// others.
func TestNumbers(t *testing.T) {
	var table snapshotTable
	table.init()
	step := &published.Step{Writer: bucket.Writer{1}, Ref: 5}
	s, err := table.enter("", "100", step)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := table.enter("", "100", step); again != s {
		t.Error("one name, two snapshots")
	}
	if other, _ := table.enter("", "100@7", step); other == s || other.slot == s.slot {
		t.Error("two names, one directory")
	}
	dir := snapshotNode(s.slot, 0, 0)
	first, _ := s.number(dir, make([]schema.ObjectRef, 3))
	next, _ := s.number(snapshotNode(s.slot, first, 2), make([]schema.ObjectRef, 1))
	if again, _ := s.number(dir, make([]schema.ObjectRef, 3)); again != first || next != first+3 {
		t.Error(first, next, again)
	}
	if up, isRoot := s.parentOf(snapshotNode(s.slot, next, 0)); isRoot || up != snapshotNode(s.slot, first, 2) {
		t.Errorf("%x", up)
	}
	table.leave(s)
	back, _ := table.enter("", "100", step)
	if table.get(s.slot) != nil || back.slot == s.slot {
		t.Error("what came back has the nodes of what was gone")
	}
}
