package chunkstore

import (
	"bytes"
	"context"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/pack"
)

// wornDisk has one byte in each pack that can't be read, at an offset; 0: none.
type wornDisk struct {
	vfs.FS
	bad *atomic.Int64
}

func (d wornDisk) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := d.FS.Open(name, opts...)
	if err != nil || !strings.HasSuffix(name, pack.Suffix) {
		return f, err
	}
	return wornFile{f, d.bad}, nil
}

type wornFile struct {
	vfs.File
	bad *atomic.Int64
}

func (f wornFile) ReadAt(b []byte, off int64) (int, error) {
	if at := f.bad.Load(); at > 0 && off <= at && at < off+int64(len(b)) {
		return 0, syscall.EIO
	}
	return f.File.ReadAt(b, off)
}

// TestBadSector: a place that the disk does not give is damage like any other: the
// scrub says so and goes on, the chunk in it is stored again from a copy, and
// Collect and Check come by.
func TestBadSector(t *testing.T) {
	d := wornDisk{vfs.NewMem(), &atomic.Int64{}}
	f := openFixture(t, d, "store", smallConfig())
	c := solid(randomBytes(1, 30_000)) // several packs
	p := f.ingest(c, nil)
	refs := p.Refs()
	f.hold(1, refs[1:])
	p.Release()
	chunks := audit(f).chunks
	ref := refs[2]
	d.bad.Store(chunks[ref.ID].Offset + 3)
	f.cache.drop()
	found, packs := 0, 0
	for n := uint64(0); ; packs++ {
		next, err := f.NextPack(n)
		if err != nil || next == 0 {
			break
		}
		if err := f.Scrub(t.Context(), next, func(error) { found++ }, func(int64) error { return nil }); err != nil {
			t.Fatalf("pack %d: %v", next, err)
		}
		n = next
	}
	if found == 0 || packs < 2 {
		t.Fatalf("%d found in %d packs", found, packs)
	}
	if is, err := f.IsDamaged(ref.ID); err != nil || !is {
		t.Fatalf("the chunk is damaged: %v, %v", is, err)
	}
	if got := findings(f, CheckOptions{ReadData: 1}); len(got) == 0 {
		t.Error("Check finds nothing")
	}
	if _, err := f.Collect(context.Background(), CollectOptions{DeadShare: 1e-9}); err != nil {
		t.Errorf("collect: %v", err)
	}
	plain := c.data[ref.Off:ref.End()]
	if err := f.Heal(t.Context(), ref.ID, plain); err != nil {
		t.Fatal(err)
	}
	d.bad.Store(0) // it may have been the place of something in the new pack
	got, err := f.fetchAll(len(c.data), []Ref{ref})
	if err != nil || !bytes.Equal(got[ref.Off:ref.End()], plain) {
		t.Fatal(err)
	}
	if loc, err := f.getChunk(f.db, ref.ID); err != nil || loc.Pack == chunks[ref.ID].Pack {
		t.Errorf("it is read from pack %d as before, %v", loc.Pack, err)
	}
}

// TestSalvageBadSector: with any place of a pack unreadable, the chunks that do not
// lie in it are saved.
func TestSalvageBadSector(t *testing.T) {
	d := wornDisk{vfs.NewMem(), &atomic.Int64{}}
	cfg := smallConfig()
	cfg.PackSize = 64 << 10
	f := openFixture(t, d, "store", cfg)
	refs := f.ingest(solid(randomBytes(3, 40_000)), nil).Refs()
	file := onlyPack(t, f.fs)
	size := int64(len(readFile(t, f.fs, file)))
	for at := int64(1); at < size; at += 1500 {
		d.bad.Store(at)
		names, _, err := Unreadable(t.Context(), d, "store/packs", 0)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Salvage(t.Context(), d, "store/packs", d.PathBase(file), cfg, true)
		if err != nil {
			t.Fatalf("byte %d: %v", at, err)
		}
		lost := 0
		for _, e := range entriesOfFooter(t, f, d) {
			if at/sector*sector < e.End() && e.Offset < (at/sector+1)*sector {
				lost++
			}
		}
		if int(got.Chunks) < len(refs)-lost {
			t.Errorf("byte %d: %d of %d chunks saved, %d lie there", at, got.Chunks, len(refs), lost)
		}
		if inFooter := at >= size-int64(pack.TrailerSize); inFooter && len(names) != 1 {
			t.Errorf("byte %d: the pack without a footer is not found", at)
		}
	}
}

// entriesOfFooter reads them from the disk below.
func entriesOfFooter(t *testing.T, f *fixture, d wornDisk) []pack.Entry {
	t.Helper()
	bad := d.bad.Swap(0)
	defer d.bad.Store(bad)
	return entriesOf(t, f)
}
