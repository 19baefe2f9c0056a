package chunkstore

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"pgregory.net/rapid"

	"stepfs/chunkstore/pack"
	"stepfs/internal/journal"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// machine is the protocol between writers and Collect, one step at a time, in
// every order that rapid thinks of. The collector stops at a gate before each of
// its transactions, syncs and unlinks; between two gates writers begin, finish,
// hold, share, drop and give up, power is cut, and everything is read.
//
// What it holds against the store:
//   - What a Pending promises is there from Wait to Release, held or not.
//   - What is held is there, whatever the collector is about to do; also after
//     a power cut, as of the last transaction that it left.
//   - In the end what nobody holds is gone, and every count is right.
type machine struct {
	*life
	gate  *gate
	open  []*writer
	cut   int
	gates map[string]int // how often the collector stood where
}

// writer is a content on its way: begun, then durable, then held.
type writer struct {
	c       content
	p       *Pending
	durable bool
}

// gate stops one goroutine before each step of its own.
type gate struct {
	DB
	who     atomic.Pointer[string] // the goroutine, as the runtime names it
	at      chan string
	pass    chan struct{}
	running bool
	victim  string // the file that is about to be unlinked
}

func goroutine() string {
	b := make([]byte, 64)
	b = b[:runtime.Stack(b, false)]
	return string(b[:bytes.IndexByte(b, '[')])
}

func (g *gate) stop(what string) {
	if who := g.who.Load(); who != nil && goroutine() == *who {
		g.at <- what
		<-g.pass
	}
}

func (g *gate) Update(kind schema.Kind, fn func(tx *state.Tx) error) (journal.Pos, error) {
	g.stop(kind.String())
	return g.DB.Update(kind, fn)
}

func (g *gate) Sync(pos journal.Pos) error {
	g.stop("sync")
	return g.DB.Sync(pos)
}

func (g *gate) MaybeError(op errorfs.Op) error {
	if op.Kind == errorfs.OpRemove && strings.HasSuffix(op.Path, pack.Suffix) {
		g.victim = op.Path
		g.stop("unlink")
	}
	return nil
}

const atEnd = ""

func newMachine(t *rapid.T, gates map[string]int) *machine {
	g := &gate{at: make(chan string), pass: make(chan struct{})}
	c := &cuts{mem: vfs.NewCrashableMem()}
	fs := errorfs.Wrap(c.mem, errorfs.InjectorFunc(g.MaybeError))
	e := openEngine(t, fs, "store")
	syncDirs(t, fs, "store", "/")
	m := &machine{gate: g, gates: gates}
	m.life = &life{fixture: openStore(t, e, fs, "store", smallConfig()), rng: rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 7)), cuts: c}
	m.held = []map[uint64]stored{{}}
	g.DB = e
	m.db = g
	return m
}

// step lets the collector go on to its next gate; one that has come to its end
// begins anew.
func (m *machine) step(t *rapid.T) {
	g := m.gate
	if !g.running {
		share := rapid.SampledFrom([]float64{1e-9, 1e-9, 0.3, 1}).Draw(t, "share")
		group := rapid.IntRange(1, 3).Draw(t, "group")
		named := make(chan string)
		go func() {
			named <- goroutine()
			<-g.pass
			if _, err := m.Collect(context.Background(), CollectOptions{DeadShare: share, group: group}); err != nil {
				t.Error(err)
			}
			g.at <- atEnd
		}()
		who := <-named
		g.who.Store(&who)
		g.running = true
	}
	g.pass <- struct{}{}
	at := <-g.at
	m.gates[at]++
	switch at {
	case atEnd:
		g.who.Store(nil)
		g.running = false
	case "unlink":
		m.unlinked(t)
	}
}

// unlinked looks at a power cut right after the unlink that is to come: the
// disk may have that and, of all else, only what was synced.
func (m *machine) unlinked(t *rapid.T) {
	disk := m.cuts.mem.CrashClone(vfs.CrashCloneCfg{})
	if err := disk.Remove(m.gate.victim); err != nil {
		t.Fatal(err)
	}
	m.resume(t, cut{m.cut, disk, m.cuts.synced})
}

// begin stores a content and waits for nothing.
func (m *machine) begin(t *rapid.T) {
	if len(m.open) == 4 {
		m.finish(t)
		return
	}
	c := m.piece()
	p, err := m.Ingest(context.Background(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	m.open = append(m.open, &writer{c: c, p: p})
}

func (m *machine) writer(t *rapid.T, durable bool) (w *writer) {
	var some []*writer
	for _, w := range m.open {
		if w.durable == durable {
			some = append(some, w)
		}
	}
	if len(some) == 0 {
		t.Skip("there is none")
	}
	return rapid.SampledFrom(some).Draw(t, "writer")
}

// finish waits for a writer's chunks.
func (m *machine) finish(t *rapid.T) {
	w := m.writer(t, false)
	if err := m.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := w.p.Wait(context.Background()); err != nil {
		t.Fatal(err)
	}
	w.durable = true
}

// hold makes a writer's content somebody's.
func (m *machine) hold(t *rapid.T) {
	w := m.writer(t, true)
	m.set(m.count+1, stored{w.c, w.p.Refs()}, 0)
	m.release(w)
}

// giveUp ends a writer in vain.
func (m *machine) giveUp(t *rapid.T) { m.release(m.writer(t, true)) }

func (m *machine) release(w *writer) {
	w.p.Release()
	for k := range m.open {
		if m.open[k] == w {
			m.open = append(m.open[:k:k], m.open[k+1:]...)
			return
		}
	}
}

// powerCut looks at what would be left now; this life goes on.
func (m *machine) powerCut(t *rapid.T) {
	m.cut++
	cfg := vfs.CrashCloneCfg{UnsyncedDataPercent: rapid.SampledFrom([]int{0, 50, 50, 50, 100}).Draw(t, "left"), RNG: rand.New(rand.NewPCG(uint64(m.cut), 1))}
	m.resume(t, cut{m.cut, m.cuts.mem.CrashClone(cfg), m.cuts.synced})
}

// promises holds at every moment.
func (m *machine) promises(t *rapid.T) {
	m.check(m.count)
	for _, w := range m.open {
		if w.durable {
			checkContent(t, m.fixture, w.c, w.p.Refs())
		}
	}
	if st := m.Stats(); st.LostPacks+st.BadPacks+st.DamagedChunks != 0 {
		t.Fatalf("%+v", st)
	}
}

// end lets everybody finish, and looks that what is dead goes.
func (m *machine) end(t *rapid.T) {
	for m.gate.running {
		m.step(t)
	}
	if err := m.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, w := range m.open {
		if err := w.p.Wait(context.Background()); err != nil {
			t.Fatal(err)
		}
		w.p.Release()
	}
	m.open = nil
	audit(m.fixture)
	for range 2 {
		m.collect()
	}
	auditClean(m.fixture)
	m.promises(t)
}

// leave closes the store, also where a test has failed half-way.
func (m *machine) leave() {
	for m.gate.running {
		m.gate.pass <- struct{}{}
		m.gate.running = <-m.gate.at != atEnd
	}
	m.close()
}

// TestMachine: see machine.
func TestMachine(t *testing.T) {
	done, gates := map[string]int{}, map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t, gates)
		defer m.leave()
		actions := map[string]func(*rapid.T){"": m.promises}
		for name, a := range map[string]struct {
			weight int
			do     func(*rapid.T)
		}{
			"step":      {4, m.step}, // the collector has more to do than anybody else
			"begin":     {2, m.begin},
			"finish":    {2, m.finish},
			"hold":      {3, m.hold},
			"give up":   {1, m.giveUp},
			"share":     {1, func(*rapid.T) { m.share() }},
			"drop":      {1, func(*rapid.T) { m.forget() }},
			"sync":      {1, func(*rapid.T) { m.sync() }},
			"power cut": {1, m.powerCut},
		} {
			for k := range a.weight {
				actions[fmt.Sprint(name, k)] = func(t *rapid.T) { a.do(t); done[name]++ }
			}
		}
		for range 3 {
			t.Repeat(actions)
		}
		m.end(t)
	})
	t.Logf("done %v, the collector stood at %v", done, gates)
	for _, what := range []string{"step", "hold", "give up", "drop", "power cut"} {
		if done[what] == 0 {
			t.Errorf("no %s: this proves nothing", what)
		}
	}
	for _, at := range []string{schema.KindPackState.String(), schema.KindChunkIndex.String(), schema.KindPrune.String(), "sync", "unlink"} {
		if gates[at] == 0 {
			t.Errorf("the collector never came to %s: this proves nothing", at)
		}
	}
}
