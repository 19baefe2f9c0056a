package stage

import (
	"bytes"
	"crypto/sha256"
	"math/rand/v2"
	"slices"
	"testing"

	"stepfs/internal/schema"
)

// TestWalk: who goes from chunk to chunk walks, also when pieces come in late;
// who jumps does not.
func TestWalk(t *testing.T) {
	chunk := func(i int) schema.ChunkExtent {
		return schema.ChunkExtent{Off: int64(i) * 100, Len: 100}
	}
	for _, tc := range []struct {
		name  string
		reads []int
		walks int // steps of which the last is so many
	}{
		{"from the start", []int{0, 0, 1, 1, 2, 2, 3, 4, 4}, 3},
		{"from the middle", []int{7, 8, 9, 10}, 2},
		{"late pieces", []int{0, 1, 0, 1, 2, 1, 2, 3, 2, 3, 3}, 2},
		{"once more from the start", []int{0, 1, 2, 3, 0, 1, 2, 3}, 4},
		{"backwards", []int{9, 8, 7, 6, 5, 4, 3, 2, 1, 0}, 0},
		{"every second", []int{0, 2, 4, 6, 8}, 0},
		{"two at a time", []int{0, 50, 1, 51, 2, 52}, 0},
		{"one chunk", []int{0, 0, 0}, 0},
	} {
		var w walk
		n := 0
		for _, i := range tc.reads {
			if w.step(chunk(i)) {
				n++
			}
		}
		if n != tc.walks {
			t.Errorf("%s: %d steps of a walk, want %d", tc.name, n, tc.walks)
		}
	}
	var w walk
	n := 0
	for range 10_000 {
		if w.step(chunk(rand.IntN(1000))) {
			n++
		}
	}
	if n > 5 {
		t.Errorf("at random: %d steps of a walk", n)
	}
}

// countedChunks notes what is made ready, each once, and has room for so much.
type countedChunks struct {
	*memChunks
	room  int
	ready [][32]byte
}

func (c *countedChunks) Prefetch(id [32]byte, _ uint32) bool {
	if slices.Contains(c.ready, id) {
		return true
	}
	if len(c.ready) == c.room {
		return false
	}
	c.ready = append(c.ready, id)
	return true
}

// TestReadAhead: the chunks that come next are asked for in order, as far as there
// is room and to the end of the file; of a file that is hot none are.
func TestReadAhead(t *testing.T) {
	w, _ := memWorld(t)
	defer w.close()
	chunks := &countedChunks{memChunks: newMemChunks()}
	ino, fh := w.create("f")
	const n, chunk = 12, 300000 // as storeAll cuts it
	var ids [][32]byte
	for k := range n {
		w.mustWrite(ino, fh, byte('a'+k), chunk, int64(k)*chunk)
		ids = append(ids, sha256.Sum256(bytes.Repeat([]byte{byte('a' + k)}, chunk)))
	}
	w.snap(ino)
	w.shut(ino, fh)
	w.store(chunks.memChunks)
	w.tree.cfg.Chunks = chunks
	read := func(room int) [][32]byte {
		t.Helper()
		chunks.room, chunks.ready = room, nil
		dst := make([]byte, 128<<10)
		for off := int64(0); off < n*chunk; off += int64(len(dst)) {
			if _, err := w.tree.Read(ino, 0, dst, off); err != nil {
				t.Fatal(err)
			}
		}
		return chunks.ready
	}
	if got := read(n); len(got) != 0 {
		t.Errorf("of a hot file %d chunks were asked for", len(got))
	}
	w.evictAll()
	if got := read(n); !slices.Equal(got, ids[walkSteps+1:]) {
		t.Errorf("%d chunks were asked for, not the last %d in order", len(got), n-walkSteps-1)
	}
	if got := read(2); !slices.Equal(got, ids[walkSteps+1:][:2]) {
		t.Errorf("%d chunks were asked for where there was room for 2", len(got))
	}
}
