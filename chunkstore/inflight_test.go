package chunkstore

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
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

// TestHitInFlightWaits: the second writer of a chunk is not told "stored"
// while the first one's pack is not.
func TestHitInFlightWaits(t *testing.T) {
	f := newFixture(t)
	c := solid(randomBytes(1, 1000))
	first, err := f.Ingest(context.Background(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	second, err := f.Ingest(context.Background(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	if second.NewBytes() != 0 || len(second.packs) != 1 {
		t.Fatalf("second: %d new bytes, depends on %d packs", second.NewBytes(), len(second.packs))
	}
	done, cancel := context.WithCancel(context.Background())
	cancel()
	if err := second.Wait(done); !errors.Is(err, context.Canceled) {
		t.Fatalf("Wait on an open pack: %v", err)
	}
	if _, err := f.db.Get(schema.ChunkKey(0, first.Refs()[0].ID)); !errors.Is(err, state.ErrNotFound) {
		t.Fatalf("indexed before the pack is durable: %v", err)
	}
	if err := f.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*Pending{first, second} {
		if err := p.Wait(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if third, err := f.Ingest(context.Background(), c, nil); err != nil || len(third.packs) != 0 {
		t.Fatalf("a durable hit is free: %v, %d packs", err, len(third.packs))
	}
}

// TestWaitNeedsNoFlush: a pack that nobody fills closes by itself.
func TestWaitNeedsNoFlush(t *testing.T) {
	cfg := smallConfig()
	cfg.IdleClose = time.Millisecond
	f := openFixture(t, vfs.NewMem(), "store", cfg)
	p, err := f.Put(context.Background(), []byte("small"))
	if err == nil {
		err = p.Wait(context.Background())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestConcurrentIngestStoresOnce(t *testing.T) {
	cfg := smallConfig()
	cfg.Workers = 4
	f := openFixture(t, vfs.NewMem(), "store", cfg)
	c := solid(randomBytes(1, 100_000))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			own := solid(randomBytes(int64(100+i), 10_000))
			for _, c := range []content{c, own} {
				p, err := f.Ingest(context.Background(), c, nil)
				if err == nil {
					err = f.Flush(context.Background())
				}
				if err == nil {
					err = p.Wait(context.Background())
				}
				if err != nil {
					t.Error(err)
					return
				}
				checkContent(t, f, c, p.Refs())
			}
		})
	}
	wg.Wait()
	if st := f.Stats(); st.Raw != 180_000 {
		t.Fatalf("%d bytes stored for 180000 different ones", st.Raw)
	}
}

// diskOps are the operations on the pack directory that writing packs takes.
var diskOps = []errorfs.OpKind{errorfs.OpCreate, errorfs.OpFileWrite, errorfs.OpFileSync, errorfs.OpRename}

// TestDiskFull: at every stage of a pack ENOSPC reaches everyone who depends
// on it, nothing of it stays, and the store goes on when there is room again.
func TestDiskFull(t *testing.T) {
	for _, kind := range diskOps {
		for nth := range 4 {
			var full, hit bool
			count := 0
			var mu sync.Mutex
			fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
				mu.Lock()
				defer mu.Unlock()
				if !full || op.Kind != kind || !strings.HasPrefix(op.Path, "store/packs") {
					return nil
				}
				count++
				if count <= nth {
					return nil
				}
				hit = true
				return &pathError{syscall.ENOSPC}
			}))
			f := openFixture(t, fs, "store", smallConfig())
			kept := solid(randomBytes(1, 20_000))
			refs := f.ingest(kept, nil).Refs()
			before := f.Stats()

			mu.Lock()
			full = true
			mu.Unlock()
			c := solid(randomBytes(2, 6_000))
			p, err := f.Ingest(context.Background(), c, nil)
			ferr := f.Flush(context.Background())
			if err == nil {
				err = p.Wait(context.Background())
				if (err == nil) != (ferr == nil) {
					t.Fatalf("%v %d: Wait %v, Flush %v", kind, nth, err, ferr)
				}
			}
			mu.Lock()
			if hit != errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("%v %d: %v", kind, nth, err)
			}
			failed := hit
			full = false
			mu.Unlock()
			if failed {
				if st := f.Stats(); st.Packs != before.Packs || st.InFlight != 0 {
					t.Fatalf("%v %d: %+v", kind, nth, st)
				}
				names, err := fs.List("store/packs")
				if err != nil || uint64(len(names)) != before.Packs {
					t.Fatalf("%v %d: %v left, %v", kind, nth, names, err)
				}
			}
			checkContent(t, f, c, f.ingest(c, nil).Refs())
			checkContent(t, f, kept, refs)
			f.close()
		}
	}
}

type pathError struct{ err error }

func (e *pathError) Error() string { return "write: " + e.err.Error() }
func (e *pathError) Unwrap() error { return e.err }

// failingDB refuses transactions while fail is set.
type failingDB struct {
	DB
	fail error
	dead error
}

func (d *failingDB) Err() error { return d.dead }

func (d *failingDB) Update(kind schema.Kind, fn func(tx *state.Tx) error) (pos journal.Pos, err error) {
	if d.fail != nil {
		return 0, d.fail
	}
	return d.DB.Update(kind, fn)
}

// TestIndexFailure: a pack that can't be indexed goes while the engine is
// well, and stays for the next Open when the engine has failed.
func TestIndexFailure(t *testing.T) {
	for _, dead := range []error{nil, state.ErrReadOnly} {
		f := newFixture(t)
		f.db = &failingDB{DB: f.engine, fail: syscall.ENOSPC, dead: dead}
		c := solid(randomBytes(1, 500))
		p, err := f.Ingest(context.Background(), c, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Flush(context.Background()); !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		if err := p.Wait(context.Background()); !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		names, err := f.fs.List("store/packs")
		if err != nil || len(names) > 0 != (dead != nil) {
			t.Fatalf("engine %v: left %v, %v", dead, names, err)
		}
		f.db = f.engine
		f.close()
		again := openFixture(t, f.fs, "store", smallConfig())
		if q := again.ingest(c, nil); (q.NewBytes() == 0) != (dead != nil) {
			t.Fatalf("engine %v: %d new bytes", dead, q.NewBytes())
		}
	}
}

// TestRetiringPack: its chunks can be read, but are stored again for new content.
func TestRetiringPack(t *testing.T) {
	f := newFixture(t)
	c := solid(randomBytes(1, 1500))
	refs := f.ingest(c, nil).Refs()
	loc, rec, err := f.locate(refs[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	rec.State = schema.PackRetiring
	if _, err := f.engine.Update(schema.KindPackState, func(tx *state.Tx) error {
		tx.Put(schema.PackKey(loc.Pack), rec.Encode())
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	checkContent(t, f, c, refs)
	if p := f.ingest(c, nil); p.NewBytes() != 1500 {
		t.Fatalf("%d new bytes", p.NewBytes())
	}
	now, _, err := f.locate(refs[0].ID)
	if err != nil || now.Pack == loc.Pack {
		t.Fatalf("still in pack %d, %v", now.Pack, err)
	}
	checkContent(t, f, c, refs)
}

func TestClose(t *testing.T) {
	f := newFixture(t)
	p, err := f.Put(context.Background(), []byte("abandoned"))
	if err != nil {
		t.Fatal(err)
	}
	f.close()
	if err := p.Wait(context.Background()); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if _, err := f.Ingest(context.Background(), solid([]byte("x")), nil); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if _, err := f.Put(context.Background(), nil); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	if names, err := f.fs.List("store/packs"); err != nil || len(names) != 0 {
		t.Fatalf("left %v, %v", names, err)
	}
}

// TestFailedPackIsForgottenAtOnce: while a failed pack still waits for its
// last claims, an ingest of the same chunk gets a pack of its own.
func TestFailedPackIsForgottenAtOnce(t *testing.T) {
	f := newFixture(t)
	one, two := randomBytes(1, 100), randomBytes(2, 100)
	bad, _, err := f.claim(f.newPending(), f.name(one), 100, lane{})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.claim(f.newPending(), f.name(two), 100, lane{}); err != nil {
		t.Fatal(err)
	}
	f.appended(bad, 0, syscall.ENOSPC)
	p, err := f.Put(context.Background(), one)
	if err != nil || p.NewBytes() != 100 {
		t.Fatalf("%d new bytes, %v", p.NewBytes(), err)
	}
	f.appended(bad, 0, nil)
	if err := bad.wait(context.Background()); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if err := f.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// TestManySmallObjects: packs close by their number of entries too.
func TestManySmallObjects(t *testing.T) {
	cfg := smallConfig()
	cfg.PackSize = 1 << 30
	f := openFixture(t, vfs.NewMem(), "store", cfg)
	var one [8]byte
	for i := range maxEntries + 10 {
		one[0], one[1] = byte(i), byte(i>>8)
		if _, err := f.Put(context.Background(), one[:]); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	if st := f.Stats(); st.Packs != 2 || st.Chunks != maxEntries+10 {
		t.Fatalf("%+v", st)
	}
	got := make([]byte, 8)
	if err := f.ReadAt(context.Background(), f.name(one[:]), 8, got, 0); err != nil || !bytes.Equal(got, one[:]) {
		t.Fatal(err)
	}
	if f.mu.totals.size != f.Stats().Size || pack.MaxFooter < maxEntries*128 {
		t.Fatal("footer of a full pack may be too large")
	}
}

// TestBusyPackClosesLater: a pack with recent writes is looked at again.
func TestBusyPackClosesLater(t *testing.T) {
	cfg := smallConfig()
	cfg.IdleClose = time.Millisecond
	f := openFixture(t, vfs.NewMem(), "store", cfg)
	p, err := f.Put(context.Background(), []byte("small"))
	if err != nil {
		t.Fatal(err)
	}
	for pw := range p.packs {
		f.mu.Lock()
		pw.used = pw.used.Add(5 * time.Millisecond)
		f.mu.Unlock()
	}
	if err := p.Wait(context.Background()); err != nil {
		t.Fatal(err)
	}
}
