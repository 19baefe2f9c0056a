package chunkstore

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"stepfs/chunkstore/pack"
	"stepfs/internal/journal"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

func TestHoldAndDrop(t *testing.T) {
	f := newFixture(t)
	refs := f.store(solid(randomBytes(1, 20_000)))
	all := f.Stats().Stored
	dead := func(want uint64) {
		t.Helper()
		audit(f)
		if got := f.Stats().Dead; got != want {
			t.Fatalf("%d bytes dead, want %d", got, want)
		}
	}
	dead(all)
	f.hold(1, refs, refs)
	dead(0)
	f.hold(1, refs)
	f.hold(1<<63|1, refs[:3])
	f.drop(1, refs, refs)
	dead(all - uint64(refs[0].Len+refs[1].Len+refs[2].Len))
	f.drop(1, refs)
	f.drop(7, refs)
	dead(all - uint64(refs[0].Len+refs[1].Len+refs[2].Len))
	f.drop(1<<63|1, refs)
	dead(all)
}

// TestLedgerAddsUp: what one transaction does several times to one chunk comes
// out as if it had been several.
func TestLedgerAddsUp(t *testing.T) {
	type step struct {
		drop   bool
		holder uint64
	}
	for _, c := range []struct {
		before []uint64
		steps  []step
		held   int
	}{
		{nil, []step{{false, 1}, {false, 2}}, 2},
		{nil, []step{{false, 1}, {true, 1}}, 0},
		{nil, []step{{false, 1}, {true, 1}, {false, 1}}, 1},
		{nil, []step{{false, 1}, {false, 2}, {true, 1}}, 1},
		{nil, []step{{false, 1}, {false, 1}, {true, 1}}, 0},
		{[]uint64{1}, []step{{false, 2}, {true, 1}}, 1},
		{[]uint64{1}, []step{{true, 1}, {false, 2}}, 1},
		{[]uint64{1}, []step{{true, 1}, {false, 1}}, 1},
		{[]uint64{1}, []step{{false, 1}, {true, 1}}, 0},
		{[]uint64{1, 2}, []step{{true, 1}, {true, 2}}, 0},
		{[]uint64{1, 2}, []step{{true, 2}, {true, 1}, {true, 2}}, 0},
		{[]uint64{1, 2, 3}, []step{{true, 3}, {true, 1}}, 1},
		{[]uint64{1, 2}, []step{{true, 1}, {true, 2}, {false, 3}, {true, 3}}, 0},
	} {
		f := newFixture(t)
		refs := f.store(solid(randomBytes(1, 1000)))
		for _, h := range c.before {
			f.hold(h, refs)
		}
		f.update(func(tx *state.Tx) error {
			for _, s := range c.steps {
				do := f.Hold
				if s.drop {
					do = f.Drop
				}
				if err := do(tx, s.holder, ids(refs)); err != nil {
					return err
				}
			}
			return nil
		})
		if x := audit(f); x.refs[refs[0].ID] != c.held {
			t.Fatalf("%+v: %d holders", c, x.refs[refs[0].ID])
		}
		f.close()
	}
}

// TestFailedTransaction: what memory counts is what came about.
func TestFailedTransaction(t *testing.T) {
	f := newFixture(t)
	refs := f.store(solid(randomBytes(1, 5000)))
	no := errors.New("no")
	for _, do := range []func(*state.Tx, uint64, [][32]byte) error{f.Hold, f.Drop} {
		if _, err := f.engine.Update(schema.KindStored, func(tx *state.Tx) error {
			if err := do(tx, 1, ids(refs)); err != nil {
				t.Fatal(err)
			}
			return no
		}); !errors.Is(err, no) {
			t.Fatal(err)
		}
		audit(f)
		f.hold(1, refs)
	}
	if d := f.Stats().Dead; d != 0 {
		t.Fatalf("%d bytes dead", d)
	}
}

func TestHoldOfNothing(t *testing.T) {
	f := newFixture(t)
	_, err := f.engine.Update(schema.KindStored, func(tx *state.Tx) error { return f.Hold(tx, 1, [][32]byte{{1}}) })
	if !errors.Is(err, ErrMissing) {
		t.Fatal(err)
	}
	_, err = f.engine.Update(schema.KindStored, func(tx *state.Tx) error { return f.Hold(tx, 0, nil) })
	if !errors.Is(err, errNoHolder) {
		t.Fatal(err)
	}
}

// TestCollectDead: packs of which nothing lives go, with no byte copied.
func TestCollectDead(t *testing.T) {
	f := newFixture(t)
	kept, gone := solid(randomBytes(1, 50_000)), solid(randomBytes(2, 50_000))
	a := f.store(kept)
	f.hold(1, a)
	b := f.store(gone)
	before := f.Stats()
	st := f.collect()
	if st.Packs == 0 || st.Copied != 0 || st.Chunks != len(b) || st.Freed != int64(before.Size-f.Stats().Size) {
		t.Fatalf("%+v", st)
	}
	auditClean(f)
	checkContent(t, f, kept, a)
	if err := f.ReadAt(context.Background(), b[0].ID, b[0].Len, make([]byte, b[0].Len), 0); !errors.Is(err, ErrMissing) {
		t.Fatal(err)
	}
	if s := f.Stats(); s.LostPacks+s.DamagedChunks != 0 {
		t.Fatalf("%+v", s)
	}
	checkContent(t, f, gone, f.store(gone))
	f.close()
	checkContent(t, openFixture(t, f.fs, "store", smallConfig()), kept, a)
}

// TestCollectSparse: what lives in several packs, each half dead, comes
// together in fewer.
func TestCollectSparse(t *testing.T) {
	f := newFixture(t)
	var live []Ref
	text := bytes.Repeat([]byte("all work and no play "), 20)
	c := solid(append(randomBytes(1, 100_000), bytes.Repeat(text, 100)...))
	for i, r := range f.store(c) {
		if i%4 == 0 {
			live = append(live, r)
		}
	}
	f.hold(1, live)
	before := f.Stats()
	if st, err := f.Collect(context.Background(), CollectOptions{DeadShare: 1}); err != nil || st.Packs != 0 {
		t.Fatalf("nothing is wholly dead: %+v, %v", st, err)
	}
	var seen CollectStats
	st, err := f.Collect(context.Background(), CollectOptions{Progress: func(st CollectStats) { seen = st }})
	if err != nil || st != seen || st.Packs != int(before.Packs) {
		t.Fatalf("%+v, last heard of %+v, %v", st, seen, err)
	}
	auditClean(f)
	after := f.Stats()
	if after.Packs*2 > before.Packs || st.Copied != int64(after.Stored) || st.Written != int64(after.Size) {
		t.Fatalf("%d packs of %d: %+v", after.Packs, before.Packs, st)
	}
	for _, r := range live {
		got := make([]byte, r.Len)
		if err := f.ReadAt(context.Background(), r.ID, r.Len, got, 0); err != nil || !bytes.Equal(got, c.data[r.Off:r.End()]) {
			t.Fatal(err)
		}
	}
	if largest := after.Size / after.Packs; largest > 3*uint64(f.cfg.PackSize)/2 {
		t.Fatalf("packs of %d bytes", largest)
	}
	pos := f.engine.Pos()
	if st := f.collect(); st != (CollectStats{}) || f.engine.Pos() != pos {
		t.Fatalf("nothing to do: %+v, %d bytes of journal", st, f.engine.Pos()-pos)
	}
}

// TestPins: what a Pending found or stored stays until it is released, also
// when nobody holds it.
func TestPins(t *testing.T) {
	f := newFixture(t)
	c := solid(randomBytes(1, 3000))
	stays := func(what string) {
		t.Helper()
		if st := f.collect(); st.Packs != 0 || st.Pinned == 0 {
			t.Fatalf("%s: %+v", what, st)
		}
	}
	own := f.ingest(c, nil)
	stays("stored by a Pending")
	hit := f.ingest(c, nil)
	own.Release()
	own.Release()
	stays("found by a Pending")
	if hit.NewBytes() != 0 {
		t.Fatal("no hit")
	}
	f.hold(1, hit.Refs())
	hit.Release()
	f.drop(1, hit.Refs())
	if st := f.collect(); st.Packs == 0 || st.Pinned != 0 {
		t.Fatalf("released: %+v", st)
	}
	auditClean(f)

	first, err := f.Ingest(context.Background(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	second, err := f.Ingest(context.Background(), c, nil) // finds it in flight
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	first.Release()
	stays("found in flight")
	second.Release()
	f.collect()
	auditClean(f)
}

// TestFailedPendingReleases: content that could not be stored pins nothing,
// neither what it found nor what it meant to write.
func TestFailedPendingReleases(t *testing.T) {
	var full atomic.Bool
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if full.Load() && op.Kind == errorfs.OpFileSync && strings.HasSuffix(op.Path, tmpSuffix) {
			return syscall.ENOSPC
		}
		return nil
	}))
	f := openFixture(t, fs, "store", smallConfig())
	c := solid(randomBytes(1, 3000))
	f.store(c)
	full.Store(true)
	p, err := f.Ingest(context.Background(), solid(append(bytes.Clone(c.data), randomBytes(2, 1000)...)), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Flush(context.Background()); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if err := p.Wait(context.Background()); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	full.Store(false)
	bad := content{data: c.data, segs: []Segment{{0, 3000}, {4000, 10}}} // fails after some hits
	if _, err := f.Ingest(context.Background(), bad, nil); !errors.Is(err, ErrSource) {
		t.Fatal(err)
	}
	if st := f.collect(); st.Packs != 1 || st.Pinned != 0 {
		t.Fatalf("%+v", st)
	}
	auditClean(f)
}

// TestMeanwhile: whatever owners do between the steps of Collect, what they
// hold is there, and what they don't is gone after the next.
func TestMeanwhile(t *testing.T) {
	c := solid(randomBytes(1, 20_000))
	for what, do := range map[string]func(f *fixture, refs []Ref){
		"hold what is dead": func(f *fixture, refs []Ref) { f.hold(2, refs[1:2], refs[5:6]) },
		"drop what lives":   func(f *fixture, refs []Ref) { f.drop(1, refs) },
		"store it again": func(f *fixture, _ []Ref) {
			p := f.ingest(c, nil)
			f.hold(2, p.Refs())
			p.Release()
		},
		"store it again in vain": func(f *fixture, _ []Ref) { f.store(c) },
	} {
		for _, at := range []schema.Kind{schema.KindPackState, schema.KindChunkIndex, schema.KindPrune} {
			for nth := range 3 {
				f := newFixture(t)
				refs := f.store(c)
				f.hold(1, refs[:1], refs[4:5], refs[10:11])
				seen := 0
				act := once(func() { do(f, refs) })
				f.db = &hookedDB{DB: f.engine, before: func(kind schema.Kind) {
					if kind == at {
						if seen++; seen > nth {
							act()
						}
					}
				}}
				f.collect()
				f.db = f.engine
				x := audit(f)
				for id := range x.refs {
					loc := x.chunks[id]
					if err := f.ReadAt(context.Background(), id, loc.Raw, make([]byte, loc.Raw), 0); err != nil {
						t.Fatalf("%s, before %v %d: %v", what, at, nth, err)
					}
				}
				f.collect()
				f.collect()
				auditClean(f)
				f.close()
			}
		}
	}
}

// TestHitMeanwhile: content that is stored while Collect runs, at any of its
// transactions, can still be held after it and the next, also when the last
// who held it lets go at that moment.
func TestHitMeanwhile(t *testing.T) {
	c := solid(randomBytes(1, 20_000))
	for at := 1; ; at++ {
		f := newFixture(t)
		refs := f.store(c)
		f.hold(1, refs[:2])
		var late *Pending
		n := 0
		f.db = &hookedDB{DB: f.engine, before: func(schema.Kind) {
			if n++; n == at {
				late = f.ingest(c, nil)
				f.drop(1, refs)
			}
		}}
		f.collect()
		f.collect()
		f.db = f.engine
		if late == nil {
			if at < 8 {
				t.Fatalf("%d transactions", n)
			}
			return
		}
		f.hold(2, late.Refs())
		late.Release()
		checkContent(t, f, c, late.Refs())
		f.collect()
		auditClean(f)
		checkContent(t, f, c, late.Refs())
		f.close()
	}
}

// TestWrongCounts: the counts say where to look; what goes is decided by the
// keys.
func TestWrongCounts(t *testing.T) {
	for _, off := range []int64{-1, 1} {
		f := newFixture(t)
		c := solid(randomBytes(1, 1500))
		refs := f.store(c)
		f.hold(1, refs[:1])
		f.update(func(tx *state.Tx) error {
			l := f.ledger(tx)
			defer l.flush()
			return l.addDead(1, off, 0)
		})
		f.collect()
		f.collect()
		if _, err := f.fetchAll(len(c.data), refs[:1]); err != nil {
			t.Fatal(err)
		}
		if n := f.Stats().Chunks; off < 0 && n != 1 {
			t.Fatalf("%d chunks left", n)
		}
		f.close()
	}
}

// TestReferenceWins: should a held chunk have a dead key, it lives.
func TestReferenceWins(t *testing.T) {
	f := newFixture(t)
	c := solid(randomBytes(1, 1500))
	refs := f.store(c)
	f.hold(1, refs[:1])
	f.update(func(tx *state.Tx) error {
		l := f.ledger(tx)
		defer l.flush()
		return l.bury(refs[0].ID, schema.DeadChunk{Pack: 1, Stored: refs[0].Len})
	})
	f.collect()
	f.collect()
	if _, err := f.fetchAll(len(c.data), refs[:1]); err != nil {
		t.Fatal(err)
	}
}

// TestFailedIndexLeavesNothing of the pack in memory.
func TestFailedIndexLeavesNothing(t *testing.T) {
	f := newFixture(t)
	f.db = &refusingDB{f.engine, func(string) error { return syscall.ENOSPC }}
	if _, err := f.Put(context.Background(), []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := f.Flush(context.Background()); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	f.db = f.engine
	audit(f)
}

// TestSameContentOtherName: a pack that is being removed does not take a new
// one of the same chunks with it.
func TestSameContentOtherName(t *testing.T) {
	c := solid(randomBytes(1, 3000))
	var again func()
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpRemove && strings.HasSuffix(op.Path, pack.Suffix) && again != nil {
			again()
		}
		return nil
	}))
	f := openFixture(t, fs, "store", smallConfig())
	f.store(c)
	var refs []Ref
	again = once(func() {
		p := f.ingest(c, nil)
		refs = p.Refs()
		f.hold(1, refs)
		p.Release()
	})
	if st := f.collect(); st.Packs != 1 || refs == nil {
		t.Fatalf("%+v", st)
	}
	checkContent(t, f, c, refs)
	auditClean(f)
}

// TestReaderMeetsCollect: a reader that has looked a chunk up finds it again
// after its pack is gone, in each of the gaps that a move can fall into.
func TestReaderMeetsCollect(t *testing.T) {
	for _, prefix := range []byte{schema.PrefixChunk, schema.PrefixPack} {
		for _, data := range [][]byte{randomBytes(1, 5000), bytes.Repeat([]byte("all work and no play "), 400)} {
			f := newFixture(t)
			f.cfg.Events.Damage = func(err error) { t.Error(err) }
			refs := f.store(solid(data))
			f.hold(1, refs[:1])
			collect := once(func() {
				if st := f.collect(); st.Packs == 0 {
					t.Fatalf("%+v", st)
				}
			})
			f.db = &hookedDB{DB: f.engine, after: func(key []byte) {
				if key[0] == prefix {
					collect()
				}
			}}
			got := make([]byte, refs[0].Len)
			if err := f.ReadAt(context.Background(), refs[0].ID, refs[0].Len, got, 0); err != nil || !bytes.Equal(got, data[:len(got)]) {
				t.Fatalf("after %c: %v", prefix, err)
			}
			f.db = f.engine
			auditClean(f)
		}
	}
}

// TestOpenFileOutlivesPack: a reader that has the file open goes on, and the
// file is closed after it.
func TestOpenFileOutlivesPack(t *testing.T) {
	fs := vfs.NewMem()
	f := openFixture(t, fs, "store", smallConfig())
	f.store(solid(randomBytes(1, 500)))
	path := onlyPack(t, fs)
	held, err := f.files.acquire(path)
	if err != nil {
		t.Fatal(err)
	}
	f.collect()
	if _, err := held.ReadAt(make([]byte, 100), 0); err != nil || len(f.files.files) != 0 {
		t.Fatalf("%d files open, %v", len(f.files.files), err)
	}
	f.files.release(held)
	f.store(solid(randomBytes(1, 500)))
	idle, err := f.files.acquire(onlyPack(t, fs))
	if err != nil {
		t.Fatal(err)
	}
	f.files.release(idle)
	f.collect()
	if len(f.files.files) != 0 || f.files.idle.Len() != 0 {
		t.Fatal("an unlinked file stays open")
	}
}

// TestDamagedChunkStays: a live chunk that can't be copied stays where it is,
// is reported once, and its pack goes once it was stored again.
func TestDamagedChunkStays(t *testing.T) {
	fs := vfs.NewMem()
	cfg := smallConfig()
	cfg.PackSize = 1 << 20
	var reports []error
	cfg.Events.Damage = func(err error) { reports = append(reports, err) }
	f := openFixture(t, fs, "store", cfg)
	c := solid(randomBytes(1, 10_000))
	refs := f.store(c)
	f.hold(1, refs[:3])
	path := onlyPack(t, fs)
	bad := readFile(t, fs, path)
	loc, _, err := f.locate(refs[1].ID)
	if err != nil {
		t.Fatal(err)
	}
	bad[loc.Offset+5] ^= 1
	writeFile(t, fs, path, bad)
	for range 2 {
		st := f.collect()
		if len(reports) != 1 || !errors.Is(reports[0], ErrCorrupt) || st.Packs != 0 {
			t.Fatalf("%+v, %v", st, reports)
		}
		if st.Damaged == 0 {
			break
		}
	}
	x := audit(f)
	if len(x.chunks) != 3 || x.chunks[refs[1].ID].Pack != loc.Pack || x.chunks[refs[0].ID].Pack == loc.Pack {
		t.Fatalf("%+v", x.chunks)
	}
	if _, err := f.fetchAll(len(c.data), refs[1:2]); !errors.Is(err, ErrCorrupt) {
		t.Fatal(err)
	}
	f.store(c)
	f.collect()
	auditClean(f)
	if _, err := f.fetchAll(len(c.data), refs[:3]); err != nil {
		t.Fatal(err)
	}
	if st := f.Stats(); st.DamagedChunks != 0 {
		t.Fatalf("%+v", st)
	}
}

// TestUnreadablePack: one in which nothing lives goes, whatever it looks like;
// one in which something lives stays.
func TestUnreadablePack(t *testing.T) {
	for _, what := range []string{"no footer", "no file"} {
		for _, live := range []bool{false, true} {
			fs := vfs.NewMem()
			cfg := smallConfig()
			cfg.PackSize = 1 << 20
			events := 0
			cfg.Events.Damage = func(error) { events++ }
			f := openFixture(t, fs, "store", cfg)
			refs := f.store(solid(randomBytes(1, 10_000)))
			if live {
				f.hold(1, refs[:1])
			}
			path := onlyPack(t, fs)
			if what == "no footer" {
				writeFile(t, fs, path, readFile(t, fs, path)[:5000])
			} else if err := fs.Remove(path); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				f.collect()
			}
			if x := readIndex(f); (len(x.chunks) > 0) != live || (len(x.packs) > 0) != live || (events == 1) != live {
				t.Fatalf("%s, live %v: %d chunks, %d packs, %d events", what, live, len(x.chunks), len(x.packs), events)
			}
			if live {
				f.drop(1, refs)
				f.collect()
			}
			auditClean(f)
		}
	}
}

// TestCollectFails: at whatever operation the disk or the journal fails, what
// is held stays readable, the store goes on, and the next Collect finishes.
func TestCollectFails(t *testing.T) {
	for at := 1; ; at++ {
		var armed bool
		var n int
		var mu sync.Mutex
		fail := func(path string) error {
			mu.Lock()
			defer mu.Unlock()
			if !armed || !strings.HasPrefix(path, "store/packs") {
				return nil
			}
			if n++; n == at {
				return syscall.EIO
			}
			return nil
		}
		fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error { return fail(op.Path) }))
		f := openFixture(t, fs, "store", smallConfig())
		c := solid(randomBytes(1, 20_000))
		refs := f.store(c)
		f.hold(1, refs[:len(refs)/3])
		f.store(solid(randomBytes(2, 10_000)))
		f.db = &refusingDB{f.engine, fail}
		f.files.drop()
		mu.Lock()
		armed = true
		mu.Unlock()
		_, err := f.Collect(context.Background(), CollectOptions{DeadShare: 1e-9})
		mu.Lock()
		armed = false
		done := n < at
		mu.Unlock()
		f.db = f.engine
		if _, err := f.fetchAll(len(c.data), refs[:len(refs)/3]); err != nil {
			t.Fatalf("failure at %d: %v", at, err)
		}
		if done {
			if err != nil || at < 40 {
				t.Fatalf("%d operations, %v", n, err)
			}
			return
		}
		if err != nil && !errors.Is(err, syscall.EIO) {
			t.Fatalf("failure at %d: %v", at, err)
		}
		f.close()
		f = openFixture(t, fs, "store", smallConfig()) // adopts what could not be unlinked
		f.collect()
		auditClean(f)
		f.close()
	}
}

// refusingDB makes transactions fail with which nothing is wrong.
type refusingDB struct {
	DB
	fail func(path string) error
}

func (d *refusingDB) Update(kind schema.Kind, fn func(tx *state.Tx) error) (journal.Pos, error) {
	return d.DB.Update(kind, func(tx *state.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		return d.fail("store/packs")
	})
}

// TestCollectCancelled at every transaction: it says so, and leaves a store
// that is whole.
func TestCollectCancelled(t *testing.T) {
	for at := 1; ; at++ {
		f := newFixture(t)
		refs := f.store(solid(randomBytes(1, 40_000)))
		f.hold(1, refs[:len(refs)/3], refs[len(refs)-2:])
		ctx, cancel := context.WithCancel(context.Background())
		n := 0
		f.db = &hookedDB{DB: f.engine, before: func(schema.Kind) {
			if n++; n == at {
				cancel()
			}
		}}
		_, err := f.Collect(ctx, CollectOptions{DeadShare: 1e-9})
		cancel()
		f.db = f.engine
		audit(f)
		if n < at {
			if err != nil || at < 10 {
				t.Fatalf("%d transactions, %v", n, err)
			}
			return
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		f.collect()
		auditClean(f)
		f.close()
	}
}

func TestCollectRate(t *testing.T) {
	f := newFixture(t)
	refs := f.store(solid(randomBytes(1, 40_000)))
	f.hold(1, refs[:len(refs)/2])
	start := time.Now()
	st, err := f.Collect(context.Background(), CollectOptions{Rate: 200_000, DeadShare: 1e-9})
	if took := time.Since(start); err != nil || st.Copied == 0 || took < time.Duration(st.Copied)*5*time.Microsecond {
		t.Fatalf("%d bytes in %v, %v", st.Copied, took, err)
	}
	f.store(solid(randomBytes(1, 40_000)))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := f.Collect(ctx, CollectOptions{Rate: 1, DeadShare: 1e-9}); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	audit(f)
	for _, o := range []CollectOptions{{Rate: -1}, {DeadShare: -1}, {DeadShare: 1.1}} {
		if _, err := f.Collect(context.Background(), o); !errors.Is(err, ErrConfig) {
			t.Fatalf("%+v: %v", o, err)
		}
	}
}

// TestCloseEndsCollect, however slowly it goes.
func TestCloseEndsCollect(t *testing.T) {
	f := newFixture(t)
	refs := f.store(solid(randomBytes(1, 40_000)))
	f.hold(1, refs[:len(refs)/2])
	copying := make(chan struct{})
	begin := once(func() { close(copying) })
	f.db = &hookedDB{DB: f.engine, before: func(kind schema.Kind) {
		if kind == schema.KindPackState {
			begin()
		}
	}}
	done := make(chan error)
	go func() {
		_, err := f.Collect(context.Background(), CollectOptions{Rate: 1, DeadShare: 1e-9})
		done <- err
	}()
	<-copying
	f.close()
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if _, err := f.Collect(context.Background(), CollectOptions{}); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	auditReopened(openFixture(t, f.fs, "store", smallConfig()))
}

func auditReopened(f *fixture) {
	audit(f)
	f.collect()
	auditClean(f)
}

// TestCollectOrder is promise 6 as a trace: the new pack is durable before the
// index names it, and the old one goes after the journal is. Then it looks
// whether there is more to do.
func TestCollectOrder(t *testing.T) {
	var mu sync.Mutex
	var trace []string
	note := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		trace = append(trace, s)
	}
	kinds := map[errorfs.OpKind]string{errorfs.OpCreate: "create", errorfs.OpFileSync: "sync file", errorfs.OpRename: "rename", errorfs.OpRemove: "unlink"}
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if what := kinds[op.Kind]; what != "" && strings.HasPrefix(op.Path, "store/packs") {
			note(what)
		}
		return nil
	}))
	f := openFixture(t, fs, "store", smallConfig())
	refs := f.store(solid(randomBytes(1, 3000)))
	f.hold(1, refs[:1])
	trace = nil
	f.db = kindTracer{f.engine, note}
	f.collect()
	mu.Lock()
	defer mu.Unlock()
	want := "pack-state, pack-state, create, sync file, rename, sync file, chunk-index, sync journal, prune, prune, sync journal, unlink, pack-state"
	if got := strings.Join(trace, ", "); got != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
}

type kindTracer struct {
	DB
	note func(string)
}

func (d kindTracer) Update(kind schema.Kind, fn func(tx *state.Tx) error) (journal.Pos, error) {
	d.note(kind.String())
	return d.DB.Update(kind, fn)
}

func (d kindTracer) Sync(pos journal.Pos) error {
	d.note("sync journal")
	return d.DB.Sync(pos)
}

// TestRetiringIsForgotten: a pack that was retiring when the daemon died is
// live again.
func TestRetiringIsForgotten(t *testing.T) {
	f := newFixture(t)
	c := solid(randomBytes(1, 1000))
	refs := f.store(c)
	f.hold(1, refs)
	f.mu.Lock()
	info := f.mu.table[1]
	f.mu.Unlock()
	if err := f.setState([]*packInfo{info}, schema.PackRetiring); err != nil {
		t.Fatal(err)
	}
	f.close()
	f = openFixture(t, f.fs, "store", smallConfig())
	audit(f)
	if p := f.ingest(c, nil); p.NewBytes() != 0 {
		t.Fatal("no hit")
	}
}

// TestOldStore: of packs from before references nothing is collected, whoever
// holds and drops what is in them, and of later ones all.
func TestOldStore(t *testing.T) {
	f := newFixture(t)
	c := solid(randomBytes(1, 50_000))
	refs := f.store(c)
	f = oldStore(f)
	packs := f.Stats().Packs
	check := func(what string) {
		t.Helper()
		f.collect()
		checkContent(t, f, c, refs)
		if n, p := f.Dead(); n != 0 || p != 0 || f.Stats().Packs != packs {
			t.Fatalf("%s: %d bytes dead in %d packs, %d packs", what, n, p, f.Stats().Packs)
		}
	}
	check("opened")
	p := f.ingest(c, nil)
	f.hold(1, p.Refs())
	p.Release()
	check("held")
	f.drop(1, refs)
	check("dropped")
	f.store(solid(randomBytes(2, 50_000)))
	if f.Stats().Packs == packs {
		t.Fatal("nothing new")
	}
	check("newer packs")
	f.close()
	f = openFixture(t, f.fs, "store", smallConfig())
	check("reopened")
	if err := f.RebuildIndex(context.Background()); err != nil {
		t.Fatal(err)
	}
	check("rebuilt")
	f.close()
	f = openFixture(t, f.fs, "store", smallConfig())
	check("rebuilt and reopened")
	f.close()
	for _, dir := range []string{"store/index", "store/journal"} {
		if err := f.fs.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	f = openFixture(t, f.fs, "store", smallConfig())
	check("without index and journal")
	f.store(solid(randomBytes(3, 1000)))
	check("and newer packs")
}

// TestOldChunkMoves: a chunk of an old pack that is stored again because that
// is damaged is not dead for want of references.
func TestOldChunkMoves(t *testing.T) {
	f := newFixture(t)
	c := solid(randomBytes(1, 1000))
	refs := f.store(c)
	f = oldStore(f)
	f.hold(1, refs)
	f.drop(1, refs)
	if err := f.fs.Remove(onlyPack(t, f.fs)); err != nil {
		t.Fatal(err)
	}
	f.close()
	f = openFixture(t, f.fs, "store", smallConfig())
	f.store(c)
	f.collect()
	checkContent(t, f, c, refs)
	loc, rec, err := f.locate(refs[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	f.update(func(tx *state.Tx) error { // counts that are wrong
		l := f.ledger(tx)
		defer l.flush()
		return l.addDead(loc.Pack, int64(rec.Chunks), uint32(rec.Stored))
	})
	f.collect()
	checkContent(t, f, c, refs)
}

// TestRebuildKeepsReferences: what is held lives, what is not is dead, and of
// what is gone nothing stays.
func TestRebuildKeepsReferences(t *testing.T) {
	f := newFixture(t)
	f.store(solid(randomBytes(2, 1000)))
	if err := f.fs.Remove(onlyPack(t, f.fs)); err != nil {
		t.Fatal(err)
	}
	c := solid(randomBytes(1, 50_000))
	refs := f.store(c)
	f.hold(1, refs[:20])
	if err := f.RebuildIndex(context.Background()); err != nil {
		t.Fatal(err)
	}
	if x := audit(f); len(x.chunks) != len(refs) || len(x.dead) != len(refs)-20 {
		t.Fatalf("%d chunks, %d dead", len(x.chunks), len(x.dead))
	}
	f.collect()
	auditClean(f)
	if _, err := f.fetchAll(len(c.data), refs[:20]); err != nil {
		t.Fatal(err)
	}
}

// TestEmptyObject: a chunk without bytes is garbage like any other.
func TestEmptyObject(t *testing.T) {
	f := newFixture(t)
	for _, held := range []bool{true, false} {
		p, err := f.Put(context.Background(), nil)
		if err == nil {
			err = f.Flush(context.Background())
		}
		if err != nil {
			t.Fatal(err)
		}
		if held {
			f.hold(1, p.Refs())
		} else {
			f.drop(1, p.Refs())
		}
		p.Release()
		f.collect()
		auditClean(f)
		if n := f.Stats().Packs; n > 0 != held {
			t.Fatalf("held %v: %d packs", held, n)
		}
	}
}
