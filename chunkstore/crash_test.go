package chunkstore

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"stepfs/chunkstore/pack"
	"stepfs/internal/journal"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// crashPlan takes a clone of the disk, as a power cut would leave it, just
// before the at-th operation that changes it.
type crashPlan struct {
	mem     *vfs.MemFS
	at      int
	percent int // of what was not synced that survives

	mu    sync.Mutex
	armed bool // the metadata is there; making it is not what is tested here
	ops   int
	acked []stored // what Wait has promised so far
	clone *vfs.MemFS
	kept  []stored // what had been promised at the crash
}

type stored struct {
	c    content
	refs []Ref
}

func (p *crashPlan) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() == errorfs.OpIsRead {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.armed {
		return nil
	}
	p.ops++
	if p.ops == p.at {
		cfg := vfs.CrashCloneCfg{UnsyncedDataPercent: p.percent}
		if p.percent > 0 {
			cfg.RNG = rand.New(rand.NewPCG(uint64(p.at), 1))
		}
		p.clone = p.mem.CrashClone(cfg)
		p.kept = append([]stored(nil), p.acked...)
	}
	return nil
}

// run ingests three versions, the second half of them in flight together.
func (p *crashPlan) run(t *testing.T) {
	fs := errorfs.Wrap(p.mem, errorfs.InjectorFunc(p.MaybeError))
	e := openEngine(t, fs, "store")
	syncDirs(t, fs, "store", "/")
	p.mu.Lock()
	p.armed = true
	p.mu.Unlock()
	f := openStore(t, e, fs, "store", smallConfig())
	defer f.close()
	data := randomBytes(1, 12_000)
	var prior []Ref
	for i := range 3 {
		data = append(bytes.Clone(data), randomBytes(int64(i+2), 5_000)...)
		c := solid(data)
		pending, err := f.Ingest(context.Background(), c, prior)
		if err != nil {
			t.Fatal(err)
		}
		if i != 1 {
			if err := f.Flush(context.Background()); err != nil {
				t.Fatal(err)
			}
			if err := pending.Wait(context.Background()); err != nil {
				t.Fatal(err)
			}
			p.mu.Lock()
			p.acked = append(p.acked, stored{c, pending.Refs()})
			p.mu.Unlock()
		}
		prior = pending.Refs()
	}
}

func syncDirs(t tester, fs vfs.FS, dirs ...string) {
	for _, dir := range dirs {
		d, err := fs.OpenDir(dir)
		if err == nil {
			err = errors.Join(d.Sync(), d.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// check opens what the crash left: what was promised is there, every indexed
// chunk is whole, no temporary file is left, and the store works.
func (p *crashPlan) check(t *testing.T) {
	f := openStore(t, openBoot(t, p.clone, "store", "after"), p.clone, "store", smallConfig())
	defer f.close()
	for _, s := range p.kept {
		checkContent(t, f, s.c, s.refs)
	}
	checkIndex(t, f)
	names, err := p.clone.List("store/packs")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if strings.HasSuffix(n, tmpSuffix) {
			t.Fatalf("crash at %d: %s is left", p.at, n)
		}
	}
	if st := f.Stats(); st.Packs != uint64(len(names)) || st.LostPacks+st.BadPacks != 0 {
		t.Fatalf("crash at %d: %+v, files %v", p.at, st, names)
	}
	c := solid(randomBytes(1, 12_000))
	checkContent(t, f, c, f.ingest(c, nil).Refs())
}

// checkIndex reads every chunk that the index names.
func checkIndex(t *testing.T, f *fixture) {
	it, err := f.engine.NewIter(schema.ChunkBounds())
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		_, id, err := schema.ParseChunkKey(it.Key())
		if err != nil {
			t.Fatal(err)
		}
		loc, err := schema.DecodeChunkLoc(it.Value())
		if err != nil {
			t.Fatal(err)
		}
		if err := f.ReadAt(context.Background(), id, loc.Raw, make([]byte, loc.Raw), 0); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCrashAtEveryOperation(t *testing.T) {
	dry := &crashPlan{mem: vfs.NewCrashableMem()}
	dry.run(t)
	if dry.ops < 40 {
		t.Fatalf("only %d operations", dry.ops)
	}
	for _, percent := range []int{0, 50} {
		for at := 1; at <= dry.ops; at++ {
			p := &crashPlan{mem: vfs.NewCrashableMem(), at: at, percent: percent}
			p.run(t)
			if p.clone == nil {
				continue // background work of the engine made this run shorter
			}
			p.check(t)
		}
	}
}

// TestOrder is the promise itself, as a trace: nothing is indexed before the
// pack's file is synced, named, and its directory synced.
func TestOrder(t *testing.T) {
	var mu sync.Mutex
	var trace []string
	kinds := map[errorfs.OpKind]string{errorfs.OpCreate: "create", errorfs.OpFileSync: "sync", errorfs.OpRename: "rename"}
	note := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		trace = append(trace, s)
	}
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if what := kinds[op.Kind]; what != "" && strings.HasPrefix(op.Path, "store/packs") {
			name := "directory"
			if strings.HasSuffix(op.Path, tmpSuffix) {
				name = "temp"
			}
			note(what + " " + name)
		}
		return nil
	}))
	f := openFixture(t, fs, "store", smallConfig())
	f.db = tracingDB{f.engine, note}
	if _, err := f.Put(context.Background(), []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := f.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	want := "create temp, sync temp, rename temp, sync directory, index, sync journal"
	mu.Lock()
	defer mu.Unlock()
	if got := strings.Join(trace, ", "); got != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
}

// tracingDB notes what is asked of the engine.
type tracingDB struct {
	DB
	note func(string)
}

func (d tracingDB) Update(kind schema.Kind, fn func(tx *state.Tx) error) (journal.Pos, error) {
	d.note("index")
	return d.DB.Update(kind, fn)
}

func (d tracingDB) Sync(pos journal.Pos) error {
	d.note("sync journal")
	return d.DB.Sync(pos)
}

// TestForeignDomain: a pack of another domain is not ours to index.
func TestForeignDomain(t *testing.T) {
	fs := vfs.NewMem()
	cfg := smallConfig()
	cfg.Domain = 7
	openFixture(t, fs, "other", cfg).ingest(solid(randomBytes(1, 100)), nil)
	names, err := fs.List("other/packs")
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	if err := fs.MkdirAll("store/packs", 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, fs, "store/packs/"+names[0], readFile(t, fs, "other/packs/"+names[0]))
	var seen error
	own := smallConfig()
	own.Events.Damage = func(err error) { seen = err }
	f := openFixture(t, fs, "store", own)
	if st := f.Stats(); st.Packs != 0 || st.BadPacks != 1 || !errors.Is(seen, pack.ErrFormat) {
		t.Fatalf("%+v, %v", st, seen)
	}
}

// TestNewDirectoryIsDurable: the directory of the first pack survives too.
func TestNewDirectoryIsDurable(t *testing.T) {
	mem := vfs.NewCrashableMem()
	if err := mem.MkdirAll("disk", 0o755); err != nil {
		t.Fatal(err)
	}
	syncDirs(t, mem, "/", "disk")
	f := openStore(t, openEngine(t, mem, "store"), mem, "disk", smallConfig())
	f.ingest(solid([]byte("x")), nil)
	names, err := mem.CrashClone(vfs.CrashCloneCfg{}).List("disk/packs")
	if err != nil || len(names) != 1 {
		t.Fatalf("after a power cut: %v, %v", names, err)
	}
}

// TestHealedOutlastsPowerCut: a chunk that was stored again, since its place was
// found damaged, is read from the new place after a power cut, though nobody has
// synced anything since. The next start does not know of the damage.
func TestHealedOutlastsPowerCut(t *testing.T) {
	mem := vfs.NewCrashableMem()
	e := openEngine(t, mem, "store")
	syncDirs(t, mem, "store", "/")
	f := openStore(t, e, mem, "store", smallConfig())
	c := solid(randomBytes(1, 1000))
	p := f.ingest(c, nil)
	refs := p.Refs()
	f.hold(1, refs)
	p.Release()
	if err := f.engine.Sync(f.engine.Pos()); err != nil {
		t.Fatal(err)
	}
	x := audit(f)
	at := x.chunks[refs[0].ID]
	name := pack.Name(x.packs[at.Pack].Name)
	flip(f, name, at.Offset+int64(at.Stored)/2)
	syncDirs(t, mem, mem.PathJoin(f.dir, name.FileName())) // that lasts, too
	f.cache.drop()
	if _, err := f.fetchAll(len(c.data), refs[:1]); err == nil {
		t.Fatal("it reads back: nothing proved")
	}
	if err := f.Heal(t.Context(), refs[0].ID, c.data[:refs[0].Len]); err != nil {
		t.Fatal(err)
	}
	left := mem.CrashClone(vfs.CrashCloneCfg{})
	f = openStore(t, openBoot(t, left, "store", "after"), left, "store", smallConfig())
	checkContent(t, f, c, refs)
}
