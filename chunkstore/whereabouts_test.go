package chunkstore

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/pack"
	"stepfs/chunkstore/remote/mem"
)

// Packs of a ref were not written for each other. Of a chunk that is in several of
// them one is taken of which all is there, and no chain goes round.
func TestChainsOfSeveralPacks(t *testing.T) {
	type at struct {
		chunk, base byte // base 0: none
		pack, depth uint8
	}
	for _, c := range []struct {
		name string
		at   []at
		want map[byte]string // by chunk: the packs of its chain; empty: it can't be had
	}{
		{"the less deep one is made from what is not there", []at{{1, 9, 0, 1}, {1, 2, 1, 2}, {2, 3, 1, 1}, {3, 0, 1, 0}}, map[byte]string{1: "111", 2: "11", 3: "1"}},
		{"each from the other", []at{{1, 2, 0, 1}, {2, 0, 0, 0}, {1, 0, 1, 0}, {2, 1, 1, 1}}, map[byte]string{1: "1", 2: "0"}},
		{"each from the other, and neither whole", []at{{1, 2, 0, 1}, {2, 1, 1, 1}}, map[byte]string{1: "", 2: ""}},
		{"a base that is deeper here than where its delta was made", []at{{1, 2, 0, 1}, {2, 3, 1, 3}, {3, 0, 1, 0}}, map[byte]string{1: "011", 2: "11", 3: "1"}},
		{"the deeper one is less deep here", []at{{1, 2, 0, 1}, {2, 3, 0, 2}, {3, 4, 0, 1}, {4, 0, 0, 0}, {1, 4, 1, 5}}, map[byte]string{1: "10", 2: "000", 3: "00", 4: "0"}},
	} {
		w := &whereabouts{packs: make([]bucket.Pack, 2)}
		for _, a := range c.at {
			l := located{id: ID{a.chunk}, pack: uint32(a.pack), base: -1, depth: a.depth, raw: 10}
			if a.base > 0 {
				l.base, w.bases = int32(len(w.bases)), append(w.bases, pack.Base{ID: ID{a.base}, Depth: a.depth})
			}
			w.chunks = append(w.chunks, l)
		}
		w.measure()
		for chunk, want := range c.want {
			chain, err := w.chain(ID{chunk})
			got := ""
			for _, l := range chain {
				got += fmt.Sprint(l.pack)
			}
			if got != want || (err == nil) != (want != "") || err != nil && !errors.Is(err, ErrMissing) && !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s: chunk %d is read from %q, not %q: %v", c.name, chunk, got, want, err)
			}
		}
	}
}

// What is left in a pack of a snapshot that was forgotten, and can't be made any
// more, is no damage.
func TestReadAllWithoutBases(t *testing.T) {
	b := mem.New()
	cfg := deltaConfig()
	f := openFixture(t, vfs.NewMem(), "store", cfg)
	versions := series(1, 10_000, 2)
	refs := f.storeSeries(versions)
	ref := f.published(b)
	whole, err := openPublished(t, b, cfg, ref, PublishedOptions{}).where.find(refs[0][0].ID)
	try(t, err)
	ref.Packs = slices.Delete(ref.Packs, int(whole.pack), int(whole.pack)+1)
	p := openPublished(t, b, cfg, ref, PublishedOptions{})
	read := 0
	try(t, p.ReadAll(t.Context(), func(r ChunkRead) error {
		read++
		return r.Err
	}))
	if read == p.Chunks() {
		t.Errorf("all of %d chunks can be read", read)
	}
	if err := p.ReadAt(t.Context(), refs[1][0].ID, refs[1][0].Len, nil, 0); !errors.Is(err, ErrMissing) {
		t.Errorf("what needs it: %v", err)
	}
}
