package schema

import (
	"errors"
	"math"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

func TestChunkIndexRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u31 := rapid.Uint64Max(math.MaxInt64)
		id := [32]byte(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "id"))
		domain := rapid.Uint32().Draw(t, "domain")
		if d, i, err := ParseChunkKey(ChunkKey(domain, id)); err != nil || d != domain || i != id {
			t.Fatalf("chunk key: %d %x %v", d, i, err)
		}
		loc := ChunkLoc{
			Pack: rapid.Uint64().Draw(t, "pack"), Offset: int64(u31.Draw(t, "offset")),
			Stored: rapid.Uint32().Draw(t, "stored"), Raw: rapid.Uint32().Draw(t, "raw"),
			Type: rapid.Uint8().Draw(t, "type"), Enc: rapid.Uint8().Draw(t, "enc"),
		}
		if ext := rapid.SliceOf(rapid.Byte()).Draw(t, "ext"); len(ext) > 0 {
			loc.Ext = ext
		}
		if got, err := DecodeChunkLoc(loc.Encode()); err != nil || !reflect.DeepEqual(got, loc) {
			t.Fatalf("%+v became %+v, %v", loc, got, err)
		}
		rec := PackRecord{
			Name: id, State: PackState(rapid.Uint8Range(1, 2).Draw(t, "state")), Domain: domain,
			Size: u31.Draw(t, "size"), Chunks: u31.Draw(t, "chunks"), Raw: u31.Draw(t, "rawBytes"), Stored: u31.Draw(t, "storedBytes"),
			Dead: u31.Draw(t, "dead"), DeadChunks: u31.Draw(t, "deadChunks"), Hasty: u31.Draw(t, "hasty"),
			PlanesRaw: u31.Draw(t, "planesRaw"), PlanesStored: u31.Draw(t, "planesStored"),
			DeltaRaw: u31.Draw(t, "deltaRaw"), DeltaStored: u31.Draw(t, "deltaStored"),
		}
		if got, err := DecodePackRecord(rec.Encode()); err != nil || got != rec {
			t.Fatalf("%+v became %+v, %v", rec, got, err)
		}
		if n, err := ParsePackKey(PackKey(loc.Pack)); err != nil || n != loc.Pack {
			t.Fatalf("pack key: %d %v", n, err)
		}
		holder := rapid.Uint64().Draw(t, "holder")
		if d, i, h, err := ParseChunkRefKey(ChunkRefKey(domain, id, holder)); err != nil || d != domain || i != id || h != holder {
			t.Fatalf("reference key: %d %x %d %v", d, i, h, err)
		}
		if d, i, err := ParseChunkDeadKey(ChunkDeadKey(domain, id)); err != nil || d != domain || i != id {
			t.Fatalf("dead key: %d %x %v", d, i, err)
		}
		base := [32]byte(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "base"))
		if d, b, i, err := ParseChunkBaseKey(ChunkBaseKey(domain, base, id)); err != nil || d != domain || b != base || i != id {
			t.Fatalf("base key: %d %x %x %v", d, b, i, err)
		}
		dead := DeadChunk{Pack: loc.Pack, Stored: loc.Stored}
		if got, err := DecodeDeadChunk(dead.Encode()); err != nil || got != dead {
			t.Fatalf("%+v became %+v, %v", dead, got, err)
		}
	})
}

// TestPackRecordVersion1: a record that a store wrote before references
// existed, byte by byte.
func TestPackRecordVersion1(t *testing.T) {
	b := append([]byte{1, byte(PackLive)}, make([]byte, 32)...)
	b = append(b, 7, 100, 3, 90, 80)
	want := PackRecord{State: PackLive, Domain: 7, Size: 100, Chunks: 3, Raw: 90, Stored: 80}
	if got, err := DecodePackRecord(b); err != nil || got != want {
		t.Fatalf("%+v, %v", got, err)
	}
	b[0] = packRecordVersion
	if _, err := DecodePackRecord(b); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("version 2 without its counts: %v", err)
	}
	b[0] = packRecordVersion + 1
	if _, err := DecodePackRecord(append(b, 1, 1)); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("a version to come: %v", err)
	}
}

// TestPackRecordVersion3: one from before there were planes and deltas.
func TestPackRecordVersion3(t *testing.T) {
	b := append([]byte{3, byte(PackLive)}, make([]byte, 32)...)
	b = append(b, 7, 100, 3, 90, 80, 10, 1, 5)
	want := PackRecord{State: PackLive, Domain: 7, Size: 100, Chunks: 3, Raw: 90, Stored: 80, Dead: 10, DeadChunks: 1, Hasty: 5}
	if got, err := DecodePackRecord(b); err != nil || got != want {
		t.Fatalf("%+v, %v", got, err)
	}
}

func TestAddDeadStaysInRange(t *testing.T) {
	p := PackRecord{Chunks: 2, Stored: 100}
	for _, c := range []struct{ chunks, bytes, wantChunks, wantBytes int64 }{
		{1, 60, 1, 60}, {1, 40, 2, 100}, {1, 40, 2, 100}, {-1, -60, 1, 40}, {-5, -500, 0, 0},
	} {
		p.AddDead(c.chunks, c.bytes)
		if p.DeadChunks != uint64(c.wantChunks) || p.Dead != uint64(c.wantBytes) {
			t.Fatalf("after %+v: %+v", c, p)
		}
	}
}
