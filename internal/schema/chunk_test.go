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
		}
		if got, err := DecodePackRecord(rec.Encode()); err != nil || got != rec {
			t.Fatalf("%+v became %+v, %v", rec, got, err)
		}
		if n, err := ParsePackKey(PackKey(loc.Pack)); err != nil || n != loc.Pack {
			t.Fatalf("pack key: %d %v", n, err)
		}
	})
}

func FuzzChunkIndex(f *testing.F) {
	f.Add(ChunkLoc{Pack: 1, Offset: 32, Stored: 9, Raw: 9, Type: 1, Enc: 1}.Encode())
	f.Add(PackRecord{State: PackLive, Size: 99}.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := DecodeChunkLoc(b); err != nil && !errors.Is(err, ErrCorrupt) || err == nil && c.Offset < 0 {
			t.Fatalf("%+v, %v", c, err)
		}
		if p, err := DecodePackRecord(b); err != nil && !errors.Is(err, ErrCorrupt) || err == nil && p.State == 0 {
			t.Fatalf("%+v, %v", p, err)
		}
		if _, _, err := ParseChunkKey(b); err != nil && !errors.Is(err, ErrCorrupt) {
			t.Fatal(err)
		}
		if _, err := ParsePackKey(b); err != nil && !errors.Is(err, ErrCorrupt) {
			t.Fatal(err)
		}
	})
}
