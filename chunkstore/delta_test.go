package chunkstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"stepfs/chunkstore/pack"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// deltaConfig has chunks large enough for planes and deltas to pay.
func deltaConfig() Config {
	c := smallConfig()
	c.MinSize, c.AverageBits, c.MaxSize, c.PackSize, c.CacheBytes = 2<<10, 11, 16<<10, 32<<10, 64<<10
	return c
}

// series gives versions of n fp32 weights, each a small step from the one
// before.
func series(seed uint64, n, versions int) []content {
	rng := rand.New(rand.NewPCG(seed, 1))
	w := make([]float32, n)
	for i := range w {
		w[i] = float32(rng.NormFloat64() * 0.03)
	}
	var out []content
	for range versions {
		b := make([]byte, 0, 4*n)
		for i := range w {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(w[i]))
			w[i] += float32(rng.NormFloat64() * 3e-6)
		}
		out = append(out, solid(b))
	}
	return out
}

// storeSeries stores versions one after the other; holder i+1 holds version i.
func (f *fixture) storeSeries(versions []content) (refs [][]Ref) {
	f.t.Helper()
	var prior []Ref
	for i, c := range versions {
		p := f.ingest(c, prior)
		f.hold(uint64(i+1), p.Refs())
		p.Release()
		prior = p.Refs()
		refs = append(refs, prior)
	}
	return refs
}

func (f *fixture) checkSeries(versions []content, refs [][]Ref) {
	f.t.Helper()
	for i, c := range versions {
		f.cache.drop()
		checkContent(f.t, f, c, refs[i])
	}
}

// depths counts chunks by how deep they are.
func depths(x index) map[uint8]int {
	n := make(map[uint8]int)
	for _, loc := range x.chunks {
		link, err := linkOf(loc)
		if err != nil {
			panic(err)
		}
		n[link.Depth]++
	}
	return n
}

// TestDeltas: versions of weights are kept as deltas, with bounded chains, and
// read back, before and after the store was opened again and its index rebuilt.
func TestDeltas(t *testing.T) {
	f := openFixture(t, vfs.NewMem(), "store", deltaConfig())
	versions := series(1, 10_000, 20)
	refs := f.storeSeries(versions)
	x := audit(f)
	n := depths(x)
	if n[1] == 0 || n[5] == 0 || n[6] != 0 {
		t.Fatalf("chunks by depth: %v", n)
	}
	for i, rs := range refs {
		if len(rs) != len(refs[0]) {
			t.Fatalf("version %d was cut elsewhere", i)
		}
		for _, r := range rs {
			link, _ := linkOf(x.chunks[r.ID])
			if turn := i % f.cfg.Turns; int(link.Turn) != turn {
				t.Fatalf("version %d has turn %d", i, link.Turn)
			} else if turn > 0 && link.ID != refs[i-turn+madeFrom(turn)][rsIndex(rs, r)].ID {
				t.Fatalf("version %d is made from another than it should", i)
			}
		}
	}
	st := f.Stats()
	if st.SavedDeltas < st.Raw/3 || st.SavedPlanes == 0 || st.SavedDeltas+st.SavedPlanes+st.SavedZstd != st.Raw-st.Stored {
		t.Fatalf("%+v", st)
	}
	f.checkSeries(versions, refs)
	f.close()
	f = openFixture(t, f.fs, "store", f.cfg)
	f.checkSeries(versions, refs)
	if err := f.RebuildIndex(context.Background()); err != nil {
		t.Fatal(err)
	}
	if y := audit(f); fmt.Sprint(depths(y)) != fmt.Sprint(n) || f.Stats().Dead != 0 {
		t.Fatalf("chunks by depth %v after, %v before; %d bytes dead", depths(y), n, f.Stats().Dead)
	}
	f.checkSeries(versions, refs)
	if fs := findings(f, CheckOptions{ReadData: 1}); len(fs) > 0 {
		t.Fatalf("%+v", fs)
	}
}

// madeFrom gives the turn of the base of a turn.
func madeFrom(turn int) int {
	if turn%4 > 0 {
		return turn - 1
	}
	return turn & (turn - 1)
}

func rsIndex(rs []Ref, r Ref) int {
	for i := range rs {
		if rs[i] == r {
			return i
		}
	}
	return -1
}

// TestUnchangedAndChanged: of a version in which little changed the rest is
// found, and what changed is a delta, whether or not the end has moved.
func TestUnchangedAndChanged(t *testing.T) {
	for what, grow := range map[string]int{"same length": 0, "longer": 1000, "shorter": -1000} {
		f := openFixture(t, vfs.NewMem(), "store", deltaConfig())
		v := series(2, 50_000, 2)
		half := len(v[0].data) / 2
		data := append(bytes.Clone(v[0].data[:half]), v[1].data[half:]...)
		if data = append(data, make([]byte, max(grow, 0))...); grow < 0 {
			data = data[:len(data)+grow]
		}
		refs := f.storeSeries([]content{v[0], solid(data)})
		f.checkSeries([]content{v[0], solid(data)}, refs)
		x := audit(f)
		n := depths(x)
		if n[1] < len(refs[0])/3 || len(x.chunks) > len(refs[0])*5/3+2 {
			t.Errorf("%s: by depth %v of %d", what, n, len(refs[0]))
		}
	}
}

// TestUnchangedDeltas: what was cut where an earlier version was, and not where
// the chunker cuts, is found whole when it does not change.
func TestUnchangedDeltas(t *testing.T) {
	f := openFixture(t, vfs.NewMem(), "store", deltaConfig())
	versions := series(4, 20_000, 4)
	refs := f.storeSeries(versions)
	for _, longer := range []int{0, 500} {
		c := solid(append(bytes.Clone(versions[3].data), make([]byte, longer)...))
		p := f.ingest(c, refs[3])
		last := refs[3][len(refs[3])-1]
		if want := last.Off; p.InheritedBytes() < want || p.NewBytes() > int64(last.Len)+int64(longer) {
			t.Fatalf("%d bytes longer: %d inherited, %d new", longer, p.InheritedBytes(), p.NewBytes())
		}
		p.Release()
	}
}

// TestDamagedBase: what is made from a damaged or missing chunk is an error
// that names both, and never other bytes; storing the content again heals it.
func TestDamagedBase(t *testing.T) {
	versions := series(3, 4000, 3)
	for what, hurt := range map[string]func(f *fixture, x index, base ID){
		"flipped": func(f *fixture, x index, base ID) {
			loc := x.chunks[base]
			flip(f, pack.Name(x.packs[loc.Pack].Name), loc.Offset+int64(loc.Stored)/2)
		},
		"missing": func(f *fixture, x index, base ID) {
			f.update(func(tx *state.Tx) error { tx.Delete(schema.ChunkKey(0, base)); return nil })
		},
		"of another length": func(f *fixture, x index, base ID) {
			loc := x.chunks[base]
			loc.Raw--
			f.update(func(tx *state.Tx) error { tx.Put(schema.ChunkKey(0, base), loc.Encode()); return nil })
		},
		"made from what is made from it": func(f *fixture, x index, base ID) {
			for id, loc := range x.chunks {
				if link, _ := linkOf(loc); link.ID == base {
					loc := x.chunks[base]
					loc.Enc, loc.Ext = uint8(pack.EncDelta), pack.Base{ID: id, Depth: 1, Turn: 1}.Append(nil)
					f.update(func(tx *state.Tx) error { tx.Put(schema.ChunkKey(0, base), loc.Encode()); return nil })
				}
			}
		},
	} {
		f := openFixture(t, vfs.NewMem(), "store", deltaConfig())
		refs := f.storeSeries(versions)
		x := audit(f)
		base, victim := refs[0][0], refs[1][0]
		hurt(f, x, base.ID)
		f.cache.drop()
		err := f.ReadAt(context.Background(), victim.ID, victim.Len, make([]byte, victim.Len), 0)
		if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrMissing) || !bytes.Contains([]byte(err.Error()), fmt.Appendf(nil, "%x", victim.ID)) {
			t.Fatalf("%s: %v", what, err)
		}
		if fs := findings(f, CheckOptions{ReadData: 1}); len(fs) == 0 {
			t.Fatalf("%s: check found nothing", what)
		}
		if what == "of another length" {
			if err := f.RebuildIndex(context.Background()); err != nil { // the index lies
				t.Fatal(err)
			}
		}
		for range 2 { // the first may have to find out that something is wrong
			for i := range versions {
				p := f.ingest(versions[i], nil)
				f.hold(uint64(i+1), p.Refs())
				p.Release()
				if i > 0 {
					f.cache.drop()
				}
				refs[i] = p.Refs()
			}
		}
		f.checkSeries(versions, refs)
		f.close()
	}
}

// flip changes a byte of a pack.
func flip(f *fixture, name pack.Name, at int64) {
	f.t.Helper()
	f.files.drop()
	file, err := f.fs.OpenReadWrite(f.fs.PathJoin(f.dir, name.FileName()), "test")
	if err != nil {
		f.t.Fatal(err)
	}
	defer file.Close()
	b := make([]byte, 1)
	if _, err := file.ReadAt(b, at); err != nil {
		f.t.Fatal(err)
	}
	b[0] ^= 0x40
	if _, err := file.WriteAt(b, at); err != nil {
		f.t.Fatal(err)
	}
}

// TestForgetSeries: versions forgotten in any order, with collecting in
// between: what is held reads back, and in the end what is on the disk is what
// is held.
func TestForgetSeries(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := openFixture(t, vfs.NewMem(), "store", deltaConfig())
		versions := series(rapid.Uint64Range(1, 3).Draw(t, "seed"), 6000, rapid.IntRange(2, 9).Draw(t, "versions"))
		refs := f.storeSeries(versions)
		order := rapid.Permutation(seq(len(versions))).Draw(t, "order")
		for k, i := range order[:rapid.IntRange(1, len(order)).Draw(t, "forgotten")] {
			f.drop(uint64(i+1), refs[i])
			if rapid.Bool().Draw(t, "collect") {
				f.collect()
				audit(f)
			}
			if rapid.Bool().Draw(t, "reopen") {
				f.close()
				f = openFixture(t, f.fs, "store", f.cfg)
			}
			for _, j := range order[k+1:] {
				f.cache.drop()
				checkContent(t, f, versions[j], refs[j])
			}
		}
		f.collect()
		checkKept(t, f)
		pos := f.engine.Pos()
		if st := f.collect(); st != (CollectStats{}) || f.engine.Pos() != pos {
			t.Fatalf("nothing to do: %+v", st)
		}
	})
}

// checkKept: of the dead those alone are left that two others need, and the
// disk has nothing else.
func checkKept(t tester, f *fixture) {
	t.Helper()
	x := audit(f)
	made := make(map[ID]int)
	for id, loc := range x.chunks {
		if link, _ := linkOf(loc); link.Depth > 0 {
			made[link.ID]++
			if under, _ := linkOf(x.chunks[link.ID]); under.Depth >= link.Depth {
				t.Fatalf("chunk %x of depth %d is made from one of %d", id, link.Depth, under.Depth)
			}
		}
	}
	stored := uint64(0)
	for id, loc := range x.chunks {
		stored += uint64(loc.Stored)
		if _, dead := x.dead[id]; dead && made[id] < 2 {
			t.Fatalf("chunk %x is dead, and %d others are made from it", id, made[id])
		}
	}
	for _, rec := range x.packs {
		stored -= rec.Stored
	}
	if stored != 0 {
		t.Fatalf("packs hold %d bytes that the index does not know", -stored)
	}
}

// TestOneVersionLeft: of a run of which all but one version was forgotten,
// whichever it is, that alone is left, and reads back without a base.
func TestOneVersionLeft(t *testing.T) {
	for left := range 9 {
		f := openFixture(t, vfs.NewMem(), "store", deltaConfig())
		versions := series(5, 6000, 9)
		refs := f.storeSeries(versions)
		for i := range versions {
			if i != left {
				f.drop(uint64(i+1), refs[i])
			}
		}
		st := f.collect()
		auditClean(f)
		if n := depths(readIndex(f)); n[0] != len(refs[left]) || len(n) != 1 || left > 0 && st.Remade != len(refs[left]) {
			t.Fatalf("version %d: chunks by depth %v; %+v", left, n, st)
		}
		f.cache.drop()
		checkContent(t, f, versions[left], refs[left])
		f.close()
	}
}

func seq(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// TestBaseInFlight: what a chunk on its way to the disk is made from stays until
// that is indexed, also when nobody holds it any more.
func TestBaseInFlight(t *testing.T) {
	f := openFixture(t, vfs.NewMem(), "store", deltaConfig())
	v := series(6, 6000, 2)
	refs := f.storeSeries(v[:1])[0]
	p, err := f.Ingest(context.Background(), v[1], refs[:1]) // fills no pack
	if err != nil {
		t.Fatal(err)
	}
	f.drop(1, refs)
	if st := f.collect(); st.Pinned == 0 {
		t.Fatalf("%+v", st)
	}
	if err := f.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	f.hold(2, p.Refs())
	p.Release()
	if n := depths(readIndex(f)); n[1] == 0 {
		t.Fatalf("by depth: %v", n)
	}
	f.collect()
	checkKept(t, f)
	f.cache.drop()
	checkContent(t, f, v[1], p.Refs())
}

// TestFoundIsNotMoved: what a Pending has found stays where it is, or can be
// held where it went, while its base is collected.
func TestFoundIsNotMoved(t *testing.T) {
	f := openFixture(t, vfs.NewMem(), "store", deltaConfig())
	v := series(6, 6000, 2)
	refs := f.storeSeries(v)
	p := f.ingest(v[1], refs[1])
	f.drop(1, refs[0])
	f.drop(2, refs[1])
	f.collect()
	f.collect()
	f.hold(3, p.Refs())
	p.Release()
	f.collect()
	checkKept(t, f)
	f.cache.drop()
	checkContent(t, f, v[1], p.Refs())
}

// TestStoredAgainHasNoBase: a chunk that others are made from, and that is
// stored again since its pack is about to go, is not made from one of those.
func TestStoredAgainHasNoBase(t *testing.T) {
	f := openFixture(t, vfs.NewMem(), "store", deltaConfig())
	v := series(8, 6000, 3)
	refs := f.storeSeries(v)
	f.drop(1, refs[0])
	f.drop(2, refs[1])
	again := false
	store := once(func() {
		p := f.ingest(v[0], refs[2])
		again = p.NewBytes() > 0
		f.hold(9, p.Refs())
		p.Release()
	})
	n := 0
	f.db = &hookedDB{DB: f.engine, before: func(kind schema.Kind) {
		if n++; kind == schema.KindPackState && n > 1 || kind == schema.KindPrune {
			store()
		}
	}}
	f.collect()
	f.db = f.engine
	if !again {
		t.Fatal("it was found in a pack that is about to go")
	}
	f.collect()
	checkKept(t, f)
	f.checkSeries([]content{v[0], v[2]}, [][]Ref{refs[0], refs[2]})
}
