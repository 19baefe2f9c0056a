package chunkstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"stepfs/chunkstore/pack"
)

// over stores c by a plan and waits.
func (f *fixture) over(c content, plan Plan) *Pending {
	f.t.Helper()
	p, err := f.IngestOver(context.Background(), c, plan)
	if err == nil {
		err = f.Flush(context.Background())
	}
	if err == nil {
		err = p.Wait(context.Background())
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return p
}

// moved is the plan of a content before which n bytes more lie now than in refs.
func moved(refs []Ref, n int64) Plan {
	p := Plan{Whole: true}
	for _, r := range refs {
		piece := Piece{Off: r.Off + n, Len: r.Len, ID: r.ID, At: r.Off}
		if len(p.Pieces) == 0 {
			piece.Off, piece.Len = 0, r.Len+uint32(n)
			piece.Window = pack.Window{Raw: r.Len, Skip: int32(-n)}
		}
		p.Pieces = append(p.Pieces, piece)
	}
	return p
}

// longer gives a content with n bytes more before it.
func longer(c content, n int) content {
	return solid(append(bytes.Repeat([]byte("h"), n), c.data...))
}

// TestMoved: a version before which bytes were put is made from the one before,
// chunk by chunk; it reads back, also when the index was rebuilt, and when the
// version in between is gone.
func TestMoved(t *testing.T) {
	f := openFixture(t, vfs.NewMem(), "store", deltaConfig())
	v := series(11, 10_000, 5)
	moves, sum := []int64{0, 777, 101, 33, 5}, int64(0)
	var all [][]Ref
	for i, n := range moves {
		var plan Plan
		if i > 0 {
			plan = moved(all[i-1], n)
		}
		sum += n
		v[i] = longer(v[i], int(sum))
		p := f.over(v[i], plan)
		f.hold(uint64(i+1), p.Refs())
		p.Release()
		all = append(all, p.Refs())
		if len(p.Refs()) != len(all[0]) {
			t.Fatalf("version %d is cut otherwise", i)
		}
	}
	x := audit(f)
	for i, rs := range all {
		for k, r := range rs {
			link, _ := linkOf(x.chunks[r.ID])
			if i == 0 && link.Depth != 0 || i > 0 && link.ID != all[madeFrom(i)][k].ID {
				t.Fatalf("version %d, chunk %d: %+v", i, k, link)
			}
			if i == 4 && k == 0 && (int64(link.Skip) != -sum || link.Raw != all[0][0].Len) {
				t.Fatalf("version 4 is made from %+v", link)
			}
		}
	}
	f.checkSeries(v, all)
	if err := f.RebuildIndex(context.Background()); err != nil {
		t.Fatal(err)
	}
	f.checkSeries(v, all)
	f.drop(2, all[1])
	if st := f.collect(); st.Remade != len(all[0]) {
		t.Fatalf("%+v", st)
	}
	x = audit(f)
	if link, _ := linkOf(x.chunks[all[2][0].ID]); link.ID != all[0][0].ID || link.Skip != -878 || link.Raw != all[0][0].Len {
		t.Fatalf("made from %+v", link)
	}
	v, all = append(v[:1], v[2:]...), append(all[:1], all[2:]...)
	f.checkSeries(v, all)
	if fs := findings(f, CheckOptions{ReadData: 1}); len(fs) > 0 {
		t.Fatalf("%+v", fs)
	}
}

// rounded gives the bf16 of fp32 weights.
func rounded(c content) content {
	var out []byte
	for b := c.data; len(b) >= 4; b = b[4:] {
		v := binary.LittleEndian.Uint32(b)
		out = binary.LittleEndian.AppendUint16(out, uint16((v+0x7fff+v>>16&1)>>16))
	}
	return solid(out)
}

// halves is the plan of what is rounded from refs.
func halves(refs []Ref) Plan {
	p := Plan{Whole: true}
	for _, r := range refs {
		from, to := (r.Off+1)/2, (r.End()+1)/2
		p.Pieces = append(p.Pieces, Piece{Off: from, Len: uint32(to - from), ID: r.ID, At: r.Off,
			Window: pack.Window{Raw: r.Len, Skip: int32(2*from - r.Off), Wide: true}})
	}
	return p
}

// TestRounded: what is rounded takes next to nothing, in each version, wherever
// the fp32 is cut, and however deep that is. Without the fp32 it is whole.
func TestRounded(t *testing.T) {
	cfg := deltaConfig()
	cfg.MinSize, cfg.AverageBits, cfg.MaxSize = 6<<10, 12, 32<<10
	f := openFixture(t, vfs.NewMem(), "store", cfg)
	wide := series(12, 30_001, 4)
	refs := f.storeSeries(wide)
	var narrow []content
	var all [][]Ref
	for i, rs := range refs {
		narrow = append(narrow, rounded(wide[i]))
		p := f.over(narrow[i], halves(rs))
		f.hold(uint64(100+i), p.Refs())
		p.Release()
		if p.StoredBytes() > int64(len(narrow[i].data))/20+int64(100*len(rs)) {
			t.Fatalf("version %d takes %d of %d bytes", i, p.StoredBytes(), len(narrow[i].data))
		}
		all = append(all, p.Refs())
	}
	audit(f)
	f.checkSeries(narrow, all)
	for _, k := range []int{1, 3, 0, 2} {
		f.drop(uint64(k+1), refs[k])
		f.collect()
		audit(f)
		f.checkSeries(narrow, all)
	}
	for i, rs := range all[1:] {
		f.drop(uint64(101+i), rs)
	}
	f.collect()
	checkKept(t, f)
	if n := depths(readIndex(f)); n[0] != len(all[0]) || len(n) != 1 {
		t.Fatalf("chunks by depth %v", n)
	}
	f.checkSeries(narrow[:1], all[:1])
}

// TestAnyPlan: whatever a plan says, the content comes back, in chunks within the
// limits, and so it does from what is left when anything is forgotten.
func TestAnyPlan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := openFixture(t, vfs.NewMem(), "store", deltaConfig())
		versions := series(rapid.Uint64Range(1, 3).Draw(t, "seed"), 6000, 4)
		var all [][]Ref
		var known []Ref
		for i, c := range versions {
			plan := Plan{Whole: rapid.Bool().Draw(t, "whole")}
			at := int64(0)
			for range rapid.IntRange(0, 8).Draw(t, "pieces") {
				at += int64(rapid.SampledFrom([]int{0, 0, 0, 100, 3000, 20_000}).Draw(t, "gap"))
				p := Piece{Off: at, Len: uint32(rapid.IntRange(2048, 16<<10).Draw(t, "length"))}
				if len(known) > 0 {
					r := rapid.SampledFrom(known).Draw(t, "base")
					p.ID = r.ID
					p.Window = pack.Window{Raw: r.Len, Skip: rapid.Int32Range(-20_000, 20_000).Draw(t, "skip"), Wide: rapid.Bool().Draw(t, "wide")}
					if rapid.Bool().Draw(t, "good") {
						p.Len, p.Off, p.Window = r.Len, max(p.Off, r.Off), pack.Window{}
					}
				}
				at = p.End()
				plan.Pieces = append(plan.Pieces, p)
			}
			p := f.over(c, plan)
			f.hold(uint64(i+1), p.Refs())
			p.Release()
			all = append(all, p.Refs())
			known = append(known, p.Refs()...)
			for k, r := range p.Refs() {
				if (int64(r.Len) < int64(f.cfg.MinSize) && k < len(p.Refs())-1) || r.Len > f.cfg.MaxSize {
					t.Fatalf("chunk %d of %d has %d bytes", k, len(p.Refs()), r.Len)
				}
			}
		}
		audit(f)
		f.checkSeries(versions, all)
		for _, i := range rapid.Permutation(seq(len(versions))).Draw(t, "order") {
			f.drop(uint64(i+1), all[i])
			all[i] = nil
			f.collect()
			audit(f)
			for j, rs := range all {
				if rs != nil {
					f.cache.drop()
					checkContent(t, f, versions[j], rs)
				}
			}
		}
		if n := len(readIndex(f).chunks); n > 0 {
			t.Fatalf("%d chunks are left", n)
		}
	})
}

// TestDepth: where little changes each version is made from the one before, but
// none is deeper than it may be.
func TestDepth(t *testing.T) {
	f := openFixture(t, vfs.NewMem(), "store", deltaConfig())
	v := series(13, 6000, 1)
	for i := range 17 {
		next := bytes.Clone(v[i].data)
		for k := range 200 {
			next[(i*997+k*113)%len(next)]++
		}
		v = append(v, solid(next))
	}
	refs := f.storeSeries(v)
	f.checkSeries(v, refs)
	n := depths(audit(f))
	if n[maxDepth] == 0 || n[maxDepth+1] > 0 || n[maxDepth-1] < n[maxDepth] {
		t.Fatalf("by depth: %v", n)
	}
}
