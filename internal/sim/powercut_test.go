package sim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"stepfs/fs/stage"
	"stepfs/internal/simdisk"
	"stepfs/snapshot"
)

var ctx = context.Background()

// counts say what a run has proved.
type counts struct {
	points, kills, creation, recovery, acked, older, staged, packed, lives, ops, sealed, deltas, leaks atomic.Int64
	// Of the calls of the workers, by kind, and of what is included from outside.
	synced, excluded, exposed, shared, moved, logs, outdated, included, expired atomic.Int64

	packs packsRead
}

// machine is one disk, the store on it and those that use it.
type machine struct {
	t    *testing.T
	seed uint64
	did  *counts
	rng  *rand.Rand // of the cuts: any goroutine may take one, behind mu

	mu     sync.Mutex
	disk   *simdisk.Disk
	base   *image // of the crash that is being recovered from; nil: workers are at work
	model  *model // nil: the store is being made
	store  *store
	boots  int
	ops    int
	recent []simdisk.Op // what the disk did last, for whoever looks for a fault
	next   int          // the operation before which the next image is taken
	every  int          // how many operations lie between two, on average
	end    int          // the operation before which the disk goes; 0: not yet
	last   *image       // what it left

	images  chan<- *image
	points  int64 // how many crashes all machines are to see
	outside *outside
	node    int
	step    int
}

// hook sees each operation of the disk.
func (m *machine) hook(disk *simdisk.Disk) func(simdisk.Op) error {
	return func(op simdisk.Op) error {
		if !op.Changes() {
			return nil
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.disk != disk || m.last != nil {
			return nil
		}
		m.ops++
		if m.recent = append(m.recent, op); len(m.recent) > 200 {
			m.recent = slices.Clone(m.recent[130:])
		}
		if m.end != 0 && m.ops >= m.end {
			m.goDark(op)
		} else if m.next != 0 && m.ops >= m.next {
			m.next = m.ops + 1 + m.rng.IntN(2*m.every)
			m.images <- m.image(op)
		}
		return nil
	}
}

// goDark ends a life: the next one begins with what is left, of which another
// copy is inspected.
func (m *machine) goDark(op simdisk.Op) {
	m.last = m.image(op)
	other := *m.last
	other.disk = m.last.disk.Kill()
	m.images <- &other
}

// image crashes the disk; the disk goes on.
func (m *machine) image(op simdisk.Op) *image {
	i := &image{seed: m.seed, at: m.ops, op: op, recent: slices.Clone(m.recent), kill: m.rng.IntN(8) == 0, boot: fmt.Sprint("boot", m.boots), packs: &m.did.packs, out: m.outside}
	rng := rand.New(rand.NewPCG(m.seed, uint64(m.ops)))
	switch {
	case m.base != nil:
		i.known = m.base.known
		i.disk = m.crash(i.kill, rng)
		i.kill = i.kill && m.base.kill
		m.did.recovery.Add(1)
	case m.model == nil:
		i.disk = m.crash(i.kill, rng)
		m.did.creation.Add(1)
	default:
		known := m.model.before()
		known.expired = m.store.gone()
		i.disk = m.crash(i.kill, rng)
		i.known = m.model.after(known)
	}
	if !i.kill {
		i.boot += "+"
	}
	return i
}

func (m *machine) crash(kill bool, rng *rand.Rand) *simdisk.Disk {
	if kill {
		return m.disk.Kill()
	}
	return m.disk.Cut(rng)
}

// inspect verifies an image in a store of its own.
func inspect(img *image, did *counts, active bool) error {
	did.points.Add(1)
	if img.kill {
		did.kills.Add(1)
	}
	disk := img.disk
	if disk.Staging(stagingDir).Bytes() > 0 {
		did.staged.Add(1)
	}
	s, err := open(disk, storeConf{boot: img.boot, passive: !active})
	if err != nil {
		return err
	}
	if s.chunks.Stats().SavedDeltas > 0 {
		did.deltas.Add(1)
	}
	f, err := verify(s, img)
	if err == nil {
		err = goesOn(s)
	}
	did.acked.Add(int64(f.acked))
	did.older.Add(int64(f.older))
	did.leaks.Add(int64(len(f.findings)))
	did.logs.Add(int64(f.logs))
	did.expired.Add(int64(f.gone))
	if cerr := s.close(false); err == nil {
		err = cerr
	}
	return err
}

// life takes a store through some lives, each ended by a crash.
func (m *machine) life(lives int) error {
	m.disk = newDisk()
	for n := range lives {
		if m.did.points.Load() >= m.points {
			return nil
		}
		if err := m.live(n); err != nil {
			return fmt.Errorf("life %d: %w", n, err)
		}
		m.did.lives.Add(1)
	}
	return nil
}

// live is one life: recovery from the last crash, work, a crash.
func (m *machine) live(n int) error {
	m.mu.Lock()
	m.base, m.last, m.end, m.ops, m.next = m.last, nil, 0, 0, 1+m.rng.IntN(m.every)
	if m.base != nil {
		m.disk = m.base.disk
		if !m.base.kill {
			m.boots++
		}
	}
	rng := rand.New(rand.NewPCG(m.seed, uint64(n)<<32))
	m.mu.Unlock()
	model := newModel()
	model.out = m.outside
	m.disk.Before(m.hook(m.disk))
	s, err := open(m.disk, storeConf{boot: fmt.Sprint("boot", m.boots), cold: rng.IntN(2) == 0, out: m.outside, exclude: append(slices.Clone(excludes), fmt.Sprintf("*.none%d", n/2)), sealed: func(i snapshot.Info) {
		m.did.sealed.Add(1)
		model.sealed(i)
	}})
	if err != nil {
		return err
	}
	ws, err := m.begin(s, model, rng)
	if err == nil {
		err = m.work(ws, rng)
	}
	if err == nil {
		if faults := s.faulty(); len(faults) > 0 {
			err = fmt.Errorf("faults: %q", faults)
		}
	}
	if s.chunks.Stats().Chunks > 0 {
		m.did.packed.Add(1)
	}
	m.mu.Lock()
	if m.last == nil {
		m.goDark(simdisk.Op{})
	}
	m.mu.Unlock()
	m.did.ops.Add(model.ops.Load())
	if cerr := s.close(false); err == nil {
		err = cerr
	}
	if err != nil { // of a machine that fails, the test gives the first error alone
		m.t.Logf("seed %d, life %d: %v", m.seed, n, err)
		for _, l := range model.trace {
			m.t.Log(l)
		}
	}
	return err
}

// begin checks what the last crash has left, and gives the workers what they
// begin with.
func (m *machine) begin(s *store, model *model, rng *rand.Rand) (ws []*worker, err error) {
	base := m.base
	var f *found
	if base != nil && base.known != nil {
		if f, err = verify(s, base); err != nil {
			return nil, fmt.Errorf("after %v: %w", base, err)
		}
	}
	m.mu.Lock()
	next := m.next
	m.next = 0 // nobody knows what is right while the model is made
	m.mu.Unlock()
	for w := range workers {
		k := &worker{w: w, rng: rand.New(rand.NewPCG(rng.Uint64(), 1)), m: model, s: s, inos: map[int]uint64{}, fhs: map[int]uint64{}, how: map[int]uint32{}, next: &m.node, step: &m.step, out: m.outside, did: m.did}
		a, err := s.tree.Lookup(stage.RootIno, dirName(w))
		if err != nil {
			a, err = s.tree.Mknod(stage.RootIno, dirName(w), stage.ModeDir|0o755, 0, stage.Cred{})
		}
		if err != nil {
			return nil, err
		}
		k.dir = a.Ino
		ws = append(ws, k)
	}
	if base != nil && base.kill && f != nil && !base.known.wild() {
		model.goOn(f, base.known, ws)
	} else if err := m.settle(s, model, ws); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.base, m.model, m.store, m.next = nil, model, s, next
	m.end = m.ops + 20 + m.rng.IntN(600)
	return ws, nil
}

// settle makes all that is there durable, and takes it for what is known.
func (m *machine) settle(s *store, model *model, ws []*worker) error {
	live, err := s.live()
	if err != nil {
		return err
	}
	var inos, unseen []uint64
	for path, v := range live {
		if _, below, _ := strings.Cut(path, "/"); hidden(below) {
			unseen = append(unseen, v.ino)
		} else {
			inos = append(inos, v.ino)
		}
	}
	if len(unseen) > 0 {
		if _, err := s.m.Barrier(ctx, "fsync", unseen...); err != nil {
			return err
		}
	}
	if model.from, err = s.m.Barrier(ctx, "fsync", inos...); err != nil {
		return err
	}
	for _, k := range ws {
		k.adopt("as found", of(live, k.w))
		model.lines[k.w], model.done[k.w] = model.lines[k.w][1:], 0
	}
	infos, err := s.m.Barriers(0, 1<<20)
	if err != nil {
		return err
	}
	for _, i := range infos {
		release := s.m.Pin(i.Seq)
		v, err := s.view(i.Seq)
		_, gone := s.m.Get(i.Seq)
		release()
		if errors.Is(gone, snapshot.ErrNotExist) {
			continue // expired meanwhile
		}
		if err != nil {
			return err
		}
		model.snaps[i.Seq] = &snap{fixed: v, name: i.Name, forgetBegun: i.Forgotten != nil, forgotten: i.Forgotten != nil,
			holdBegun: len(i.Holds) > 0, held: len(i.Holds) > 0}
	}
	model.pruned = true // of those, some may be on their way out
	return nil
}

// goOn is what is known after the daemon has died: what it was told, and that
// nothing was lost; but nothing became durable either.
func (m *model) goOn(f *found, k *known, ws []*worker) {
	m.trace = append(m.trace, k.trace...)
	m.note("killed")
	for fl, was := range k.files {
		*fl = was
		m.files = append(m.files, fl)
	}
	for seq, s := range k.snaps {
		m.snaps[seq] = &s
	}
	m.synced, m.pruned, m.from = k.synced, k.pruned, k.from
	for _, w := range ws {
		line := k.lines[w.w][:f.at[w.w]+1]
		s := line[len(line)-1].clone("killed")
		for path, v := range of(f.live, w.w) {
			id := s.names[path]
			w.inos[id] = v.ino
			n := s.nodes[id]
			if n.f != nil && n.f.contents[n.live] != v.data { // a write was torn
				n.f.contents = append(slices.Clip(n.f.contents), v.data)
				n.live = len(n.f.contents) - 1
				s.nodes[id] = n
			}
		}
		for id, n := range s.nodes { // whether the operation under way has committed a content is not to be seen
			if was, ok := k.lines[w.w][min(k.done[w.w], f.at[w.w])].nodes[id]; ok && was.commit != n.commit {
				n.maybe = append(slices.Clip(n.maybe), n.commit)
				n.commit, n.log = was.commit, true
				s.nodes[id] = n
			} else if !ok && n.f != nil {
				n.log = true
				s.nodes[id] = n
			}
		}
		m.lines[w.w] = append(line[:len(line):len(line)], s)
		m.done[w.w] = len(m.lines[w.w]) - 1
		m.synced[w.w] = min(m.synced[w.w], m.done[w.w])
	}
	maps.DeleteFunc(m.snaps, func(seq uint64, s *snap) bool {
		return !slices.ContainsFunc(f.infos, func(i snapshot.Info) bool { return i.Seq == seq })
	})
}

// work has the workers use the store until the power goes.
func (m *machine) work(ws []*worker, rng *rand.Rand) error {
	var wg sync.WaitGroup
	for _, k := range ws {
		wg.Go(func() {
			for !m.out() && k.err == nil && !m.model.long() {
				k.run(1)
			}
			k.closeAll()
		})
	}
	wg.Wait()
	for _, k := range ws {
		if k.err != nil {
			return k.err
		}
	}
	return nil
}

func (m *machine) out() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last != nil
}

func envInt(name string, def int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return def
}

// machinesAtOnce is how many stores live at the same time: each of them waits now
// and then, and there should be something to inspect meanwhile.
const machinesAtOnce = 3

// TestPowerCut has workers use stores at random, cuts the power (or kills the
// daemon) at operations of the disk of any kind, also while the store is made
// and while it recovers from the last crash, and holds what comes back against
// what was acknowledged. STEPFS_SIM_POINTS says how many cuts,
// STEPFS_SIM_SEED replays one seed.
func TestPowerCut(t *testing.T) {
	points := int64(envInt("STEPFS_SIM_POINTS", 10000))
	if testing.Short() {
		points = min(points, 1000)
	}
	first, only := uint64(1), false
	if n := envInt("STEPFS_SIM_SEED", 0); n != 0 {
		first, only = uint64(n), true
	}
	var did counts
	var bad atomic.Pointer[error]
	fail := func(err error) { bad.CompareAndSwap(nil, &err) }
	images := make(chan *image, 4)
	var pool, machines sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		pool.Go(func() {
			for img := range images {
				if bad.Load() != nil {
					continue
				}
				if err := inspect(img, &did, img.at%8 == 0); err != nil {
					fail(fmt.Errorf("seed %d, %v: %w%s", img.seed, img, err, img.tail()))
				}
			}
		})
	}
	var next atomic.Uint64
	next.Store(first)
	for range machinesAtOnce {
		machines.Go(func() {
			for did.points.Load() < points && bad.Load() == nil {
				seed := next.Add(1) - 1
				if only && seed != first {
					return
				}
				m := &machine{t: t, seed: seed, did: &did, rng: rand.New(rand.NewPCG(seed, 2)), every: 4, images: images, points: points, boots: 1, outside: newOutside(t, &did)}
				if err := m.life(6); err != nil {
					fail(fmt.Errorf("seed %d: %w", seed, err))
				}
			}
		})
	}
	machines.Wait()
	close(images)
	pool.Wait()
	t.Logf("seeds from %d: %d crashes (%d of them kills), %d while a store was made, %d in recovery, %d lives, %d operations; %d acknowledged snapshots found, %d files in them back to an older content, %d crashes with staged files, %d lives with packs, %d steps sealed, %d crashes with deltas, %d leaks; %d synchronous writes, %d files excluded, %d exposed, %d ranges shared, %d moved, %d logs taken, %d old formats, %d snapshots with what is included, %d expired and gone",
		first, did.points.Load(), did.kills.Load(), did.creation.Load(), did.recovery.Load(), did.lives.Load(), did.ops.Load(), did.acked.Load(), did.older.Load(), did.staged.Load(), did.packed.Load(), did.sealed.Load(), did.deltas.Load(), did.leaks.Load(),
		did.synced.Load(), did.excluded.Load(), did.exposed.Load(), did.shared.Load(), did.moved.Load(), did.logs.Load(), did.outdated.Load(), did.included.Load(), did.expired.Load())
	if err := bad.Load(); err != nil {
		t.Fatalf("after %d crashes: %v", did.points.Load(), *err)
	}
	proved := map[string]int64{"crashes": did.points.Load(), "kills": did.kills.Load(), "crashes in recovery": did.recovery.Load(), "acknowledged snapshots": did.acked.Load(),
		"older contents": did.older.Load(), "staged files": did.staged.Load(), "packs": did.packed.Load(), "sealed steps": did.sealed.Load(), "crashes with deltas": did.deltas.Load()}
	if points >= 5000 { // what is rarer
		maps.Copy(proved, map[string]int64{"synchronous writes": did.synced.Load(), "files that are excluded": did.excluded.Load(), "files that come into sight": did.exposed.Load(),
			"ranges that are shared": did.shared.Load(), "ranges that are copied": did.moved.Load(), "logs that are taken": did.logs.Load(), "old formats": did.outdated.Load(),
			"snapshots with what is included": did.included.Load(), "expired snapshots": did.expired.Load()})
	}
	for what, n := range proved {
		if n == 0 && !only {
			t.Errorf("no %s: nothing proved", what)
		}
	}
}

// tail is what was done last.
func (i *image) tail() string {
	out := "\nwhat the disk did last:"
	for _, op := range i.recent[max(0, len(i.recent)-70):] {
		out += fmt.Sprintf("\n\t%s %s %s [%d+%d]", op.Kind, op.Path, op.To, op.Off, op.Len)
	}
	if i.known == nil {
		return out
	}
	out += "\nwhat was done last:"
	for _, l := range i.known.trace[max(0, len(i.known.trace)-80):] {
		out += "\n\t" + l
	}
	return out
}
