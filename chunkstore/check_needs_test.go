package chunkstore

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/pack"
	"stepfs/internal/check"
)

// askedHolders are files of the chunks that they hold, and count how often they are
// asked.
type askedHolders struct {
	mapHolders
	refs          map[uint64][]Ref
	places, needs int
}

func (h *askedHolders) Places(holder uint64, asked func([32]byte) bool, fn func([32]byte, check.Place)) error {
	h.places++
	for _, r := range h.refs[holder] {
		if asked(r.ID) {
			fn(r.ID, check.Place{Off: r.Off, End: r.End()})
		}
	}
	return nil
}

func (h *askedHolders) Needs(at check.Places, n *check.Needs) error {
	h.needs++
	for holder := range at {
		n.Add(check.Need{Path: fmt.Sprint("file of ", holder)})
	}
	return nil
}

// TestNeedsOfMany: each damaged chunk is told with the files that hold it, and each
// file is asked once for many chunks, not once for each.
func TestNeedsOfMany(t *testing.T) {
	for _, gone := range []bool{false, true} {
		cfg := smallConfig()
		cfg.PackSize = 64 << 10
		f := openFixture(t, vfs.NewMem(), "store", cfg)
		h := &askedHolders{refs: map[uint64][]Ref{}}
		p := f.ingest(solid(randomBytes(1, 300_000)), nil)
		p.Release()
		refs := p.Refs()
		h.refs[1], h.refs[2] = refs, refs[:len(refs)/2]
		f.holdMap(1, h.refs[1])
		f.holdMap(2, h.refs[2])
		x := audit(f)
		if len(refs) < 2*needsBatch {
			t.Fatalf("%d chunks prove nothing", len(refs))
		}
		f.files.drop()
		if gone {
			for _, rec := range x.packs {
				if err := f.fs.Remove(f.fs.PathJoin(f.dir, pack.Name(rec.Name).FileName())); err != nil {
					t.Fatal(err)
				}
			}
		} else {
			for _, r := range refs {
				at := x.chunks[r.ID]
				flip(f, pack.Name(x.packs[at.Pack].Name), at.Offset)
			}
		}
		inSecond := map[string]bool{}
		for _, r := range h.refs[2] {
			inSecond[chunkName(r.ID[:])] = true
		}
		told := 0
		for _, got := range findings(f, CheckOptions{Holders: h, ReadData: 1}) {
			want := 1
			if gone || inSecond[got.Object] {
				want = 2
			}
			if told++; len(got.List) < 1 || !gone && len(got.List) != want {
				t.Errorf("%s %s needed by %+v, want %d files", got.What, got.Object, got.List, want)
			}
		}
		if !gone && told != len(refs) || gone && told != len(x.packs) {
			t.Errorf("gone %v: %d findings, of %d chunks in %d packs", gone, told, len(refs), len(x.packs))
		}
		if most := 2 * (len(refs)/needsBatch + 2); h.places > most || h.needs > told {
			t.Errorf("gone %v: %d findings, asked %d and %d times", gone, told, h.places, h.needs)
		}
	}
}
