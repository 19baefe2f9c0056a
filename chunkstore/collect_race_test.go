package chunkstore

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// TestConcurrentCollect: writers that hold and drop, readers of what is held,
// and Collect all the time. Nothing that is held is ever missing, nothing is
// ever reported damaged, and in the end nothing dead is left.
func TestConcurrentCollect(t *testing.T) {
	cfg := smallConfig()
	cfg.Workers, cfg.CacheBytes = 4, 4<<10
	cfg.Events.Damage = func(err error) { t.Error("damage: ", err) }
	f := openFixture(t, vfs.NewMem(), "store", cfg)
	anchor := solid(randomBytes(99, 20_000))
	refs := f.store(anchor)
	f.hold(1, refs)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for i := range uint64(3) {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(i, 3))
			for n := uint64(0); ctx.Err() == nil; n++ {
				// Half of each content is the anchor's, some of it other writers'.
				c := solid(append(randomBytes(int64(rng.IntN(4)), 3000), anchor.data[:rng.IntN(5000)]...))
				if err := f.liveAndDie(c, 1000*(i+1)+n, rng.IntN(3) > 0); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			for ctx.Err() == nil {
				checkContent(t, f, anchor, refs)
			}
		})
	}
	sum := CollectStats{}
	wg.Go(func() {
		for ctx.Err() == nil {
			st, err := f.Collect(context.Background(), CollectOptions{DeadShare: 1e-9})
			if err != nil {
				t.Error(err)
				return
			}
			sum.Packs += st.Packs
			sum.Copied += st.Copied
			sum.Pinned += st.Pinned
			f.Dead()
		}
	})
	wg.Wait()
	f.collect()
	auditClean(f)
	checkContent(t, f, anchor, refs)
	if sum.Packs == 0 || sum.Copied == 0 || sum.Pinned == 0 {
		t.Fatalf("%+v", sum)
	}
}

// liveAndDie stores a content as its owners do, reads it, and gives it up.
func (f *fixture) liveAndDie(c content, holder uint64, hold bool) error {
	ctx := context.Background()
	p, err := f.Ingest(ctx, c, nil)
	if err != nil {
		return err
	}
	defer p.Release()
	if err := errors.Join(f.Flush(ctx), p.Wait(ctx)); err != nil || !hold {
		return err
	}
	if _, err := f.engine.Update(schema.KindStored, func(tx *state.Tx) error {
		return f.Hold(tx, holder, ids(p.Refs()))
	}); err != nil {
		return err
	}
	p.Release()
	for range 5 {
		checkContent(f.t, f, c, p.Refs())
	}
	_, err = f.engine.Update(schema.KindStored, func(tx *state.Tx) error {
		return f.Drop(tx, holder, ids(p.Refs()))
	})
	return err
}

// TestCollectOnFullDisk: where there is no room for a new pack, packs that are
// wholly dead go, what is half dead waits, and nobody is told of an error.
func TestCollectOnFullDisk(t *testing.T) {
	var full atomic.Bool
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if full.Load() && op.Kind == errorfs.OpFileWrite && strings.HasSuffix(op.Path, tmpSuffix) {
			return syscall.ENOSPC
		}
		return nil
	}))
	f := openFixture(t, fs, "store", smallConfig())
	half := solid(randomBytes(1, 20_000))
	refs := f.store(half)
	f.hold(1, refs[:len(refs)/2])
	f.store(solid(randomBytes(2, 20_000)))
	full.Store(true)
	st := f.collect()
	if dead := f.Stats().Dead; st.Packs == 0 || dead == 0 {
		t.Fatalf("%+v, %d bytes dead", st, dead)
	}
	audit(f)
	full.Store(false)
	if f.collect(); f.Stats().Dead != 0 {
		t.Fatalf("%+v", f.Stats())
	}
	auditClean(f)
	if _, err := f.fetchAll(int(refs[len(refs)/2-1].End()), refs[:len(refs)/2]); err != nil {
		t.Fatal(err)
	}
}

// TestConcurrentDeltas: writers of versions that keep the last two of each,
// readers of those, and Collect all the time: a base goes under a reader's
// hands, and what was made from it is found where it went.
func TestConcurrentDeltas(t *testing.T) {
	cfg := deltaConfig()
	cfg.Workers, cfg.CacheBytes = 2, 4<<10
	cfg.Events.Damage = func(err error) { t.Error("damage: ", err) }
	f := openFixture(t, vfs.NewMem(), "store", cfg)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for i := range uint64(2) {
		wg.Go(func() {
			versions := series(20+i, 4000, 12)
			var refs [][]Ref
			var prior []Ref
			for n := 0; ctx.Err() == nil; n++ {
				p, err := f.Ingest(context.Background(), versions[n%12], prior)
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
				prior = p.Refs()
				refs = append(refs, prior)
				f.hold(1000*(i+1)+uint64(n), prior)
				p.Release()
				if n >= 2 {
					f.drop(1000*(i+1)+uint64(n-2), refs[n-2])
				}
				for k := max(0, n-1); k <= n; k++ {
					checkContent(t, f, versions[k%12], refs[k])
				}
			}
		})
	}
	remade := 0
	wg.Go(func() {
		for ctx.Err() == nil {
			st, err := f.Collect(context.Background(), CollectOptions{DeadShare: 1e-9})
			if err != nil {
				t.Error(err)
				return
			}
			remade += st.Remade
		}
	})
	wg.Wait()
	remade += f.collect().Remade
	checkKept(t, f)
	if remade == 0 {
		t.Fatal("nothing was made anew")
	}
}
