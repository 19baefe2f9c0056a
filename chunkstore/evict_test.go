package chunkstore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/bucket/prune"
	"stepfs/chunkstore/pack"
	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/fault"
	"stepfs/chunkstore/remote/mem"
	"stepfs/internal/check"
	"stepfs/internal/schema"
	"stepfs/internal/simdisk"
	"stepfs/internal/state"
)

// uploadTo uploads what the refs need, and publishes that, if it is anything.
func (f *fixture) uploadTo(b remote.Bucket, refs ...[]Ref) (*Uploads, *bucket.Ref) {
	f.t.Helper()
	ctx := context.Background()
	open := func(context.Context) (remote.Bucket, error) { return b, nil }
	f.ReadFrom(open)
	u := f.Uploads(open, "store")
	try(f.t, u.Attach(ctx))
	if len(refs) == 0 {
		return u, nil
	}
	n := u.Needs()
	defer n.Release()
	for _, rs := range refs {
		for _, r := range rs {
			try(f.t, n.Add(ctx, r.ID))
		}
	}
	f.snapshots++
	ref := &bucket.Ref{Snapshot: f.snapshots, Record: []byte("r"), Root: refs[0][0].ID, RootLen: 1}
	try(f.t, n.Publish(ctx, ref))
	f.update(func(tx *state.Tx) error { return u.Named(tx, ref.Packs) })
	return u, ref
}

// evictAll evicts what may go.
func (f *fixture) evictAll() int64 {
	f.t.Helper()
	n, err := f.Evict(context.Background(), math.MaxInt64)
	try(f.t, err)
	return n
}

// local gives the packs that are here.
func (f *fixture) local() (names []string) {
	f.t.Helper()
	all, err := f.fs.List(f.dir)
	try(f.t, err)
	for _, n := range all {
		if strings.HasSuffix(n, pack.Suffix) {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names
}

// forget drops all that is in memory of what was read.
func (f *fixture) forget() {
	f.cache.drop()
	f.far.close()
	f.far.init(f.Store)
}

// awayStore is a store of versions, all of them in a bucket alone.
func awayStore(t *testing.T, fs vfs.FS, b remote.Bucket) (*fixture, []content, [][]Ref) {
	t.Helper()
	f := openFixture(t, fs, "store", deltaConfig())
	versions := append(series(1, 10_000, 6), solid(randomBytes(3, 60_000)))
	refs := f.storeSeries(versions)
	f.uploadTo(b, refs...)
	size := f.Local()
	if n := f.evictAll(); n != size || n == 0 {
		t.Fatalf("%d of %d bytes were evicted", n, size)
	}
	if left := f.local(); len(left) > 0 || f.Local() != 0 {
		t.Fatalf("%v are still here, %d bytes", left, f.Local())
	}
	return f, versions, refs
}

// TestAway: what is only in the bucket is read like anything else, also after a
// restart, by ReadBack, and out of an index that was made of stubs.
func TestAway(t *testing.T) {
	fs, b := vfs.NewMem(), mem.New()
	f, versions, refs := awayStore(t, fs, b)
	f.checkSeries(versions, refs)
	if st := f.Stats(); st.AwayPacks == 0 || st.Size != 0 || st.Away == 0 || st.LostPacks != 0 {
		t.Fatalf("%+v", st)
	}
	if got := findings(f, CheckOptions{ReadData: 1}); len(got) > 0 {
		t.Fatalf("a check says %+v", got)
	}
	n, err := f.NextPack(0)
	try(t, err)
	for ; n > 0; n, err = f.NextPack(n) {
		try(t, f.Scrub(t.Context(), n, func(err error) { t.Error("a scrub says ", err) }, func(int64) error { return nil }))
	}
	try(t, err)
	f.close()

	f = openFixture(t, fs, "store", deltaConfig())
	f.uploadTo(b)
	for _, r := range refs[len(refs)-2] {
		got, err := f.ReadBack(t.Context(), r.ID, nil)
		if err != nil || !bytes.Equal(got, versions[len(refs)-2].data[r.Off:r.End()]) {
			t.Fatal(err)
		}
	}
	try(t, f.RebuildIndex(t.Context()))
	f.checkSeries(versions, refs)
	f.close()

	// The index is lost altogether, and with it where the packs are; the stubs know.
	try(t, fs.RemoveAll("store/index"))
	try(t, fs.RemoveAll("store/journal"))
	f = openFixture(t, fs, "store", deltaConfig())
	f.uploadTo(b)
	f.checkSeries(versions, refs)
	if st := f.Stats(); st.LostPacks+st.BadPacks != 0 || st.Size != 0 {
		t.Fatalf("%+v", st)
	}
}

// TestAwayIsRead: in ranges ahead of who reads on, each byte once, and held against
// its name.
func TestAwayIsRead(t *testing.T) {
	inner := mem.New()
	var gets, bad atomic.Int64
	b := fault.New(inner, func(verb, key string) fault.Fault {
		if verb != "get" || !strings.HasPrefix(key, bucket.PacksPrefix) {
			return fault.Fault{}
		}
		gets.Add(1)
		return fault.Fault{Damage: bad.Add(-1) >= 0}
	})
	f, versions, refs := awayStore(t, vfs.NewMem(), b)
	f.forget()
	last := len(refs) - 1
	checkContent(t, f, versions[last], refs[last])
	if n := int(gets.Load()); n == 0 || n > len(refs[last])/2 {
		t.Errorf("%d requests for %d chunks", n, len(refs[last]))
	}
	f.forget()
	bad.Store(1) // on the way: it is fetched once more
	checkContent(t, f, versions[last], refs[last])
	if st := f.Stats(); st.DamagedChunks != 0 {
		t.Errorf("%+v", st)
	}
	f.forget()
	bad.Store(1 << 40)
	var got []byte
	r := refs[last][0]
	err := f.ReadAt(t.Context(), r.ID, r.Len, make([]byte, r.Len), 0)
	if !errors.Is(err, ErrCorrupt) {
		t.Fatalf("%x, %v", got, err)
	}
}

// TestUnreachable: while the bucket is down what is only there can't be read, which
// is said, and is no damage; everything else goes on. Then it is back.
func TestUnreachable(t *testing.T) {
	var down atomic.Bool
	b := fault.New(mem.New(), func(verb, key string) fault.Fault {
		if down.Load() {
			return fault.Fault{Before: remote.Fail(verb, key, remote.ErrRetryable, errors.New("no route to host"))}
		}
		return fault.Fault{}
	})
	var said []error
	f := openFixture(t, vfs.NewMem(), "store", smallConfig())
	f.cfg.Events.Unreachable = func(err error) { said = append(said, err) }
	f.cfg.Events.Damage = func(err error) { t.Errorf("damage: %v", err) }
	old, fresh := solid(randomBytes(1, 20_000)), solid(randomBytes(2, 20_000))
	was := f.store(old)
	f.hold(1, was)
	f.uploadTo(b, was)
	f.evictAll()
	f.far.pause = 0
	down.Store(true)
	is := f.store(fresh)
	f.hold(2, is)
	checkContent(t, f, fresh, is)
	for _, r := range was {
		err := f.ReadAt(t.Context(), r.ID, r.Len, make([]byte, r.Len), 0)
		if !errors.Is(err, ErrUnreachable) || errors.Is(err, ErrMissing) || errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "no route to host") {
			t.Fatalf("read while the bucket is down: %v", err)
		}
		if dam, err := f.IsDamaged(r.ID); dam || err != nil {
			t.Fatal("it counts as damage", err)
		}
	}
	if len(said) != 1 {
		t.Errorf("%d reads failed, and it was said %d times", len(was), len(said))
	}
	if n, err := f.Evict(t.Context(), math.MaxInt64); n != 0 || err != nil {
		t.Errorf("evicted %d bytes, %v", n, err) // nothing is uploaded
	}
	f.collect()
	down.Store(false)
	checkContent(t, f, old, was)

	// The place is there, and the bucket is not: nothing is missing.
	empty := mem.New()
	f.close()
	f = openFixture(t, f.fs, "store", smallConfig())
	f.ReadFrom(func(context.Context) (remote.Bucket, error) { return empty, nil })
	if err := f.ReadAt(t.Context(), was[0].ID, was[0].Len, make([]byte, was[0].Len), 0); !errors.Is(err, ErrUnreachable) {
		t.Fatalf("read from an empty place: %v", err)
	}
	if st := f.Stats(); st.LostPacks != 0 {
		t.Fatalf("%+v", st)
	}
	f.close()
	f = openFixture(t, f.fs, "store", smallConfig())
	if err := f.ReadAt(t.Context(), was[0].ID, was[0].Len, make([]byte, was[0].Len), 0); !errors.Is(err, ErrUnreachable) {
		t.Fatalf("read without a bucket: %v", err)
	}
}

// TestEvictOnly: what is evicted is what was read least lately, of what a ref names
// and the bucket has.
func TestEvictOnly(t *testing.T) {
	b := mem.New()
	f := openFixture(t, vfs.NewMem(), "store", smallConfig())
	one, two, three := solid(randomBytes(1, 5000)), solid(randomBytes(2, 5000)), solid(randomBytes(3, 5000))
	a, c, d := f.store(one), f.store(two), f.store(three)
	f.hold(1, a)
	f.hold(2, c)
	f.hold(3, d)
	pathOf := func(r []Ref) string {
		_, rec, err := f.locate(r[0].ID)
		try(t, err)
		return pack.Name(rec.Name).FileName()
	}
	expect := func(what string, want ...string) {
		t.Helper()
		got := f.local()
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("%s: %v are here, not %v", what, got, want)
		}
	}
	f.evictAll()
	expect("nothing is uploaded", pathOf(a), pathOf(c), pathOf(d))

	open := func(context.Context) (remote.Bucket, error) { return b, nil }
	f.ReadFrom(open)
	u := f.Uploads(open, "store")
	try(t, u.Attach(t.Context()))
	n := u.Needs()
	for _, r := range slices.Concat(a, c) {
		try(t, n.Add(t.Context(), r.ID))
	}
	try(t, n.upload(t.Context(), u.attached.Load().lease))
	var packs []bucket.Pack
	for _, p := range n.packs {
		packs = append(packs, p.pack())
	}
	n.Release()
	f.evictAll()
	expect("no ref names it", pathOf(a), pathOf(c), pathOf(d))

	f.update(func(tx *state.Tx) error { return u.Named(tx, packs) })
	n = u.Needs()
	try(t, n.Add(t.Context(), a[0].ID))
	checkContent(t, f, one, a) // a was read last
	if _, err := f.Evict(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	expect("one goes, that was read least lately", pathOf(a), pathOf(d))
	f.evictAll()
	expect("somebody depends on it", pathOf(a), pathOf(d))
	n.Release()

	// The bucket has lost it, or has half of it.
	key := packs[slices.IndexFunc(packs, func(p bucket.Pack) bool { return p.Name.FileName() == pathOf(a) })].Key()
	whole, _, err := remote.ReadAll(t.Context(), b, key, 1<<20)
	try(t, err)
	var said error
	f.cfg.Events.Damage = func(err error) { said = err }
	for _, left := range [][]byte{nil, whole[:len(whole)/2]} {
		said = nil
		try(t, b.Delete(t.Context(), key))
		if left != nil {
			try(t, b.Put(t.Context(), key, remote.Bytes(left)))
		}
		f.evictAll()
		expect("the bucket has not got it", pathOf(a), pathOf(d))
		if !errors.Is(said, ErrMissing) {
			t.Errorf("it says %v", said)
		}
	}
	try(t, b.Delete(t.Context(), key))
	try(t, b.Put(t.Context(), key, remote.Bytes(whole)))
	f.evictAll()
	expect("now it has", pathOf(d))
	checkContent(t, f, one, a)
	checkContent(t, f, two, c)
}

// TestAwayDies: a pack that is away and in which nothing lives goes, with its stub;
// one in which something does stays as it is.
func TestAwayDies(t *testing.T) {
	b := mem.New()
	f := openFixture(t, vfs.NewMem(), "store", smallConfig())
	one, two := solid(randomBytes(1, 5000)), solid(randomBytes(2, 5000))
	a, c := f.store(one), f.store(two)
	f.hold(1, a)
	f.hold(2, c)
	f.uploadTo(b, a, c)
	f.evictAll()
	f.drop(1, a)
	f.drop(2, c[1:])
	gone := f.collect()
	if gone.Packs != 1 || gone.Freed != 0 {
		t.Fatalf("%+v", gone)
	}
	names, err := f.fs.List(f.dir)
	try(t, err)
	if len(names) != 1 || f.Stats().AwayPacks != 1 {
		t.Fatalf("%v are left", names)
	}
	checkContent(t, f, solid(two.data[:c[0].End()]), c[:1])
	if got := findings(f, CheckOptions{}); len(got) > 0 {
		t.Fatalf("%+v", got)
	}
	// What was given up is stored again, here.
	checkContent(t, f, one, f.store(one))
}

// evictCuts takes what power cuts leave before each operation that changes the
// disk.
type evictCuts struct {
	disk  *simdisk.Disk
	mu    sync.Mutex
	kept  []stored // what has to be there
	taken []evictCut
}

type evictCut struct {
	op   simdisk.Op
	disk *simdisk.Disk
	kept []stored
}

func (p *evictCuts) before(op simdisk.Op) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k := 0; op.Changes() && k < 3; k++ {
		rng := rand.New(rand.NewPCG(uint64(len(p.taken)), uint64(k)))
		p.taken = append(p.taken, evictCut{op, p.disk.Cut(rng), slices.Clone(p.kept)})
	}
	return nil
}

func (p *evictCuts) keep(what []stored) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kept = what
}

// TestEvictCrash: power is cut before each operation of evicting, and of collecting
// what is away. No pack is lost, and all is read; the bucket is as it was.
func TestEvictCrash(t *testing.T) {
	p, b := &evictCuts{disk: simdisk.New("/store", "/store/index", "/store/journal", "/store/packs")}, mem.New()
	e := openEngine(t, p.disk.FS(), "/store")
	f := openStore(t, e, p.disk.FS(), "/store", smallConfig())
	var kept []stored
	for k := range 3 {
		c := solid(randomBytes(int64(k), 6_000))
		refs := f.store(c)
		try(t, e.Sync(f.update(func(tx *state.Tx) error { return f.Hold(tx, uint64(k+1), ids(refs)) })))
		kept = append(kept, stored{c, refs})
	}
	f.uploadTo(b, kept[0].refs, kept[1].refs)
	p.keep(kept)
	p.disk.Before(p.before)
	f.evictAll()
	p.keep(kept[1:])
	f.drop(1, kept[0].refs)
	f.collect()
	p.disk.Before(nil)
	f.close()
	away := 0
	for at, cut := range p.taken {
		f := openFixture(t, cut.disk.FS(), "/store", smallConfig())
		if st := f.Stats(); st.LostPacks+st.BadPacks != 0 {
			t.Fatalf("cut %d, before %+v: %+v", at, cut.op, st)
		} else if st.AwayPacks > 0 {
			away++
		}
		f.uploadTo(b)
		for range 2 {
			if got := findings(f, CheckOptions{}); slices.ContainsFunc(got, func(x check.Finding) bool { return x.Kind == check.Damage || x.What == "pack-stub" }) {
				t.Fatalf("cut %d, before %+v: %v", at, cut.op, got)
			}
			for _, s := range cut.kept {
				checkContent(t, f, s.c, s.refs)
			}
			checkIndex(t, f)
			f.evictAll()
			f.collect()
		}
		f.close()
	}
	if len(p.taken) < 40 || away == 0 || away == len(p.taken) {
		t.Fatalf("%d crashes, %d of them left a pack that is away", len(p.taken), away)
	}
}

// TestEvictOrder: the file goes only after the stub and the record are durable, and
// comes back when it is.
func TestEvictOrder(t *testing.T) {
	var mu sync.Mutex
	var trace []string
	note := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		trace = append(trace, s)
	}
	kinds := map[errorfs.OpKind]string{errorfs.OpCreate: "create", errorfs.OpFileSync: "sync", errorfs.OpRename: "rename", errorfs.OpRemove: "remove"}
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if what := kinds[op.Kind]; what != "" && strings.HasPrefix(op.Path, "store/packs") {
			name := "directory"
			if _, ext, ok := strings.Cut(op.Path, "."); ok {
				name = ext
			}
			note(what + " " + name)
		}
		return nil
	}))
	b := fault.New(mem.New(), func(verb, _ string) fault.Fault {
		if verb == "stat" {
			note("stat")
		}
		return fault.Fault{}
	})
	f := openFixture(t, fs, "store", smallConfig())
	refs := f.store(solid(randomBytes(1, 1000)))
	f.uploadTo(b, refs)
	f.db = tracingDB{f.engine, note}
	mu.Lock()
	trace = nil
	mu.Unlock()
	f.evictAll()
	expect := func(want string) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if got := strings.Join(trace, ", "); got != want {
			t.Fatalf("got  %s\nwant %s", got, want)
		}
		trace = nil
	}
	expect("stat, create tmp, sync tmp, rename tmp, sync directory, index, sync journal, remove pack")

	// And is here again only when it is durable.
	f.KeepFetched(1 << 30)
	_, err := f.fetchAll(1000, refs)
	try(t, err)
	for end := time.Now().Add(10 * time.Second); f.Stats().AwayPacks > 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	f.far.close() // waits
	f.db = f.engine
	mu.Lock()
	trace = slices.DeleteFunc(trace, func(s string) bool { return s == "index" }) // of who asked for Stats
	mu.Unlock()
	expect("sync tmp, rename tmp, sync directory, remove away")
}

// TestStub: a stub says what the pack says of itself, and nothing that is damaged
// is taken for one.
func TestStub(t *testing.T) {
	f := openFixture(t, vfs.NewMem(), "store", smallConfig())
	f.store(solid(randomBytes(1, 5000)))
	name, ok := pack.ParseFileName(f.local()[0])
	if !ok {
		t.Fatal("no pack")
	}
	data := readFile(t, f.fs, f.fs.PathJoin(f.dir, name.FileName()))
	at := bucket.Pack{Name: name, Writer: bucket.Writer{1, 2}, Seq: 7, Size: int64(len(data))}
	text, err := makeStub(bytes.NewReader(data), at)
	try(t, err)
	s, err := parseStub(text, name)
	try(t, err)
	foot, got, err := pack.ReadFooter(s, s.at.Size)
	want, _, err2 := pack.ReadFooter(bytes.NewReader(data), at.Size)
	if err != nil || err2 != nil || got != name || s.at != at || len(foot.Entries) != len(want.Entries) || s.record().State != schema.UploadOnly {
		t.Fatalf("%+v, %v", s.at, err)
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 2000 {
		bad := bytes.Clone(text)
		if rnd.IntN(2) == 0 {
			bad = bad[:rnd.IntN(len(bad))]
		} else {
			bad[rnd.IntN(len(bad))] ^= 1 << rnd.IntN(8)
		}
		s, err := parseStub(bad, name)
		if err == nil {
			var n pack.Name
			if _, n, err = pack.ReadFooter(s, s.at.Size); err == nil && n == name {
				t.Fatal("a damaged stub is as good as the right one")
			}
		}
		if err != nil && !errors.Is(err, pack.ErrFormat) && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
}

// TestEvictCondemned: what prune is about to take from the bucket stays here, and
// goes once it lies there anew.
func TestEvictCondemned(t *testing.T) {
	b := mem.New()
	f := openFixture(t, vfs.NewMem(), "store", smallConfig())
	refs := f.store(solid(randomBytes(1, 5000)))
	f.hold(1, refs)
	u, ref := f.uploadTo(b, refs)
	try(t, u.Renew(t.Context())) // it keeps nothing for a ref that is still to come
	try(t, u.Forget(t.Context(), ref.Writer, ref.Seq))
	if r, err := prune.Run(t.Context(), b, prune.Options{}); err != nil || r.Condemned.Packs == 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	try(t, u.Renew(t.Context()))
	if n := f.evictAll(); n != 0 || len(f.local()) == 0 {
		t.Errorf("%d bytes were evicted that prune is about to take", n)
	}
	f.uploadTo(b, refs)
	if n := f.evictAll(); n == 0 || len(f.local()) != 0 {
		t.Errorf("%d bytes were evicted, %v are still here", n, f.local())
	}
}
