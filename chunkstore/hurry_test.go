package chunkstore

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestHurry: what is stored in a hurry is left unencoded, and encoded later,
// once; what would not have gained is left alone.
func TestHurry(t *testing.T) {
	f := newFixture(t)
	var text bytes.Buffer
	for k := range 4000 {
		fmt.Fprintf(&text, "%d legs good, %d legs bad. ", k, k+1)
	}
	soft := solid(text.Bytes())
	hard := solid(randomBytes(1, 100_000))
	f.Hurry(Unencoded)
	refs, more := f.store(soft), f.store(hard)
	f.hold(1, refs, more)
	before := f.Stats()
	if before.Stored != before.Raw {
		t.Fatalf("in a hurry %d bytes were stored as %d", before.Raw, before.Stored)
	}
	collect := func(encode bool) CollectStats {
		t.Helper()
		st, err := f.Collect(context.Background(), CollectOptions{Encode: encode})
		if err != nil {
			t.Fatal(err)
		}
		audit(f)
		for _, c := range []struct {
			content
			refs []Ref
		}{{soft, refs}, {hard, more}} {
			if got, err := f.fetchAll(len(c.data), c.refs); err != nil || !bytes.Equal(got, c.data) {
				t.Fatalf("read %d bytes, %v, which are not what was stored", len(got), err)
			}
		}
		return st
	}
	if st := collect(true); st.Packs != 0 {
		t.Errorf("there is hurry still, but %d packs were written again", st.Packs)
	}
	f.Hurry(Unhurried)
	if st := collect(false); st.Packs != 0 {
		t.Errorf("nobody asked for it, but %d packs were written again", st.Packs)
	}
	if st := collect(true); st.Packs == 0 {
		t.Error("nothing was encoded")
	}
	after := f.Stats()
	if gain := len(soft.data) / 2; after.Raw != before.Raw || after.Stored+uint64(gain) > before.Stored {
		t.Errorf("%d bytes of chunks take %d, before that %d took %d", after.Raw, after.Stored, before.Raw, before.Stored)
	}
	if st := collect(true); st.Packs != 0 {
		t.Errorf("encoded again: %+v", st)
	}
}

// TestNoDeltas: when ingest lags, versions are cut as before and encoded, but not
// made from each other, and no base is read for it.
func TestNoDeltas(t *testing.T) {
	f := openFixture(t, vfs.NewMem(), "store", deltaConfig())
	versions := series(1, 10_000, 4)
	f.Hurry(NoDeltas)
	refs := f.storeSeries(versions[:3])
	st := f.Stats()
	if n := depths(audit(f)); len(n) != 1 || st.Loads != 0 || st.SavedPlanes == 0 {
		t.Fatalf("chunks by depth: %v; %d read; planes save %d", n, st.Loads, st.SavedPlanes)
	}
	if want := uint64(2 * len(versions[0].data)); st.Hurried != want || st.Inherited != want {
		t.Fatalf("%d bytes hurried, %d cut as before, want %d", st.Hurried, st.Inherited, want)
	}
	f.Hurry(Unhurried)
	p := f.ingest(versions[3], refs[2])
	f.hold(4, p.Refs())
	p.Release()
	if n := depths(audit(f)); n[1] != len(p.Refs()) || f.Stats().Hurried != st.Hurried {
		t.Fatalf("chunks by depth: %v", n)
	}
	f.checkSeries(versions, append(refs, p.Refs()))
}
