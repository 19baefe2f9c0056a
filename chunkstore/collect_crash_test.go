package chunkstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// A life is a random history of one store: contents are stored, held, handed
// from holder to holder, dropped, given up, and collected, also between the
// transactions of a Collect under way. Each transaction of an owner carries
// its number, and the life remembers who held what after each. So whatever a
// crash leaves, the number found says exactly what must be there.
type life struct {
	*fixture
	rng   *rand.Rand
	busy  bool // inside a hook
	count uint64
	held  []map[uint64]stored // after transaction k, by holder
	cuts  *cuts
	round int

	versions []content // of weights, that some contents are; nil: none
	last     []Ref     // of the one stored last
	remade   int       // chunks that Collect made from something else
}

func (l *life) config() Config {
	if l.versions != nil {
		return deltaConfig()
	}
	return smallConfig()
}

// holderKey stands for what an owner keeps of what it holds.
func holderKey(holder uint64) []byte { return schema.Numbered(schema.PrefixSymlink, holder) }

// cuts takes clones of the disk as power cuts would leave it.
type cuts struct {
	mem      *vfs.MemFS
	percent  int
	from, to int

	mu     sync.Mutex
	armed  bool
	ops    int
	synced uint64 // transactions up to this one were promised
	taken  []cut
}

type cut struct {
	at     int
	disk   *vfs.MemFS
	synced uint64
}

func (c *cuts) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() == errorfs.OpIsRead {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.armed {
		return nil
	}
	if c.ops++; c.ops >= c.from && c.ops < c.to {
		cfg := vfs.CrashCloneCfg{UnsyncedDataPercent: c.percent, RNG: rand.New(rand.NewPCG(uint64(c.ops), 1))}
		c.taken = append(c.taken, cut{c.ops, c.mem.CrashClone(cfg), c.synced})
	}
	return nil
}

// live runs a life of so many rounds.
func live(t *testing.T, seed uint64, rounds int, c *cuts, versions []content) *life {
	fs := errorfs.Wrap(c.mem, errorfs.InjectorFunc(c.MaybeError))
	e := openEngine(t, fs, "store")
	syncDirs(t, fs, "store", "/")
	l := &life{rng: rand.New(rand.NewPCG(seed, 7)), cuts: c, versions: versions}
	l.fixture = openStore(t, e, fs, "store", l.config())
	l.held = []map[uint64]stored{{}}
	l.db = &hookedDB{DB: e, before: l.meanwhile}
	c.mu.Lock()
	c.armed = true
	c.mu.Unlock()
	for l.round = range rounds {
		switch n := l.rng.IntN(10); {
		case n < 5:
			l.owner()
		case n < 8:
			l.collectSome()
		default:
			l.sync()
		}
	}
	c.mu.Lock()
	c.armed = false
	c.mu.Unlock()
	l.db = e
	return l
}

// meanwhile is what owners do between the transactions of Collect.
func (l *life) meanwhile(kind schema.Kind) {
	if l.busy || kind == schema.KindChunkIndex && l.rng.IntN(4) > 0 || l.rng.IntN(2) == 0 {
		return
	}
	l.busy = true
	defer func() { l.busy = false }()
	l.owner()
}

// owner is one thing that an owner does.
func (l *life) owner() {
	switch l.rng.IntN(5) {
	case 0, 1:
		l.keep(false)
	case 2:
		l.keep(true)
	case 3:
		l.share()
	default:
		l.forget()
	}
}

// piece is one of a few kinds of content, so that histories share chunks.
func (l *life) piece() content {
	data := randomBytes(int64(l.rng.IntN(6)), 2000)
	data = append(data, randomBytes(int64(l.rng.IntN(3)), 500)...)
	if l.rng.IntN(3) == 0 {
		data = append(data, bytes.Repeat([]byte{byte('a' + l.rng.IntN(3))}, 3000)...)
	}
	return solid(data)
}

// keep stores a content, and holds it unless in vain.
func (l *life) keep(inVain bool) {
	var p *Pending
	c := l.piece()
	if l.versions != nil && l.rng.IntN(4) > 0 {
		c = l.versions[l.rng.IntN(len(l.versions))]
		p = l.ingestQuietly(c, l.last)
		l.last = p.Refs()
	} else {
		p = l.ingestQuietly(c, nil)
	}
	if inVain {
		p.Release()
		return
	}
	l.set(l.count+1, stored{c, p.Refs()}, 0)
	p.Release()
}

func (l *life) ingestQuietly(c content, prior []Ref) *Pending {
	busy := l.busy
	l.busy = true // the pack's own transaction is no place for others
	defer func() { l.busy = busy }()
	return l.ingest(c, prior)
}

// set is one transaction: holder gets what, and replaced, if any, is dropped.
func (l *life) set(holder uint64, what stored, replaced uint64) {
	now := maps.Clone(l.held[l.count])
	l.update(func(tx *state.Tx) error {
		if err := l.Hold(tx, holder, ids(what.refs)); err != nil {
			return err
		}
		now[holder] = what
		tx.Put(holderKey(holder), nil)
		if old, ok := now[replaced]; ok {
			tx.Delete(holderKey(replaced))
			delete(now, replaced)
			if err := l.Drop(tx, replaced, ids(old.refs)); err != nil {
				return err
			}
		}
		tx.Put(holderKey(0), schema.Counter(l.count+1))
		return nil
	})
	l.next(now)
}

func (l *life) next(now map[uint64]stored) {
	l.count++
	l.held = append(l.held, now)
}

// any gives some holder, or 0.
func (l *life) any() uint64 {
	for h := uint64(1); h <= l.count; h++ {
		if _, ok := l.held[l.count][h]; ok && l.rng.IntN(len(l.held[l.count])) == 0 {
			return h
		}
	}
	return 0
}

// share gives what one holds to another too, or hands it over.
func (l *life) share() {
	if h := l.any(); h > 0 {
		l.set(l.count+1, l.held[l.count][h], h*uint64(l.rng.IntN(2)))
	}
}

func (l *life) forget() {
	h := l.any()
	if h == 0 {
		return
	}
	now := maps.Clone(l.held[l.count])
	delete(now, h)
	l.update(func(tx *state.Tx) error {
		tx.Delete(holderKey(h))
		tx.Put(holderKey(0), schema.Counter(l.count+1))
		return l.Drop(tx, h, ids(l.held[l.count][h].refs))
	})
	l.next(now)
}

func (l *life) collectSome() {
	share := []float64{1e-9, 0.3, 1}[l.rng.IntN(3)]
	st, err := l.Collect(context.Background(), CollectOptions{DeadShare: share})
	if err != nil {
		l.t.Fatal(err)
	}
	l.remade += st.Remade
	l.check(l.count)
}

func (l *life) sync() {
	if l.rng.IntN(3) == 0 {
		if err := l.engine.Flush(); err != nil {
			l.t.Fatal(err)
		}
		return
	}
	count := l.count
	if err := l.engine.Sync(l.engine.Pos()); err != nil {
		l.t.Fatal(err)
	}
	l.cuts.mu.Lock()
	l.cuts.synced = count
	l.cuts.mu.Unlock()
}

// check reads everything that was held after transaction k.
func (l *life) check(k uint64) { checkHeld(l.fixture, l.held[k]) }

func checkHeld(f *fixture, held map[uint64]stored) {
	f.t.Helper()
	for _, s := range held {
		checkContent(f.t, f, s.c, s.refs)
	}
}

// resume opens what a cut left, and holds it against the history.
func (l *life) resume(t tester, c cut) {
	e, err := state.Open(state.Config{Dir: "store", FS: c.disk, SegmentSize: 128 << 10, MemTable: 512 << 10, Cache: 1 << 20, BootID: "after"})
	if err != nil {
		t.Fatalf("cut at %d: %v", c.at, err)
	}
	f := openStore(t, e, c.disk, "store", l.config())
	defer f.close()
	k := uint64(0)
	if v, err := e.Get(holderKey(0)); err == nil {
		if k, err = schema.ParseCounter(v); err != nil {
			t.Fatal(err)
		}
	} else if !errors.Is(err, state.ErrNotFound) {
		t.Fatal(err)
	}
	if k < c.synced {
		t.Fatalf("cut at %d: transaction %d is there, %d was promised", c.at, k, c.synced)
	}
	audit(f)
	checkHeld(f, l.held[k])
	for range 2 {
		f.collect()
	}
	checkKept(t, f)
	checkHeld(f, l.held[k])
	if st := f.Stats(); st.LostPacks+st.BadPacks+st.DamagedChunks != 0 {
		t.Fatalf("cut at %d: %+v", c.at, st)
	}
	again := solid(randomBytes(1, 2000))
	p := f.ingest(again, nil)
	f.hold(1<<40, p.Refs())
	p.Release()
	f.collect()
	checkKept(t, f)
	checkContent(t, f, again, p.Refs())
}

// TestLives: random histories, looked at after every Collect.
func TestLives(t *testing.T) {
	for seed := range uint64(60) {
		l := live(t, seed, 40, &cuts{mem: vfs.NewMem()}, nil)
		audit(l.fixture)
		for range 2 {
			l.collect()
		}
		auditClean(l.fixture)
		l.check(l.count)
		l.close()
	}
}

// TestLivesWithDeltas: the same with versions of weights among the contents.
func TestLivesWithDeltas(t *testing.T) {
	versions, deltas, remade := series(7, 3000, 8), 0, 0
	for seed := range uint64(60) {
		l := live(t, seed, 60, &cuts{mem: vfs.NewMem()}, versions)
		x := audit(l.fixture)
		deltas += len(x.chunks) - depths(x)[0]
		remade += l.collect().Remade + l.remade
		checkKept(t, l.fixture)
		l.check(l.count)
		for h := range l.held[l.count] {
			l.drop(h, l.held[l.count][h].refs)
		}
		l.collect()
		if st := l.Stats(); st.Chunks != 0 || st.Size != 0 {
			t.Fatalf("nobody holds anything: %+v", st)
		}
		l.close()
	}
	if deltas < 100 || remade < 10 {
		t.Fatalf("only %d deltas, %d made anew", deltas, remade)
	}
}

// TestCollectCrashes cuts the power at every operation of some lives.
func TestCollectCrashes(t *testing.T) {
	const batch = 40 // clones in memory at a time
	for seed := range uint64(3) {
		for _, percent := range []int{0, 50, 100} {
			var versions []content
			if seed == 2 {
				versions = series(7, 3000, 8)
			}
			t.Run(fmt.Sprintf("%d/%d%%", seed, percent), func(t *testing.T) {
				total := 0
				for from := 1; ; from += batch {
					c := &cuts{mem: vfs.NewCrashableMem(), percent: percent, from: from, to: from + batch}
					l := live(t, seed, 24, c, versions)
					for _, k := range c.taken {
						l.resume(t, k)
					}
					l.close()
					if total += len(c.taken); len(c.taken) == 0 {
						break
					}
				}
				if total < 100 {
					t.Fatalf("only %d cuts", total)
				}
				t.Logf("%d cuts", total)
			})
		}
	}
}
