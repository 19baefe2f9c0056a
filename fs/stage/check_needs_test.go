package stage

import (
	"fmt"
	"slices"
	"testing"

	"stepfs/internal/check"
	"stepfs/internal/schema"
)

// TestNeeds: of a chunk it is known which files read it, under which names, and what
// shows them: the live tree, and the snapshots in whose time it was part of the file.
func TestNeeds(t *testing.T) {
	w, _ := memWorld(t)
	c := newMemChunks()
	w.tree.cfg.Chunks = c
	snap := func() uint64 {
		seq, _ := w.barrier()
		return seq
	}
	ino, fh := w.create("f")
	w.mustWrite(ino, fh, 'a', 400_000, 0)
	w.shut(ino, fh)
	w.store(c)
	first := snap()
	if err := w.tree.Rename(RootIno, "f", RootIno, "g", 0); err != nil {
		t.Fatal(err)
	}
	second := snap()
	fh, err := w.tree.Open(ino, 2, Cred{})
	if err != nil {
		t.Fatal(err)
	}
	w.mustWrite(ino, fh, 'b', 1000, 350_000) // in the second chunk
	w.shut(ino, fh)
	w.store(c)
	third := snap()
	holders, err := w.tree.numbered(schema.PrefixChunkMap)
	if err != nil {
		t.Fatal(err)
	}
	es := chunksOf(t, w.tree, holders[0])
	if len(holders) < 2 || len(es) != 2 {
		t.Fatalf("%d generations, %d chunks: this proves nothing", len(holders), len(es))
	}
	for k, want := range []string{
		fmt.Sprintf("g live true [@%d @%d]; f live false [@%d]; ", third, second, first),
		fmt.Sprintf("g live false [@%d]; f live false [@%d]; ", second, first),
	} {
		at := check.Places{}
		for _, h := range holders {
			err := w.tree.Places(h, func(id [32]byte) bool { return id == es[k].ID }, func(_ [32]byte, p check.Place) { at[h] = append(at[h], p) })
			if err != nil {
				t.Fatal(err)
			}
		}
		var n check.Needs
		if err := w.tree.Needs(at, &n); err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, need := range n.List {
			slices.Sort(need.Snapshots)
			slices.Reverse(need.Snapshots)
			got += fmt.Sprintf("%s live %v %v; ", need.Path, need.Live, need.Snapshots)
		}
		if got != want {
			t.Errorf("chunk %d is needed by %s want %s", k, got, want)
		}
	}
}

func chunksOf(t *testing.T, tree *Tree, gen uint64) []schema.ChunkExtent {
	t.Helper()
	es, err := tree.chunkMap(gen)
	if err != nil {
		t.Fatal(err)
	}
	return es
}
