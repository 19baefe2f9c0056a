package snapshot_test

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"stepfs/chunkstore"
	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/fault"
	"stepfs/chunkstore/remote/mem"
	"stepfs/internal/schema"
	"stepfs/internal/state"
	"stepfs/snapshot"
)

// A pinned step stays here when everything else goes, over restarts, until it is
// unpinned. While the bucket is down it is pinned all the same, and fetched later.
func TestPinned(t *testing.T) {
	w := newWorld(t, nil)
	var down atomic.Bool
	inner := mem.New()
	b := fault.New(inner, func(verb, key string) fault.Fault {
		if down.Load() {
			return fault.Fault{Before: remote.Fail(verb, key, remote.ErrRetryable, errors.New("no route to host"))}
		}
		return fault.Fault{}
	})
	w.tiered(b, func(c *snapshot.Config) { c.CacheLimit, c.ScrubRate = 1, -1 })
	var seqs []uint64
	step := func() uint64 {
		k := len(seqs)
		w.put("model", noise(int64(k), 2<<20))
		seqs = append(seqs, w.step(fmt.Sprint(k)).Seq)
		return seqs[k]
	}
	here := func(seq uint64) bool { // it reads back without the bucket
		was := down.Swap(true)
		defer down.Store(was)
		_, err := w.m.Verify(w.ctx(), seq, nil)
		if err != nil && !errors.Is(err, chunkstore.ErrUnreachable) {
			t.Fatal(err)
		}
		return err == nil
	}
	gone := func(what string, local int64) {
		t.Helper()
		w.published()
		w.until(what, func() bool { return w.chunks.Local() <= local })
	}
	const some = 3 << 20 // more than one step, less than two
	step()
	step()
	gone("all goes", 0)

	i, err := w.m.PinStep(w.ctx(), seqs[0], snapshot.Hold{By: "somebody"})
	if w.ok(err); !i.Pinned() || !here(seqs[0]) {
		t.Fatalf("pinned, and not here: %+v", i)
	}
	for round := range 2 {
		step()
		gone("the others go", some)
		if !here(seqs[0]) || here(seqs[1]) {
			t.Fatalf("round %d: the pinned step is here: %v; the other one: %v", round, here(seqs[0]), here(seqs[1]))
		}
		w.restart()
	}
	if ref, err := w.m.Get(seqs[0]); err != nil || !ref.Pinned() {
		t.Fatalf("after a restart: %+v, %v", ref, err)
	}
	_, err = w.m.Release(seqs[0], snapshot.PinHold)
	w.ok(err)
	gone("what is not pinned any more goes", 0)

	down.Store(true)
	if i, err := w.m.PinStep(w.ctx(), seqs[1], snapshot.Hold{}); !errors.Is(err, chunkstore.ErrUnreachable) || !i.Pinned() {
		t.Fatalf("pinned without the bucket: %+v, %v", i, err)
	}
	down.Store(false)
	w.until("it is fetched", func() bool { w.m.PacksFetched(); return w.chunks.Local() > 2<<20 })
	_, err = w.m.Release(seqs[1], snapshot.PinHold)
	w.ok(err)
	gone("and goes", 0)

	// One that is pinned before it is stored.
	_, err = w.m.PinStep(w.ctx(), step(), snapshot.Hold{})
	w.ok(err)
	step()
	gone("the others go", some)
	if last := seqs[len(seqs)-2]; !here(last) {
		t.Error("what was pinned before it was stored has gone")
	}
}

// What a store published before it noted which packs refs name goes as well.
func TestOldPublishedGo(t *testing.T) {
	w := newWorld(t, nil)
	b := mem.New()
	w.tiered(b, nil)
	data := noise(1, 2<<20)
	w.put("model", data)
	seq := w.step("1").Seq
	w.published()
	_, err := w.eng.Update(schema.KindUpload, func(tx *state.Tx) error {
		it, err := w.eng.NewIter([]byte{schema.PrefixPackUpload}, []byte{schema.PrefixPackUpload + 1})
		if err != nil {
			return err
		}
		for ok := it.First(); ok; ok = it.Next() {
			u, err := schema.DecodePackUpload(it.Value())
			w.ok(err)
			u.State = schema.UploadIndexed
			tx.Put(slices.Clone(it.Key()), u.Encode())
		}
		return it.Close()
	})
	w.ok(err)
	w.tiered(b, func(c *snapshot.Config) { c.CacheLimit = 1 })
	w.until("all goes", func() bool { return w.chunks.Local() == 0 })
	w.want(seq, "model", data)
	w.noFaults()
}
