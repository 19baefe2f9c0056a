package chunkstore

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/pack"
	"stepfs/internal/state"
)

// withDeltas gives the pack files that hold deltas, and what is in them.
func withDeltas(f *fixture) map[string][]byte {
	f.t.Helper()
	out := map[string][]byte{}
	for number, rec := range audit(f).packs {
		foot, err := f.readFooter(rec.Name)
		if err != nil {
			f.t.Fatal(number, err)
		}
		if slices.ContainsFunc(foot.Entries, func(e pack.Entry) bool { return e.Enc == pack.EncDelta }) {
			path := f.fs.PathJoin(f.dir, pack.Name(rec.Name).FileName())
			b := make([]byte, rec.Size)
			file, err := f.fs.Open(path)
			if err == nil {
				_, err = file.ReadAt(b, 0)
				file.Close()
			}
			if err != nil {
				f.t.Fatal(err)
			}
			out[path] = b
		}
	}
	return out
}

// TestRebuildWithStaleCopy: of two copies of a chunk, made from different bases, an
// index is rebuilt with the one whose base is there, though the other is younger.
func TestRebuildWithStaleCopy(t *testing.T) {
	f := openFixture(t, vfs.NewMem(), "store", deltaConfig())
	v := series(9, 4000, 3)
	refs := f.storeSeries(v[:2])
	stale := withDeltas(f)
	f.drop(1, refs[0])
	f.drop(2, refs[1])
	if f.collect(); len(audit(f).packs) > 0 {
		t.Fatal("something is left")
	}
	p := f.ingest(v[2], nil)
	f.hold(3, p.Refs())
	p.Release()
	again := f.ingest(v[1], p.Refs())
	f.hold(4, again.Refs())
	again.Release()
	if len(withDeltas(f)) == 0 || len(stale) == 0 {
		t.Fatal("no deltas: nothing proved")
	}
	for path, b := range stale {
		file, err := f.fs.Create(path, "test")
		if err == nil {
			_, err = file.Write(b)
			file.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := f.RebuildIndex(context.Background()); err != nil {
		t.Fatal(err)
	}
	for k, refs := range map[int][]Ref{2: p.Refs(), 1: again.Refs()} {
		if got, err := f.fetchAll(len(v[k].data), refs); err != nil || !bytes.Equal(got, v[k].data) {
			t.Fatalf("version %d: %v", k, err)
		}
	}
	if fs := findings(f, CheckOptions{ReadData: 1}); len(fs) > 0 {
		t.Fatal(fs)
	}
}

// TestHealAboveDamage: the base of a chunk is damaged, and nobody has its bytes;
// the chunk itself is known to be damaged by that, and stored again from a copy.
func TestHealAboveDamage(t *testing.T) {
	f := openFixture(t, vfs.NewMem(), "store", deltaConfig())
	v := series(9, 4000, 2)
	refs := f.storeSeries(v)
	f.drop(1, refs[0])
	at := audit(f).chunks[refs[0][0].ID]
	flip(f, pack.Name(audit(f).packs[at.Pack].Name), at.Offset+int64(at.Stored)/2)
	f.cache.drop()
	r := refs[1][0]
	plain := v[1].data[r.Off:r.End()]
	if _, err := f.fetchAll(len(v[1].data), refs[1][:1]); err == nil {
		t.Fatal("it reads back: nothing proved")
	}
	ids, err := f.Damaged()
	if err != nil || !slices.Contains(ids, r.ID) {
		t.Fatalf("%d damaged, %v", len(ids), err)
	}
	if is, err := f.IsDamaged(r.ID); err != nil || !is {
		t.Fatal(is, err)
	}
	if err := f.Heal(context.Background(), r.ID, plain); err != nil {
		t.Fatal(err)
	}
	if got, err := f.fetchAll(len(v[1].data), refs[1][:1]); err != nil || !bytes.Equal(got[r.Off:r.End()], plain) {
		t.Fatal(err)
	}
}

// TestMissingBaseStopsNothing: the pack of a base is gone. Other packs are
// collected and scrubbed all the same.
func TestMissingBaseStopsNothing(t *testing.T) {
	f := openFixture(t, vfs.NewMem(), "store", deltaConfig())
	v := series(9, 4000, 2)
	refs := f.storeSeries(v)
	half := f.ingest(solid(randomBytes(3, 30_000)), nil)
	half.Release()
	f.hold(3, half.Refs()[:1])
	f.drop(2, refs[1][1:])
	x := audit(f)
	name := pack.Name(x.packs[x.chunks[refs[0][0].ID].Pack].Name)
	f.files.drop()
	if err := f.fs.Remove(f.fs.PathJoin(f.dir, name.FileName())); err != nil {
		t.Fatal(err)
	}
	f.cache.drop()
	for n := uint64(0); ; {
		next, err := f.NextPack(n)
		if err != nil || next == 0 {
			break
		}
		if err := f.Scrub(context.Background(), next, func(error) {}, func(int64) error { return nil }); err != nil {
			t.Fatal(err)
		}
		n = next
	}
	f.collect()
	for _, r := range half.Refs()[1:] {
		if _, err := f.getChunk(f.db, r.ID); !errors.Is(err, state.ErrNotFound) {
			t.Fatalf("chunk %x was not collected: %v", r.ID, err)
		}
	}
}
