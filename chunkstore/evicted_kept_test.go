package chunkstore

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/pack"
	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/fault"
	"stepfs/chunkstore/remote/mem"
	"stepfs/chunkstore/remote/meter"
)

// keptStore is a store of which all is away, in a bucket that can go down.
func keptStore(t *testing.T) (f *fixture, down *atomic.Bool, got func() int64, versions []content, refs [][]Ref) {
	t.Helper()
	m := meter.New(mem.New())
	down = new(atomic.Bool)
	b := fault.New(m, func(verb, key string) fault.Fault {
		if down.Load() && strings.HasPrefix(key, bucket.PacksPrefix) {
			return fault.Fault{Before: remote.Fail(verb, key, remote.ErrRetryable, errors.New("no route to host"))}
		}
		return fault.Fault{}
	})
	f, versions, refs = awayStore(t, vfs.NewMem(), b)
	f.forget()
	f.far.pause = 0
	was := m.Stats().Get.Bytes
	return f, down, func() int64 { return m.Stats().Get.Bytes - was }, versions, refs
}

// TestKeptWhole: packs that are read from end to end are here again, and each byte
// was fetched once.
func TestKeptWhole(t *testing.T) {
	f, down, got, versions, refs := keptStore(t)
	f.KeepFetched(1 << 30)
	size := int64(f.Stats().Away)
	f.checkSeries(versions, refs)
	for end := time.Now().Add(10 * time.Second); f.Stats().AwayPacks > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%+v", f.Stats())
		}
	}
	if n := got(); n > size+size/10 {
		t.Errorf("%d bytes were fetched of packs of %d", n, size)
	}
	f.forget()
	down.Store(true)
	f.checkSeries(versions, refs)
	if f.Local() != size {
		t.Errorf("%d bytes are here, not %d", f.Local(), size)
	}
	names, err := f.fs.List(f.dir)
	try(t, err)
	for _, n := range names {
		if !strings.HasSuffix(n, pack.Suffix) {
			t.Errorf("%s is left", n)
		}
	}
	if got := findings(f, CheckOptions{ReadData: 1}); len(got) > 0 {
		t.Errorf("%+v", got)
	}
	down.Store(false)
	if f.evictAll() != size {
		t.Error("what came back does not go again")
	}
	f.checkSeries(versions, refs)
}

// TestKeptParts: what was read of a pack is kept, too, within an eighth of the limit.
func TestKeptParts(t *testing.T) {
	f, down, _, versions, refs := keptStore(t)
	last := len(refs) - 1
	r := refs[last][len(refs[last])-1]
	read := func() error {
		b := make([]byte, r.Len)
		err := f.ReadAt(t.Context(), r.ID, r.Len, b, 0)
		if err == nil && string(b) != string(versions[last].data[r.Off:r.End()]) {
			t.Fatal("wrong bytes")
		}
		return err
	}
	forget := func() { // but not what is kept
		f.cache.drop()
		f.far.spans.close()
		f.far.spans = newSpans(farAhead, f.far.fetch, f.buffers.put)
		f.far.reset()
	}
	for _, limit := range []int64{0, 1 << 20} {
		f.KeepFetched(limit)
		down.Store(false)
		forget()
		try(t, read())
		forget()
		down.Store(true)
		if err := read(); (err == nil) != (limit > 0) {
			t.Fatalf("limit %d: %v", limit, err)
		}
	}
	down.Store(false)
	f.forget()
	most := int64(0)
	for _, p := range readIndex(f).packs {
		most = max(most, int64(p.Size))
	}
	f.KeepFetched(keptShare * most) // room for one
	for k := range refs {
		for _, r := range refs[k][:len(refs[k])/2] {
			try(t, f.ReadAt(t.Context(), r.ID, r.Len, make([]byte, r.Len), 0))
			f.far.kept.mu.Lock()
			sum := int64(0)
			for _, kp := range f.far.kept.packs {
				sum += kp.bytes
			}
			if sum != f.far.kept.bytes || sum > most {
				t.Fatalf("%d bytes are kept, counted as %d, of %d at most", sum, f.far.kept.bytes, most)
			}
			f.far.kept.mu.Unlock()
		}
	}
}
