package chunkstore

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/pack"
	"stepfs/internal/journal"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

const benchChunks = 1_000_000

// manyChunks gives a store whose index has n chunks of usual size, fifty to a
// pack; the packs themselves are not there.
func manyChunks(b *testing.B, n int) (*fixture, [][32]byte) {
	dir := b.TempDir()
	e, err := state.Open(state.Config{Dir: dir, FS: vfs.Default}) // as the daemon has it
	if err != nil {
		b.Fatal(err)
	}
	f := openStore(b, e, vfs.Default, dir, Config{Polynomial: testPol})
	f.db = unsynced{e}
	rng := rand.NewChaCha8([32]byte{1})
	all := make([][32]byte, n)
	for i := range all {
		for w := range 4 {
			binary.LittleEndian.PutUint64(all[i][8*w:], rng.Uint64())
		}
	}
	for at := 0; at < n; at += 50 {
		f.fakePack(b, all[at:min(at+50, n)])
	}
	return f, all
}

// unsynced keeps the disk out of it.
type unsynced struct{ DB }

func (unsynced) Sync(journal.Pos) error { return nil }

func (f *fixture) fakePack(b *testing.B, chunks [][32]byte) {
	entries := make([]pack.Entry, len(chunks))
	off := int64(pack.HeaderSize)
	for i, id := range chunks {
		entries[i] = pack.Entry{ID: id, Type: pack.TypeData, Enc: pack.EncRaw, Offset: off, Stored: 1_300_000, Raw: 1_300_000}
		off = entries[i].End()
	}
	name := pack.NameOf(chunks[0][:])
	if err := f.index(&packInfo{}, f.newRecord(name, pack.Footer{Body: off, Entries: entries}), entries, takeAll); err != nil {
		b.Fatal(err)
	}
}

func (f *fixture) holdAll(b *testing.B, do func(*state.Tx, uint64, [][32]byte) error, holder uint64, all [][32]byte) {
	const a = 1000 // a file of 1.3 GB
	for at := 0; at < len(all); at += a {
		if _, err := f.engine.Update(schema.KindStored, func(tx *state.Tx) error {
			return do(tx, holder, all[at:min(at+a, len(all))])
		}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkIdleCollect: nothing to do in a store of a million chunks.
func BenchmarkIdleCollect(b *testing.B) {
	f, all := manyChunks(b, benchChunks)
	f.holdAll(b, f.Hold, 1, all)
	idle := func() {
		if st, err := f.Collect(context.Background(), CollectOptions{}); err != nil || st != (CollectStats{}) {
			b.Fatalf("%+v, %v", st, err)
		}
	}
	start := time.Now()
	idle()
	first := time.Since(start)
	for b.Loop() {
		idle()
	}
	b.ReportMetric(float64(first.Microseconds())/1000, "ms/first") // every pack's counts have changed
}

// BenchmarkHoldDrop: a store of a million chunks, in transactions of a
// thousand; in the order in which they were stored, and at random.
func BenchmarkHoldDrop(b *testing.B) {
	f, all := manyChunks(b, benchChunks)
	mixed := append([][32]byte(nil), all...)
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
	mixed = mixed[:len(all)/5]
	cost := map[string]float64{}
	measure := func(what string, do func(*state.Tx, uint64, [][32]byte) error, holder uint64, some [][32]byte) {
		start := time.Now()
		f.holdAll(b, do, holder, some)
		cost[what] = float64(time.Since(start).Nanoseconds()) / float64(len(some))
	}
	for b.Loop() { // run it with -benchtime 1x
		measure("hold-dead", f.Hold, 1, all)
		measure("hold-live", f.Hold, 2, all)
		measure("drop-held", f.Drop, 2, mixed)
		measure("drop-last", f.Drop, 1, mixed)
		measure("hold-random", f.Hold, 3, mixed)
	}
	for what, ns := range cost {
		b.ReportMetric(ns, "ns/"+what)
	}
}

// BenchmarkIndexSmall: how long the ordering lock is held for the largest
// number of chunks that one pack has.
func BenchmarkIndexSmall(b *testing.B) {
	f, _ := manyChunks(b, benchChunks)
	rng := rand.NewChaCha8([32]byte{2})
	for b.Loop() {
		ids := make([][32]byte, maxEntries)
		for i := range ids {
			for w := range 4 {
				binary.LittleEndian.PutUint64(ids[i][8*w:], rng.Uint64())
			}
		}
		f.fakePack(b, ids)
	}
}
