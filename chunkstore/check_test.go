package chunkstore

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/pack"
	"stepfs/internal/check"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// mapHolders are holders that name their chunks in chunk maps.
type mapHolders struct{}

func (mapHolders) Held(_ context.Context, v *state.View, yield func(uint64, [32]byte) error) error {
	it, err := v.NewIter([]byte{schema.PrefixChunkMap}, []byte{schema.PrefixChunkMap + 1})
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		es, err := schema.DecodeChunkMap(it.Value())
		if err != nil {
			return err
		}
		for _, e := range es {
			if err := yield(binary.BigEndian.Uint64(it.Key()[1:]), e.ID); err != nil {
				return err
			}
		}
	}
	return it.Error()
}

func (mapHolders) Leaving(v *state.View, holder uint64) (bool, error) {
	return (&check.Run{View: v}).Has(schema.Numbered(schema.PrefixDeadHold, holder))
}

// Places tells of none.
func (mapHolders) Places(uint64, func([32]byte) bool, func([32]byte, check.Place)) error { return nil }

// Needs names a holder as a file.
func (mapHolders) Needs(at check.Places, n *check.Needs) error {
	for holder := range at {
		n.Add(check.Need{Path: fmt.Sprint("file of ", holder)})
	}
	return nil
}

// holdMap makes a holder name chunks and hold them.
func (f *fixture) holdMap(holder uint64, refs []Ref) {
	f.t.Helper()
	f.update(func(tx *state.Tx) error {
		var es []schema.ChunkExtent
		for _, r := range refs {
			es = append(es, schema.ChunkExtent{Off: r.Off, Len: r.Len, Raw: r.Len, ID: r.ID})
		}
		tx.Put(schema.ChunkMapKey(holder, 0), schema.EncodeChunkMap(es))
		return f.Hold(tx, holder, ids(refs))
	})
}

// checkedStore is a store with a live, a half dead and a copied chunk.
func checkedStore(t *testing.T) (f *fixture, a, b []Ref) {
	t.Helper()
	f = openFixture(t, vfs.NewMem(), "store", smallConfig())
	a = f.store(solid(randomBytes(1, 30000)))
	f.holdMap(1, a)
	f.holdMap(2, a)
	b = f.store(solid(randomBytes(2, 30000)))
	f.holdMap(3, b[:len(b)/2])
	if got := findings(f, CheckOptions{Holders: mapHolders{}, ReadData: 1}); len(got) > 0 {
		t.Fatalf("a healthy store: %+v", got)
	}
	return f, a, b
}

// wholePack gives a pack, but not that one, of which nothing is dead.
func wholePack(f *fixture, not uint64) uint64 {
	for n, rec := range readIndex(f).packs {
		if n != not && rec.DeadChunks == 0 {
			return n
		}
	}
	f.t.Fatal("there is no such pack")
	return 0
}

// TestCheckFinds: each kind of damage and leak, made on purpose, is found, and
// nothing else is.
func TestCheckFinds(t *testing.T) {
	path := func(f *fixture, number uint64) string {
		rec, err := getPack(f.db, number)
		if err != nil {
			t.Fatal(err)
		}
		return f.fs.PathJoin(f.dir, pack.Name(rec.Name).FileName())
	}
	amend := func(f *fixture, number uint64, change func(*schema.PackRecord)) {
		rec, err := getPack(f.db, number)
		if err != nil {
			t.Fatal(err)
		}
		change(&rec)
		f.update(func(tx *state.Tx) error { tx.Put(schema.PackKey(number), rec.Encode()); return nil })
	}
	relocate := func(f *fixture, id ID, change func(*schema.ChunkLoc)) {
		loc, err := f.getChunk(f.db, id)
		if err != nil {
			t.Fatal(err)
		}
		change(&loc)
		f.update(func(tx *state.Tx) error { tx.Put(schema.ChunkKey(0, id), loc.Encode()); return nil })
	}
	del := func(key func(a, b []Ref) []byte) func(*fixture, []Ref, []Ref) {
		return func(f *fixture, a, b []Ref) {
			f.update(func(tx *state.Tx) error { tx.Delete(key(a, b)); return nil })
		}
	}
	put := func(key func(a, b []Ref) []byte, value []byte) func(*fixture, []Ref, []Ref) {
		return func(f *fixture, a, b []Ref) {
			f.update(func(tx *state.Tx) error { tx.Put(key(a, b), value); return nil })
		}
	}
	last := func(r []Ref) ID { return r[len(r)-1].ID }
	for name, tc := range map[string]struct {
		harm func(f *fixture, a, b []Ref)
		want []string
	}{
		"a pack file is deleted": {func(f *fixture, _, _ []Ref) { f.fs.Remove(path(f, 1)) }, []string{"damage pack-missing"}},
		"a pack file is longer": {func(f *fixture, _, _ []Ref) {
			writeFile(f.t, f.fs, path(f, 1), append(readFile(f.t, f.fs, path(f, 1)), 0))
		}, []string{"damage pack-size"}},
		"a bit of a footer": {func(f *fixture, _, _ []Ref) {
			b := readFile(f.t, f.fs, path(f, 1))
			b[len(b)-pack.TrailerSize-20] ^= 4
			writeFile(f.t, f.fs, path(f, 1), b)
		}, []string{"damage pack-unreadable"}},
		"a bit of a chunk": {func(f *fixture, _, _ []Ref) {
			b := readFile(f.t, f.fs, path(f, 1))
			b[len(b)/2] ^= 4
			writeFile(f.t, f.fs, path(f, 1), b)
		}, []string{"damage chunk-data"}},
		"a bit of a part's header": {func(f *fixture, _, _ []Ref) {
			b := readFile(f.t, f.fs, path(f, 1))
			b[pack.HeaderSize+pack.PartHeaderSize-1] ^= 4
			writeFile(f.t, f.fs, path(f, 1), b)
		}, []string{"damage part-header"}},
		"a pack that nobody knows": {func(f *fixture, a, _ []Ref) {
			other := openFixture(t, f.fs, "other", smallConfig())
			other.store(solid(randomBytes(9, 3000)))
			f.fs.Link(path(other, 1), f.fs.PathJoin(f.dir, f.fs.PathBase(path(other, 1))))
		}, []string{"leak pack-unknown"}},
		"a broken pack that nobody knows": {func(f *fixture, _, _ []Ref) {
			writeFile(f.t, f.fs, f.fs.PathJoin(f.dir, pack.Name{1}.FileName()), []byte("torn"))
		}, []string{"damage pack-unreadable"}},
		"a pack's record":               {del(func(_, _ []Ref) []byte { return schema.PackKey(1) }), []string{"damage pack-record-missing"}},
		"a pack's record can't be read": {put(func(_, _ []Ref) []byte { return schema.PackKey(1) }, []byte{9}), []string{"damage record"}},
		"a pack's count of chunks":      {func(f *fixture, _, _ []Ref) { amend(f, 1, func(r *schema.PackRecord) { r.Raw++ }) }, []string{"damage pack-record"}},
		"too many dead":                 {func(f *fixture, _, _ []Ref) { amend(f, 1, func(r *schema.PackRecord) { r.AddDead(1, 1) }) }, []string{"damage pack-dead-count"}},
		"too few dead": {func(f *fixture, _, b []Ref) {
			loc, err := f.getChunk(f.db, last(b))
			if err != nil {
				t.Fatal(err)
			}
			amend(f, loc.Pack, func(r *schema.PackRecord) { r.AddDead(-1, -1) })
		}, []string{"leak pack-dead-count"}},
		"the counter of packs": {put(func(_, _ []Ref) []byte { return schema.PackCounterKey() }, schema.Counter(2)), []string{"damage pack-number"}},
		"a chunk that is held": {del(func(a, _ []Ref) []byte { return schema.ChunkKey(0, a[0].ID) }),
			[]string{"damage chunk-missing", "leak pack-dead-count"}},
		"a chunk that is dead": {del(func(_, b []Ref) []byte { return schema.ChunkKey(0, last(b)) }), []string{"damage dead-key"}},
		"a chunk's place": {func(f *fixture, a, _ []Ref) { relocate(f, a[0].ID, func(l *schema.ChunkLoc) { l.Offset++ }) },
			[]string{"damage chunk-location"}},
		"a chunk's pack": {func(f *fixture, a, _ []Ref) { relocate(f, a[0].ID, func(l *schema.ChunkLoc) { l.Pack = 77 }) },
			[]string{"damage pack-record-missing", "leak pack-dead-count"}},
		"a chunk in a pack that has it not": {func(f *fixture, a, _ []Ref) {
			relocate(f, a[0].ID, func(l *schema.ChunkLoc) { l.Pack = wholePack(f, l.Pack) })
		},
			[]string{"damage pack-contents", "leak pack-dead-count"}},
		"a dead key of another place": {put(func(_, b []Ref) []byte { return schema.ChunkDeadKey(0, last(b)) }, schema.DeadChunk{Pack: 1, Stored: 7}.Encode()),
			[]string{"damage dead-key"}},
		"a dead chunk's mark": {del(func(_, b []Ref) []byte { return schema.ChunkDeadKey(0, last(b)) }),
			[]string{"damage pack-dead-count", "leak chunk-unowned"}},
		"one of two references": {del(func(a, _ []Ref) []byte { return schema.ChunkRefKey(0, a[0].ID, 2) }), []string{"damage reference-missing"}},
		"the only reference": {del(func(_, b []Ref) []byte { return schema.ChunkRefKey(0, b[0].ID, 3) }),
			[]string{"damage reference-missing", "leak chunk-unowned"}},
		"a reference of nobody": {put(func(a, _ []Ref) []byte { return schema.ChunkRefKey(0, a[0].ID, 99) }, nil), []string{"leak reference-unused"}},
		"a holder of nothing that is known": {put(func(_, _ []Ref) []byte { return schema.ChunkMapKey(5, 0) },
			schema.EncodeChunkMap([]schema.ChunkExtent{{Len: 1, Raw: 1, ID: [32]byte{5}}})), []string{"damage chunk-missing"}},
		"a reference to what is dead": {put(func(_, b []Ref) []byte { return schema.ChunkRefKey(0, last(b), 3) }, nil),
			[]string{"damage dead-and-held", "leak reference-unused"}},
		"a key cut short": {put(func(_, _ []Ref) []byte { return []byte{schema.PrefixChunk, 1} }, nil), []string{"damage record"}},
	} {
		t.Run(name, func(t *testing.T) {
			f, a, b := checkedStore(t)
			tc.harm(f, a, b)
			f.files.drop() // of a file that was written anew, the old one may be open
			seen := map[string]bool{}
			for _, x := range findings(f, CheckOptions{Holders: mapHolders{}, ReadData: 1}) {
				seen[string(x.Kind)+" "+x.What] = true
				if x.Object == "" || x.Detail == "" {
					t.Errorf("%+v says too little", x)
				}
			}
			var got []string
			for x := range seen {
				got = append(got, x)
			}
			slices.Sort(got)
			if fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("found %v, want %v", got, tc.want)
			}
		})
	}
}

// TestCheckOfBusyStore: what is in flight is no finding. Writers store, hold
// and drop, and a collector rewrites packs, while checks run one after another.
func TestCheckOfBusyStore(t *testing.T) {
	f := openFixture(t, vfs.NewMem(), "store", smallConfig())
	stop := make(chan struct{})
	var wg sync.WaitGroup
	work := func(fn func(n int)) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
					fn(n)
				}
			}
		}()
	}
	for w := range 2 {
		work(func(n int) {
			holder := uint64(1 + w*1000 + n%20)
			p := f.ingest(solid(randomBytes(int64(n%30), 20000)), nil)
			defer p.Release()
			f.update(func(tx *state.Tx) error { // what the holder had goes with its map
				old, err := f.engine.Get(schema.ChunkMapKey(holder, 0))
				if err != nil {
					return nil
				}
				es, err := schema.DecodeChunkMap(old)
				if err != nil {
					return err
				}
				var gone [][32]byte
				for _, e := range es {
					gone = append(gone, e.ID)
				}
				tx.Delete(schema.ChunkMapKey(holder, 0))
				return f.Drop(tx, holder, gone)
			})
			f.holdMap(holder, p.Refs())
		})
	}
	work(func(int) { f.collect() })
	begun := f.Stats().Written
	for n := 0; n < 40 || f.Stats().Written < begun+2<<20; n++ {
		if got := findings(f, CheckOptions{Holders: mapHolders{}, ReadData: 1}); len(got) > 0 {
			t.Errorf("check %d: %+v", n, got[:min(len(got), 3)])
			break
		}
	}
	close(stop)
	wg.Wait()
	if f.collect(); len(readIndex(f).chunks) == 0 {
		t.Error("nothing was stored")
	}
	audit(f)
}

// TestCheckOfOldStore: packs from before references are no finding.
func TestCheckOfOldStore(t *testing.T) {
	f, a, _ := checkedStore(t)
	f.update(func(tx *state.Tx) error {
		tx.DeleteRange([]byte{schema.PrefixChunkMap}, []byte{schema.PrefixChunkMap + 1})
		return nil
	})
	f = oldStore(f)
	f.holdMap(1, a[:1])
	f.store(solid(randomBytes(1, 30000)))
	if got := findings(f, CheckOptions{Holders: mapHolders{}}); len(got) > 0 {
		t.Fatalf("%+v", got[:min(len(got), 3)])
	}
}
