package chunkstore

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/pack"
	"stepfs/internal/state"
)

// TestIndexFromPacks: chunks and packs as the store itself has them, whether
// somebody holds them or not, copies included.
func TestIndexFromPacks(t *testing.T) {
	f, a, b := checkedStore(t)
	f.ingest(solid(randomBytes(5, 30000)), nil)
	if err := f.RebuildIndex(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := findings(f, CheckOptions{Holders: mapHolders{}, ReadData: 1}); len(got) > 0 {
		t.Fatalf("%+v", got[:min(len(got), 5)])
	}
	audit(f)
	for _, refs := range [][]Ref{a, b[:len(b)/2]} {
		if _, err := f.fetchAll(30000, refs); err != nil {
			t.Fatal(err)
		}
	}
	f.collect() // what is dead goes, and nothing else
	if _, err := f.fetchAll(30000, a); err != nil {
		t.Fatal(err)
	}
}

// TestIndexRate prints how fast an index is made from footers: of a million
// chunks, with STEPFS_REBUILD_CHUNKS of as many. It uses the system's disk.
func TestIndexRate(t *testing.T) {
	chunks := 50_000
	if s := os.Getenv("STEPFS_REBUILD_CHUNKS"); s != "" {
		if _, err := fmt.Sscan(s, &chunks); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	footers := writeTinyPacks(t, dir+"/packs", chunks)
	e, err := state.Open(state.Config{Dir: dir, FS: vfs.Default, MemTable: 64 << 20, Bulk: true})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	x, err := IndexPacks(t.Context(), e, vfs.Default, dir+"/packs", 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	located := time.Since(start)
	dead, err := CountDead(t.Context(), e, 0, func(Dead) (uint64, error) { return 1, nil })
	if err == nil {
		err = e.Sync(e.Pos())
	}
	took := time.Since(start)
	if err != nil || x.Chunks != uint64(chunks) || dead.Chunks != uint64(chunks) {
		t.Fatalf("%d chunks in packs, %d dead, %v", x.Chunks, dead.Chunks, err)
	}
	t.Logf("%d chunks, %d packs, %d MB of footers: %.0f chunks/s (located %.0f/s), %.0f MB/s of footers", x.Chunks, x.Packs, footers>>20,
		float64(chunks)/took.Seconds(), float64(chunks)/located.Seconds(), float64(footers)/1e6/took.Seconds())
	if err := e.Close(true); err != nil {
		t.Fatal(err)
	}
}

// writeTinyPacks makes packs of chunks of one byte, and gives the length of their footers.
func writeTinyPacks(t *testing.T, dir string, chunks int) (footers int) {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	info := pack.Info{Hash: pack.HashBLAKE3}
	for done := 0; done < chunks; {
		b := pack.AppendHeader(nil, info)
		var es []pack.Entry
		for ; done < chunks && len(es) < 2048; done++ {
			e := pack.Entry{Type: pack.TypeData, Enc: pack.EncRaw, Offset: int64(len(b)), Stored: 1, Raw: 1, CRC: pack.Checksum([]byte{0})}
			binary.LittleEndian.PutUint64(e.ID[:], uint64(done)*0x9E3779B97F4A7C15)
			b = append(b, make([]byte, pack.PartHeaderSize)...)
			pack.PutPartHeader(b[e.Offset:], e, 0)
			b = append(b, 0)
			es = append(es, e)
		}
		foot := pack.AppendFooter(nil, pack.Footer{Info: info, Body: int64(len(b)), Entries: es})
		footers += len(foot)
		name := pack.NameOf(foot).FileName()
		b = pack.AppendTrailer(append(b, foot...), int64(len(b)), len(foot))
		if err := os.WriteFile(dir+"/"+name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return footers
}

// TestSalvage: with any byte of a pack's footer, trailer or header gone, all of
// its chunks are saved; with a byte of a chunk gone too, all but that one.
func TestSalvage(t *testing.T) {
	for _, compress := range []bool{false, true} {
		src := newFixture(t)
		c := solid(randomBytes(3, 6000))
		if compress {
			c = solid([]byte(strings.Repeat("a text that compresses ", 300)))
		}
		refs := src.ingest(c, nil).Refs()
		file := onlyPack(t, src.fs)
		whole := readFile(t, src.fs, file)
		body := len(whole) - pack.TrailerSize - pack.FooterSize(entriesOf(t, src))
		for at := body; at < len(whole); at += 7 {
			for _, hurt := range []int{-1, pack.HeaderSize + pack.PartHeaderSize + 3, pack.HeaderSize + 20} {
				fs := vfs.NewMem()
				b := append([]byte(nil), whole...)
				b[at] ^= 0x40
				lost := 0
				if hurt >= 0 {
					b[hurt] ^= 1
					lost = 1
				}
				name := fs.PathBase(file)
				if err := fs.MkdirAll("store/packs", 0o700); err != nil {
					t.Fatal(err)
				}
				writeFile(t, fs, "store/packs/"+name, b)
				got, err := Salvage(t.Context(), fs, "store/packs", name, smallConfig(), false)
				if err != nil {
					t.Fatal(err)
				}
				again, err := Salvage(t.Context(), fs, "store/packs", name, smallConfig(), false)
				if err != nil || fmt.Sprint(again) != fmt.Sprint(got) {
					t.Fatalf("the second time %+v, %v; the first time %+v", again, err, got)
				}
				if int(got.Chunks) != len(refs)-lost || len(got.Into) != 1 {
					t.Fatalf("byte %d of %d (body %d), hurt %d: saved %+v of %d", at, len(whole), body, hurt, got, len(refs))
				}
				if err := fs.Remove("store/packs/" + name); err != nil {
					t.Fatal(err)
				}
				f := openFixture(t, fs, "store", smallConfig())
				if _, err := f.fetchAll(len(c.data), refs[lost:]); err != nil {
					t.Fatalf("byte %d, hurt %d: %v", at, hurt, err)
				}
				f.close()
			}
		}
	}
}

func entriesOf(t *testing.T, f *fixture) []pack.Entry {
	t.Helper()
	files, err := filesByAge(f.Store.fs, f.dir)
	if err != nil || len(files) != 1 {
		t.Fatal(len(files), err)
	}
	foot, err := f.readFooter(files[0].name)
	if err != nil {
		t.Fatal(err)
	}
	return foot.Entries
}
