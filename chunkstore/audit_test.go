package chunkstore

import (
	"context"
	"sync/atomic"

	"stepfs/chunkstore/pack"
	"stepfs/internal/check"
	"stepfs/internal/journal"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

func ids(refs ...[]Ref) (out [][32]byte) {
	for _, rs := range refs {
		for _, r := range rs {
			out = append(out, r.ID)
		}
	}
	return out
}

// update runs one transaction of an owner of chunks.
func (f *fixture) update(fn func(tx *state.Tx) error) journal.Pos {
	f.t.Helper()
	pos, err := f.engine.Update(schema.KindStored, fn)
	if err != nil {
		f.t.Fatal(err)
	}
	return pos
}

func (f *fixture) hold(holder uint64, refs ...[]Ref) {
	f.t.Helper()
	f.update(func(tx *state.Tx) error { return f.Hold(tx, holder, ids(refs...)) })
}

func (f *fixture) drop(holder uint64, refs ...[]Ref) {
	f.t.Helper()
	f.update(func(tx *state.Tx) error { return f.Drop(tx, holder, ids(refs...)) })
}

// store ingests and lets go: what is not held is dead from here on.
func (f *fixture) store(c content) []Ref {
	f.t.Helper()
	p := f.ingest(c, nil)
	p.Release()
	return p.Refs()
}

// collect removes all that is dead, however little of a pack it is.
func (f *fixture) collect() CollectStats {
	f.t.Helper()
	st, err := f.Collect(context.Background(), CollectOptions{DeadShare: 1e-9})
	if err != nil {
		f.t.Fatal(err)
	}
	return st
}

// index is all that the chunk index says, read key by key.
type index struct {
	chunks map[ID]schema.ChunkLoc
	refs   map[ID]int
	dead   map[ID]schema.DeadChunk
	packs  map[uint64]schema.PackRecord
}

func readIndex(f *fixture) index {
	f.t.Helper()
	x := index{map[ID]schema.ChunkLoc{}, map[ID]int{}, map[ID]schema.DeadChunk{}, map[uint64]schema.PackRecord{}}
	scan := func(lower, upper []byte, each func(k, v []byte) error) {
		it, err := f.engine.NewIter(lower, upper)
		if err != nil {
			f.t.Fatal(err)
		}
		defer it.Close()
		for ok := it.First(); ok; ok = it.Next() {
			if err := each(it.Key(), it.Value()); err != nil {
				f.t.Fatal(err)
			}
		}
	}
	lower, upper := schema.ChunkBounds()
	scan(lower, upper, func(k, v []byte) error {
		_, id, err := schema.ParseChunkKey(k)
		if err == nil {
			x.chunks[id], err = schema.DecodeChunkLoc(v)
		}
		return err
	})
	lower, upper = schema.ChunkRefBounds()
	scan(lower, upper, func(k, _ []byte) error {
		_, id, _, err := schema.ParseChunkRefKey(k)
		x.refs[id]++
		return err
	})
	lower, upper = schema.ChunkDeadBounds()
	scan(lower, upper, func(k, v []byte) error {
		_, id, err := schema.ParseChunkDeadKey(k)
		if err == nil {
			x.dead[id], err = schema.DecodeDeadChunk(v)
		}
		return err
	})
	lower, upper = schema.PackBounds()
	scan(lower, upper, func(k, v []byte) error {
		n, err := schema.ParsePackKey(k)
		if err == nil {
			x.packs[n], err = schema.DecodePackRecord(v)
		}
		return err
	})
	return x
}

// audit proves that references, dead keys, counts, memory and files agree, in
// a store without damage all of whose packs have references.
func audit(f *fixture) index {
	f.t.Helper()
	if fs := findings(f, CheckOptions{}); len(fs) > 0 {
		f.t.Fatalf("%d findings: %+v", len(fs), fs[:min(len(fs), 5)])
	}
	x := readIndex(f)
	for n, rec := range x.packs {
		if rec.State != schema.PackLive {
			f.t.Fatalf("pack %d says %+v", n, rec)
		}
	}
	files, err := f.fs.List(f.fs.PathJoin(f.dir))
	if err != nil {
		f.t.Fatal(err)
	}
	if len(files) != len(x.packs) {
		f.t.Fatalf("files %v, packs %v", files, x.packs)
	}
	auditMemory(f, x)
	return x
}

// findings is what Check has to say.
func findings(f *fixture, o CheckOptions) (out []check.Finding) {
	f.t.Helper()
	v := f.engine.View()
	defer v.Close()
	r := &check.Run{View: v, Report: func(x check.Finding) { out = append(out, x) }}
	if _, err := f.Check(context.Background(), r, o); err != nil {
		f.t.Fatal(err)
	}
	return out
}

func auditMemory(f *fixture, x index) {
	f.t.Helper()
	bytes, packs := f.settled().dead, f.settled().deadPacks
	var sum totals
	for _, rec := range x.packs {
		sum.add(rec, true, false)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.totals != sum || bytes != sum.dead || packs != sum.deadPacks {
		f.t.Fatalf("totals %+v, packs come to %+v", f.mu.totals, sum)
	}
	if len(f.mu.table) != len(x.packs) || len(f.mu.names) != len(x.packs) {
		f.t.Fatalf("%d packs and %d names in memory, %d in the index", len(f.mu.table), len(f.mu.names), len(x.packs))
	}
	for n, info := range f.mu.table {
		if info.number != n || info.rec != x.packs[n] || info.pins != 0 || info.retiring {
			f.t.Fatalf("pack %d is %+v in memory, %+v in the index", n, *info, x.packs[n])
		}
	}
}

// auditClean is audit of a store from which all that is dead was collected:
// what is on the disk is what the chunks that live need, to the byte.
func auditClean(f *fixture) {
	f.t.Helper()
	x := audit(f)
	want := int64(len(x.packs)) * (pack.HeaderSize + int64(pack.FooterSize(nil)) + pack.TrailerSize)
	for _, loc := range x.chunks {
		want += int64(loc.Stored) + pack.Overhead
	}
	got := int64(0)
	for _, rec := range x.packs {
		st, err := f.fs.Stat(f.fs.PathJoin(f.dir, pack.Name(rec.Name).FileName()))
		if err != nil {
			f.t.Fatal(err)
		}
		got += st.Size()
	}
	if len(x.dead) > 0 || len(x.chunks) != len(x.refs) || got != want {
		f.t.Fatalf("%d dead of %d chunks, %d held; %d bytes on the disk, %d needed", len(x.dead), len(x.chunks), len(x.refs), got, want)
	}
}

// hookedDB calls before ahead of every transaction of the store's own but those
// that before itself brings about, and after behind every Get.
type hookedDB struct {
	DB
	before func(kind schema.Kind)
	inside atomic.Bool
	after  func(key []byte)
}

func (d *hookedDB) Update(kind schema.Kind, fn func(tx *state.Tx) error) (journal.Pos, error) {
	if d.before != nil && d.inside.CompareAndSwap(false, true) {
		d.before(kind)
		d.inside.Store(false)
	}
	return d.DB.Update(kind, fn)
}

func (d *hookedDB) Get(key []byte) ([]byte, error) {
	v, err := d.DB.Get(key)
	if d.after != nil {
		d.after(key)
	}
	return v, err
}

// once gives a function that calls fn the first time only, and not while fn runs.
func once(fn func()) func() {
	called := false
	return func() {
		if !called {
			called = true
			fn()
		}
	}
}

// oldStore makes the store look as if a version without references had written
// it, and opens it again.
func oldStore(f *fixture) *fixture {
	x := readIndex(f)
	f.update(func(tx *state.Tx) error {
		for n, rec := range x.packs {
			rec.Dead, rec.DeadChunks, rec.Hasty = 0, 0, 0
			rec.PlanesRaw, rec.PlanesStored, rec.DeltaRaw, rec.DeltaStored = 0, 0, 0, 0
			b := rec.Encode()
			b[0] = 1
			tx.Put(schema.PackKey(n), b[:len(b)-8])
		}
		tx.DeleteRange(schema.ChunkRefBounds())
		tx.DeleteRange(schema.ChunkDeadBounds())
		tx.Delete(schema.MetaKey(schema.MetaRefsFrom))
		return nil
	})
	f.close()
	return openFixture(f.t, f.fs, "store", f.cfg)
}
