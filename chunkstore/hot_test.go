package chunkstore

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// hot has bases taken from the versions that storeSeries stores; spoil may hurt
// what is given.
func (f *fixture) hot(versions []content, spoil func(dst []byte)) {
	f.Copies(func(holder uint64, id [32]byte, off int64, dst []byte) bool {
		if holder > uint64(len(versions)) {
			return false
		}
		if copy(dst, versions[holder-1].data[off:]) < len(dst) {
			f.t.Fatalf("%d bytes at %d were asked for", len(dst), off)
		}
		if spoil == nil && f.name(dst) != id {
			f.t.Fatal("a holder was asked for a chunk at a place where it has another")
		}
		if spoil != nil {
			spoil(dst)
		}
		return true
	})
}

// idle: no base is left pinned or in memory by what went before.
func idle(t *testing.T, f *fixture) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for number, info := range f.mu.table {
		if info.pins != 0 {
			t.Fatalf("pack %d is pinned %d times", number, info.pins)
		}
	}
}

// TestHotBases: with hot copies nothing is decoded to store a version, and what
// is stored is the same.
func TestHotBases(t *testing.T) {
	versions := series(1, 10_000, 9)
	cold := openFixture(t, vfs.NewMem(), "store", deltaConfig())
	want := cold.storeSeries(versions)
	f := openFixture(t, vfs.NewMem(), "store", deltaConfig())
	f.hot(versions, nil)
	refs := f.storeSeries(versions)
	if st := f.Stats(); st.HotBases < uint64(len(versions)-2)*uint64(len(versions[0].data)) || st.Loads != 0 {
		t.Fatalf("%d bytes of bases were hot, %d chunks decoded", st.HotBases, st.Loads)
	}
	if got, want := audit(f), audit(cold); len(got.chunks) != len(want.chunks) || f.Stats().Stored != cold.Stats().Stored {
		t.Fatalf("%d chunks take %d; without hot copies, %d take %d", len(got.chunks), f.Stats().Stored, len(want.chunks), cold.Stats().Stored)
	}
	for i := range refs {
		for k, r := range refs[i] {
			if r != want[i][k] {
				t.Fatalf("version %d is cut elsewhere", i)
			}
		}
	}
	idle(t, f)
	f.checkSeries(versions, refs)
}

// TestHotWindows: so it is for what has moved since, and for what is rounded. Where
// a chunk lay before it moved twice nobody knows: then its base is decoded.
func TestHotWindows(t *testing.T) {
	var stored [2]uint64
	for i, hot := range []bool{true, false} {
		f := openFixture(t, vfs.NewMem(), "store", deltaConfig())
		versions := series(4, 10_000, 5)
		var contents []content // by holder
		if hot {
			f.Copies(func(holder uint64, id [32]byte, off int64, dst []byte) bool {
				data := contents[holder-1].data
				return copy(dst, data[min(off, int64(len(data))):]) == len(dst) && f.name(dst) == id
			})
		}
		var prior []Ref
		var all [][]Ref
		store := func(c content, plan Plan, want bool) {
			t.Helper()
			before := f.Stats()
			p := f.over(c, plan)
			contents, all = append(contents, c), append(all, p.Refs())
			f.hold(uint64(len(all)), p.Refs())
			p.Release()
			after := f.Stats()
			if want && (after.HotBases > before.HotBases) != hot || want && (after.Loads == before.Loads) != hot {
				t.Fatalf("hot copies: %v, but %d bytes of bases were hot and %d chunks decoded",
					hot, after.HotBases-before.HotBases, after.Loads-before.Loads)
			}
		}
		sum := 0
		for i, n := range []int{0, 777, 101, 33, 5} {
			var plan Plan
			if i > 0 {
				plan = moved(prior, int64(n))
			}
			sum += n
			store(longer(versions[i], sum), plan, i > 0 && i < 4)
			prior = all[i]
		}
		store(rounded(contents[4]), halves(prior), true)
		idle(t, f)
		f.checkSeries(contents, all)
		stored[i] = f.Stats().Stored
	}
	if stored[0] != stored[1] {
		t.Fatalf("with hot copies %d bytes are stored, without them %d", stored[0], stored[1])
	}
}

// TestDamagedHotCopy: what is not the base, whoever gives it, is never a base.
func TestDamagedHotCopy(t *testing.T) {
	versions := series(2, 10_000, 6)
	for what, spoil := range map[string]func(dst []byte){
		"flipped":     func(dst []byte) { dst[len(dst)/2] ^= 1 },
		"zeros":       func(dst []byte) { clear(dst) },
		"new version": func(dst []byte) { dst[0]++; dst[len(dst)-1]-- },
	} {
		f := openFixture(t, vfs.NewMem(), "store", deltaConfig())
		f.hot(versions, spoil)
		refs := f.storeSeries(versions)
		if st := f.Stats(); st.HotBases != 0 || depths(audit(f))[1] == 0 {
			t.Fatalf("%s: %d bytes of bases were hot; chunks by depth: %v", what, st.HotBases, depths(audit(f)))
		}
		idle(t, f)
		f.checkSeries(versions, refs)
	}
}

// TestBasesAhead: wherever what changed begins and ends, and wherever an ingest
// is broken off, each chunk gets its own base, and none is kept.
func TestBasesAhead(t *testing.T) {
	v := series(3, 40_000, 2)
	size := len(v[0].data)
	for _, change := range [][2]int{{0, size / 3}, {size / 3, size / 2}, {size / 2, size}, {size - 5, size}, {0, 0}} {
		data := bytes.Clone(v[0].data)
		copy(data[change[0]:change[1]], v[1].data[change[0]:change[1]])
		f := openFixture(t, vfs.NewMem(), "store", deltaConfig())
		versions := []content{v[0], solid(data)}
		f.checkSeries(versions, f.storeSeries(versions))
		idle(t, f)
	}
	f := openFixture(t, vfs.NewMem(), "store", deltaConfig())
	prior := f.storeSeries(v[:1])[0]
	broken := errors.New("no more")
	for reads := range len(prior) {
		n := 0
		if _, err := f.Ingest(context.Background(), cutShort{v[1], func() error {
			if n++; n > reads {
				return broken
			}
			return nil
		}}, prior); !errors.Is(err, broken) {
			t.Fatalf("after %d reads: %v", reads, err)
		}
	}
	if err := f.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	idle(t, f)
}

// cutShort is a content that can't be read to its end.
type cutShort struct {
	content
	fail func() error
}

func (c cutShort) ReadAt(b []byte, off int64) (int, error) {
	if err := c.fail(); err != nil {
		return 0, err
	}
	return c.content.ReadAt(b, off)
}
