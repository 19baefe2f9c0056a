package chunkstore

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/pack"
)

// TestPrefetch: what was asked for in time is there when it is read, is decoded
// once, and is held against its name like anything else.
func TestPrefetch(t *testing.T) {
	f := openFixture(t, vfs.NewMem(), "store", deltaConfig())
	versions := series(1, 4000, 4)
	refs := f.storeSeries(versions)[3]
	f.cache.drop()
	settled := func() {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); len(f.prefetches) > 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("a chunk that was asked for never comes")
			}
		}
	}
	r := refs[0]
	if !f.Prefetch(r.ID, r.Len) {
		t.Fatal("no room in a store that nobody uses")
	}
	settled()
	before := f.Stats()
	if !f.Prefetch(r.ID, r.Len) {
		t.Fatal("what is there needs no room")
	}
	got := make([]byte, r.Len)
	if err := f.ReadAt(context.Background(), r.ID, r.Len, got, 0); err != nil || !bytes.Equal(got, versions[3].data[r.Off:r.End()]) {
		t.Fatalf("other bytes, %v", err)
	}
	if st := f.Stats(); st.Loads != before.Loads || st.CacheHits != before.CacheHits+1 {
		t.Fatalf("decoded again: %+v, before %+v", st, before)
	}

	bad := refs[1]
	x := audit(f)
	loc := x.chunks[bad.ID]
	flip(f, pack.Name(x.packs[loc.Pack].Name), loc.Offset+int64(loc.Stored)/2)
	f.Prefetch(bad.ID, bad.Len)
	settled()
	if err := f.ReadAt(context.Background(), bad.ID, bad.Len, make([]byte, bad.Len), 0); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("damaged: %v", err)
	}
}
