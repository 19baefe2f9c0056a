package chunkstore

import (
	"bytes"
	"errors"
	"math/rand"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/restic/chunker"

	"stepfs/chunkstore/pack"
	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/mem"
	"stepfs/internal/schema"
)

// joinedConfig is c for a store that was named by it and has joined others.
func joinedConfig(c Config) Config {
	c.Older = append(slices.Clone(c.Older), c.Key)
	c.Key = [32]byte{9, byte(len(c.Older))}
	pol, err := chunker.DerivePolynomial(rand.New(rand.NewSource(int64(len(c.Older)))))
	if err != nil {
		panic(err)
	}
	c.Polynomial = pol
	return c
}

// joined stores versions, and opens the store again, having joined others.
func joined(t *testing.T, c Config, versions []content) (f *fixture, refs [][]Ref) {
	t.Helper()
	fs := vfs.NewMem()
	f = openFixture(t, fs, "store", c)
	refs = f.storeSeries(versions)
	f.close()
	return openFixture(t, fs, "store", joinedConfig(c)), refs
}

// oneNaming looks whether each pack has one naming, which its record says, and
// whether all in it is made from the same.
func oneNaming(f *fixture) {
	f.t.Helper()
	x := readIndex(f)
	for number, rec := range x.packs {
		foot, err := f.readFooter(rec.Name)
		try(f.t, err)
		if foot.Naming != rec.Naming {
			f.t.Fatalf("pack %d is said to have naming %d, and has %d", number, rec.Naming, foot.Naming)
		}
	}
	for id, loc := range x.chunks {
		plain, err := f.ReadBack(f.t.(*testing.T).Context(), id, nil)
		try(f.t, err)
		naming, ok := f.namedBy(plain, id)
		if rec := x.packs[loc.Pack]; !ok || rec.Naming != naming {
			f.t.Fatalf("a chunk of naming %d lies in a pack of %d", naming, rec.Naming)
		}
		if link, err := linkOf(loc); err != nil || link.Depth > 0 && x.packs[x.chunks[link.ID].Pack].Naming != x.packs[loc.Pack].Naming {
			f.t.Fatalf("a chunk is made from one of another naming (%v)", err)
		}
	}
}

// TestOlderNames: what is named by an older key is read, scrubbed, checked, collected
// and found again as ever.
func TestOlderNames(t *testing.T) {
	versions := series(3, 30_000, 4)
	f, refs := joined(t, deltaConfig(), versions)
	ctx := t.Context()
	f.checkSeries(versions, refs)
	audit(f)
	oneNaming(f)
	for _, r := range refs[3] {
		if older, err := f.Older(r.ID); !older || err != nil {
			t.Fatal("a chunk of an older key passes for one of the newest: ", err)
		}
	}
	for number := uint64(0); ; {
		var err error
		if number, err = f.NextPack(number); err != nil || number == 0 {
			try(t, err)
			break
		}
		try(t, f.Scrub(ctx, number, func(err error) { t.Error("the scrub complains: ", err) }, func(int64) error { return nil }))
	}
	f.drop(1, refs[0])
	f.drop(3, refs[2])
	f.collect()
	oneNaming(f)
	f.checkSeries([]content{versions[1], versions[3]}, [][]Ref{refs[1], refs[3]})
	try(t, f.RebuildIndex(ctx))
	oneNaming(f)
	f.checkSeries([]content{versions[1], versions[3]}, [][]Ref{refs[1], refs[3]})
}

// TestNewNames: new content is cut and named as in a store that never had another
// key, whatever is known of it, and made from nothing of an older key.
func TestNewNames(t *testing.T) {
	versions := series(4, 30_000, 4)
	f, old := joined(t, deltaConfig(), versions[:2])
	c := f.cfg
	c.Older = nil
	fresh := openFixture(t, vfs.NewMem(), "other", c)
	want := fresh.storeSeries(versions)
	for _, r := range old[1] {
		if f.has(r.ID) || f.baseFor(Piece{Off: r.Off, Len: r.Len, ID: r.ID, At: r.Off}) != nil {
			t.Fatal("a chunk of an older key is of use to new content")
		}
	}
	if p, err := f.Again(old[1]); p != nil || err != nil {
		t.Fatal("content of an older key passes for stored anew: ", err)
	}
	prior := old[1]
	for k, v := range versions {
		p := f.ingest(v, prior)
		f.hold(uint64(100+k), p.Refs())
		p.Release()
		if prior = p.Refs(); !slices.Equal(prior, want[k]) {
			t.Fatalf("version %d is cut or named otherwise than where all was by the same key", k)
		}
		if again, err := f.Again(prior); again == nil || err != nil || !slices.Equal(again.Refs(), prior) {
			t.Fatalf("version %d is not there again: %v", k, err)
		} else {
			again.Release()
		}
	}
	oneNaming(f)
	f.checkSeries(versions, want)
	if deltas := depths(readIndex(f))[1]; deltas == 0 {
		t.Error("versions of the newest key are not made from each other")
	}
	f.drop(1, old[0]) // packs of both namings are written again
	f.drop(101, want[1])
	f.collect()
	oneNaming(f)
	f.checkSeries([]content{versions[1], versions[3]}, [][]Ref{old[1], want[3]})
	f.drop(2, old[1])
	f.collect()
	if n := f.OlderBytes(); n != 0 {
		t.Errorf("%d bytes of an older key are left", n)
	}
	audit(f)
}

// TestHealOlder: a damaged chunk of an older key is stored again under its name, in a
// pack that does not leave.
func TestHealOlder(t *testing.T) {
	data := solid(randomBytes(5, 20_000))
	f, refs := joined(t, smallConfig(), []content{data})
	r := refs[0][1]
	loc, rec, err := f.locate(r.ID)
	try(t, err)
	flip(f, rec.Name, loc.Offset)
	var b [4096]byte
	if err := f.ReadAt(t.Context(), r.ID, r.Len, b[:r.Len], 0); !errors.Is(err, ErrCorrupt) {
		t.Fatal(err)
	}
	if err := f.Heal(t.Context(), r.ID, data.data[r.Off+1:r.End()+1]); err == nil {
		t.Fatal("healed by other bytes")
	}
	try(t, f.Heal(t.Context(), r.ID, data.data[r.Off:r.End()]))
	f.checkSeries([]content{data}, refs)
	oneNaming(f)
	if older, err := f.Older(r.ID); !older || err != nil {
		t.Fatal("the healed chunk passes for one of the newest key: ", err)
	}
}

// TestSalvageOlder: what is saved of a damaged pack keeps its naming.
func TestSalvageOlder(t *testing.T) {
	data := solid(randomBytes(6, 20_000))
	for _, older := range []bool{true, false} {
		f, refs := joined(t, smallConfig(), []content{data})
		want := uint8(0)
		if !older {
			refs, want = [][]Ref{f.store(data)}, 1
		}
		_, rec, err := f.locate(refs[0][0].ID)
		try(t, err)
		flip(f, rec.Name, int64(rec.Size)-1) // the trailer
		got, err := Salvage(t.Context(), f.fs, f.dir, pack.Name(rec.Name).FileName(), f.cfg, false)
		try(t, err)
		if len(got.Into) == 0 || got.Broken > 0 {
			t.Fatalf("%+v", got)
		}
		for _, file := range got.Into {
			name, _ := pack.ParseFileName(file)
			if foot, err := f.readFooter(name); err != nil || foot.Naming != want {
				t.Errorf("saved as naming %d, not %d (%v)", foot.Naming, want, err)
			}
		}
	}
}

// TestLabelledOlder: a pack that is taken for one of an older naming, though it is
// not, costs room alone: its chunks are stored again, and may leave then.
func TestLabelledOlder(t *testing.T) {
	versions := series(7, 30_000, 3)
	fs, c := vfs.NewMem(), deltaConfig()
	f := openFixture(t, fs, "store", c)
	refs := f.storeSeries(versions)
	f.close()
	c.Older = [][32]byte{{7}, c.Key} // it has come back to the key that it had
	f = openFixture(t, fs, "store", c)
	if older, err := f.Older(refs[2][0].ID); !older || err != nil {
		t.Fatal("what may be of another key passes for the newest: ", err)
	}
	again := f.storeSeries(versions)
	for k := range versions {
		if !slices.EqualFunc(again[k], refs[k], func(a, b Ref) bool { return a.ID == b.ID }) {
			t.Fatal("the same content has another name")
		}
		for _, r := range again[k] {
			if older, err := f.Older(r.ID); older || err != nil {
				t.Fatalf("version %d was stored again, and is still taken for older (%v)", k, err)
			}
		}
	}
	f.checkSeries(versions, again)
	audit(f)
}

// TestConfigOlderThanPacks: a store whose config came out of a backup is refused.
func TestConfigOlderThanPacks(t *testing.T) {
	f, _ := joined(t, smallConfig(), []content{solid(randomBytes(8, 5000))})
	f.store(solid(randomBytes(9, 5000)))
	f.close()
	e := openEngine(t, f.fs, "store")
	defer e.Close(true)
	if _, err := Open(e, f.fs, f.dir, smallConfig()); !errors.Is(err, ErrConfig) {
		t.Fatal(err)
	}
	lost := openEngine(t, f.fs, "lost") // and an index that knows nothing of them
	defer lost.Close(true)
	if _, err := Open(lost, f.fs, f.dir, smallConfig()); !errors.Is(err, ErrConfig) {
		t.Fatal(err)
	}
}

// TestClaimedTwice: who needs a chunk in a pack of one naming is not told that one of
// another is about to have it.
func TestClaimedTwice(t *testing.T) {
	f, _ := joined(t, smallConfig(), []content{solid(randomBytes(12, 5000))})
	p := f.newPending()
	defer p.Release()
	claim := func(naming uint8) (*packWriter, bool) {
		pw, fresh, err := f.claim(p, ID{1}, 1, lane{naming: naming})
		try(t, err)
		return pw, fresh
	}
	ended := errors.New("it is not written")
	old, _ := claim(0)
	pw, fresh := claim(1)
	f.appended(old, 0, ended)
	if !fresh || pw == old {
		t.Fatal("a pack of an older naming is to have new content")
	}
	if again, fresh := claim(1); fresh {
		f.appended(again, 0, ended)
		t.Error("the claim of another pack is forgotten")
	}
	f.appended(pw, 0, ended)
}

// everything is all that a bucket has.
func everything(t *testing.T, b remote.Bucket) []byte {
	t.Helper()
	var all []byte
	for o, err := range b.List(t.Context(), "", "") {
		try(t, err)
		data, _, err := remote.ReadAll(t.Context(), b, o.Key, 1<<20)
		try(t, err)
		all = append(all, data...)
	}
	return all
}

// TestNothingOlderLeaves is the invariant: neither what needs a chunk of an older key
// is published, nor is such a pack sent, whatever asks for it. Each gate holds alone.
func TestNothingOlderLeaves(t *testing.T) {
	data := solid(randomBytes(10, 30_000))
	f, refs := joined(t, smallConfig(), []content{data})
	b := mem.New()
	mine := f.store(solid(randomBytes(11, 30_000)))
	u, _ := f.uploadTo(b, mine) // those of the newest key go
	n := u.Needs()
	defer n.Release()
	if err := n.Add(t.Context(), refs[0][0].ID); !errors.Is(err, ErrOlder) {
		t.Errorf("a snapshot that needs a chunk of an older key: %v", err)
	}
	here := f.Needs() // of a pinned step, which stays here
	try(t, here.Add(t.Context(), refs[0][0].ID))
	here.Release()
	if _, err := n.pinned(t.Context(), refs[0][0].ID); err != nil { // as if Add had not looked
		t.Fatal(err)
	}
	p := n.packs[len(n.packs)-1]
	if err := u.withPack(p, func(remote.Content) error { return nil }); !errors.Is(err, ErrOlder) {
		t.Errorf("a pack of an older key was about to be sent: %v", err)
	}
	all := everything(t, b)
	for id, loc := range readIndex(f).chunks {
		older, err := f.Older(id)
		try(t, err)
		if bytes.Contains(all, id[:]) == older {
			t.Fatalf("chunk in pack %d: older %v, and in the bucket %v", loc.Pack, older, !older)
		}
	}
}

// Formats: what today's packs and records say is naming 0.
func TestNamingOfOldRecords(t *testing.T) {
	v := schema.PackRecord{State: schema.PackLive, Naming: 3}.Encode()
	if rec, err := schema.DecodePackRecord(v); err != nil || rec.Naming != 3 {
		t.Fatal(rec, err)
	}
	v[0] = 4
	if rec, err := schema.DecodePackRecord(v[:len(v)-1]); err != nil || rec.Naming != 0 {
		t.Fatal(rec, err)
	}
}
