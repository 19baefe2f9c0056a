package stage

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"

	"stepfs/internal/journal"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// cutFile is what may be found of a file after a power cut.
type cutFile struct {
	ino      uint64
	versions [][]byte // live contents, oldest first; the last one is current
	durable  int      // index of the newest version that a barrier acknowledged
	commits  [][]byte // committed contents
	acks     []int    // indexes of the commits that are known to be durable
	fh       uint64
	open     bool
	excluded bool // it is called "d", which no snapshot shows
	pieces   int  // the number of versions when one came about by several writes
}

// least is the shortest length that the file had since its last barrier.
func (f *cutFile) least() int {
	n := len(f.live())
	for _, v := range f.versions[f.durable:] {
		n = min(n, len(v))
	}
	return n
}

func (f *cutFile) live() []byte { return f.versions[len(f.versions)-1] }

// cutWant is what a snapshot may show of a file: commit, unless it is allowed
// to fall back to an older one (-1: to be absent). once a crash was survived
// it is fixed for good.
type cutWant struct {
	f      *cutFile
	commit int
	synced bool // the file's own barrier
}

type cutSnap struct {
	acked bool
	gone  bool // given up, though power may have failed before that was durable
	files map[string]cutWant
	fixed map[string][]byte
}

// machine is a tree with a model of it, on a machine that can lose power.
type machine struct {
	t      testing.TB
	rng    *rand.Rand
	p      *power
	eng    *state.Engine
	tree   *Tree
	chunks *memChunks
	boots  int

	names  map[string]*cutFile
	states []map[string]*cutFile // namespaces since the last acknowledged barrier
	snaps  map[uint64]*cutSnap
	trace  []string
	did    *cutCounts
}

type cutCounts struct{ cuts, kills, inRecovery, acked, unacked, older, holes, reverted, excluded, ops atomic.Int64 }

func (m *machine) fail(format string, args ...any) {
	m.t.Helper()
	for _, l := range m.trace {
		m.t.Log(l)
	}
	m.t.Fatalf(format, args...)
}

func (m *machine) must(err error) {
	m.t.Helper()
	if err != nil {
		m.fail("%v", err)
	}
}

func (m *machine) logf(format string, args ...any) {
	m.trace = append(m.trace, fmt.Sprintf(format, args...))
}

func (m *machine) open() {
	var err error
	boot := fmt.Sprint("boot", m.boots)
	if m.eng, err = state.Open(state.Config{Dir: "s", FS: m.p.disk.FS(), BootID: boot, MemTable: 64 << 10, Cache: 1 << 20, SegmentSize: 64 << 10}); err != nil {
		m.fail("open state: %v", err)
	}
	m.tree, err = Open(Config{Engine: m.eng, Disk: memDiskOn(m.p.disk), Chunks: m.chunks, Reserve: 1,
		Events: Events{Fault: func(s string, err error) { m.t.Error("fault:", s, err) }}})
	if err != nil {
		m.fail("open tree: %v", err)
	}
	e, err := ParseExcludes([]string{"d"})
	m.must(err)
	m.must(m.tree.Exclude(e))
}

// down takes the machine, or the daemon, down and gives it new power.
func (m *machine) down() {
	m.p.cut()
	m.must(m.tree.Close())
	_ = m.eng.Close(false) // the old machine's: nobody sees it
	m.next()
}

func (m *machine) next() {
	if !m.p.kill {
		m.boots++
	}
	m.p = newPower(m.p.left, m.rng)
}

// crash goes through a power cut or a kill, and maybe further ones during the
// recovery from it, then checks what is left.
func (m *machine) crash() {
	kill := m.p.kill
	m.logf("crash kill=%v", kill)
	m.down()
	for m.rng.IntN(3) == 0 {
		m.p.arm(1+m.rng.IntN(40), m.rng.IntN(2) == 0)
		kill = kill && m.p.kill
		m.logf("crash in recovery at %d kill=%v", m.p.at, m.p.kill)
		m.open()
		m.did.inRecovery.Add(1)
		m.down()
	}
	m.open()
	if kill {
		m.did.kills.Add(1)
	} else {
		m.did.cuts.Add(1)
	}
	m.checkNames(kill)
	m.checkSnaps(kill)
	m.checkLeaks()
	m.rebase(kill)
}

// checkLeaks: what nobody names is gone, or the reaper knows of it.
func (m *machine) checkLeaks() {
	m.must(m.tree.reapAll())
	if l := treeFindings(m.tree); len(l) > 0 {
		m.fail("the check finds %+v", l)
	}
}

// checkNames finds which state came back, and compares every live byte.
func (m *machine) checkNames(kill bool) {
	got := map[string]uint64{}
	es, err := m.tree.ReadDir(RootIno, "", 100)
	m.must(err)
	for _, e := range es {
		got[e.Name] = e.Ino
	}
	first := 0
	if kill {
		first = max(0, len(m.states)-2)
	}
	for _, s := range slices.Backward(m.states[first:]) {
		if !maps.EqualFunc(got, s, func(ino uint64, f *cutFile) bool { return ino == f.ino }) {
			continue
		}
		m.names = s
		for name, f := range s {
			f.excluded = name == "d"
			m.checkLive(name, f, kill)
		}
		return
	}
	m.fail("live names %v are of none of %d states", got, len(m.states)-first)
}

func (m *machine) readLive(f *cutFile) []byte {
	a, err := m.tree.GetAttr(f.ino)
	m.must(err)
	b := make([]byte, a.Size)
	n, err := m.tree.Read(f.ino, 0, b, 0)
	if err != nil || n != len(b) {
		m.fail("read inode %d: %d of %d bytes, %v", f.ino, n, len(b), err)
	}
	return b
}

// checkLive: each byte is that of some version since the last barrier, or zero
// where a version had nothing.
func (m *machine) checkLive(name string, f *cutFile, kill bool) {
	got := m.readLive(f)
	may := f.versions[f.durable:]
	if kill {
		may = may[max(0, len(may)-3):] // one step may be an open that empties the file, and a write
		if !slices.ContainsFunc(may, func(v []byte) bool { return bytes.Equal(v, got) }) && !inFlight(may, got, f.pieces == len(f.versions)) {
			m.fail("%s: %d bytes after a kill are not what was written (%d)", name, len(got), len(may[len(may)-1]))
		}
		return
	}
	lo, hi := len(may[0]), len(may[0])
	for _, v := range may {
		lo, hi = min(lo, len(v)), max(hi, len(v))
	}
	if len(got) < lo || len(got) > hi {
		m.fail("%s: %d bytes, want %d to %d", name, len(got), lo, hi)
	}
	for i, c := range got {
		ok := c == 0 && i >= lo
		for _, v := range may {
			ok = ok || i < len(v) && v[i] == c
		}
		if !ok {
			m.fail("%s (inode %d): byte %d of %d is %d, in none of %d versions since the last barrier: %v", name, f.ino, i, len(got), c, len(may), at(may, i))
		}
	}
	if len(got) < len(f.live()) || !bytes.Equal(got, f.live()) {
		m.did.holes.Add(1)
	}
}

// inFlight: the daemon died between the bytes of the last write and its record,
// so of what was there before some bytes are new, and the length is the old one.
// Of several writes some may be recorded, and then it is in between.
func inFlight(may [][]byte, got []byte, several bool) bool {
	if len(may) < 2 {
		return false
	}
	before, after := may[len(may)-2], may[len(may)-1]
	if len(got) != len(before) && (!several || len(got) < len(before) || len(got) > len(after)) || len(after) < len(before) {
		return false
	}
	for i, c := range got {
		if (i >= len(before) || c != before[i]) && c != after[i] {
			return false
		}
	}
	return true
}

// at gives a byte of each version; -1 where it has none.
func at(versions [][]byte, i int) (out []int) {
	for _, v := range versions {
		if i < len(v) {
			out = append(out, int(v[i]))
		} else {
			out = append(out, -1)
		}
	}
	return out
}

func (m *machine) readView(seq uint64) map[string][]byte {
	v := m.tree.At(seq)
	es, err := v.ReadDir(RootIno, "", 100)
	m.must(err)
	out := map[string][]byte{}
	for _, e := range es {
		a, err := v.GetAttr(e.Ino)
		m.must(err)
		b := make([]byte, a.Size)
		n, err := v.Read(e.Ino, b, 0)
		if err != nil || n != len(b) {
			m.fail("snapshot %d: read %s: %d of %d bytes, %v", seq, e.Name, n, len(b), err)
		}
		out[e.Name] = b
	}
	return out
}

func (m *machine) checkSnaps(kill bool) {
	for seq, s := range m.snaps {
		if _, err := m.eng.Get(schema.Numbered(schema.PrefixSnapshot, seq)); err != nil {
			if s.acked && !s.gone {
				m.fail("acknowledged snapshot %d is gone: %v", seq, err)
			}
			m.did.unacked.Add(1)
			delete(m.snaps, seq)
			continue
		}
		got := m.readView(seq)
		if s.fixed == nil {
			for name, w := range s.files {
				m.checkWant(seq, s, name, w, got, kill)
			}
			for name := range got {
				if _, ok := s.files[name]; !ok {
					m.fail("snapshot %d has %s, which was not there", seq, name)
				}
			}
		} else if !maps.EqualFunc(got, s.fixed, bytes.Equal) {
			m.fail("snapshot %d changed: %v, was %v", seq, lengths(got), lengths(s.fixed))
		}
		if s.acked = true; !kill {
			s.fixed, s.files = got, nil // what is left is durable
		}
		m.did.acked.Add(1)
	}
}

func lengths(files map[string][]byte) map[string]int {
	out := map[string]int{}
	for name, b := range files {
		out[name] = len(b)
	}
	return out
}

func (m *machine) checkWant(seq uint64, s *cutSnap, name string, w cutWant, got map[string][]byte, kill bool) int {
	b, there := got[name]
	least := w.f.leastCommit(w.commit)
	switch {
	case w.synced && s.acked:
		least = w.commit
	case kill: // the operation that was under way may have been the commit
		least = max(least, w.commit-1)
	}
	for k := w.commit; k >= least; k-- {
		if k < 0 && !there || k >= 0 && there && bytes.Equal(b, w.f.commits[k]) {
			if k < w.commit && !kill {
				m.did.older.Add(1)
				if there && s.files != nil { // in a new snapshot, the commit's own record may be lost
					if mark, err := m.tree.At(seq).Marks(w.f.ino); err != nil || mark != "reverted" {
						m.fail("snapshot %d: %s shows an older content and is not marked: %q, %v", seq, name, mark, err)
					}
					m.did.reverted.Add(1)
				}
			}
			return k
		}
	}
	m.fail("snapshot %d: %s (inode %d): %d bytes (there: %v) are none of its commits %d to %d", seq, name, w.f.ino, len(b), there, least, w.commit)
	return 0
}

// leastCommit is the oldest commit that a snapshot of commit may fall back to.
func (f *cutFile) leastCommit(commit int) int {
	least := -1
	for _, k := range f.acks {
		if k <= commit {
			least = max(least, k)
		}
	}
	return least
}

// rebase takes what was found for the new truth, after a barrier has shown
// what is committed of it. After a kill alone, what had not settled may still
// be lost later.
func (m *machine) rebase(kill bool) {
	want := map[string]cutWant{}
	for name, f := range m.names {
		f.open = false
		want[name] = cutWant{f, len(f.commits) - 1, false}
	}
	seq := m.barrier(true)
	got := m.readView(seq)
	for name, f := range m.names {
		if f.excluded {
			if _, ok := got[name]; ok {
				m.fail("snapshot %d shows %s", seq, name)
			}
			f.versions = append(f.versions, m.readLive(f))
			m.syncLive(f)
			continue
		}
		commit := m.checkWant(seq, &cutSnap{}, name, want[name], got, kill)
		live := m.readLive(f)
		if kill {
			f.commits, f.versions = f.commits[:commit+1], append(f.versions, live)
			m.snaps[seq].files[name] = cutWant{f, commit, false}
			continue
		}
		// What is live and not committed was never synced; it may go on from a
		// shorter content, not from what is committed.
		f.versions, f.durable, f.commits, f.acks = [][]byte{{}, live[:min(f.least(), len(live))], live}, 0, nil, nil
		if b, ok := got[name]; ok {
			f.versions[0], f.commits, f.acks = b, [][]byte{b}, []int{0}
		}
	}
	if !kill {
		m.snaps[seq] = &cutSnap{acked: true, fixed: got}
	}
	m.states = []map[string]*cutFile{maps.Clone(m.names)}
	m.trace = append(m.trace[:1], fmt.Sprintf("after a crash (kill=%v): snapshot %d", kill, seq))
	for name, f := range m.names {
		m.logf("%s = %d: %d bytes live, %d bytes committed", name, f.ino, len(f.live()), len(got[name]))
	}
}

// barrier syncs files, as snapshot.Manager does.
func (m *machine) barrier(force bool, fs ...*cutFile) uint64 {
	var inos []uint64
	for _, f := range fs {
		inos = append(inos, f.ino)
		if len(f.commits) == 0 || !bytes.Equal(f.commits[len(f.commits)-1], f.live()) {
			f.commits = append(f.commits, f.live())
		}
	}
	s := &cutSnap{files: map[string]cutWant{}}
	for name, f := range m.names {
		if f.excluded {
			continue
		}
		s.files[name] = cutWant{f, len(f.commits) - 1, slices.Contains(fs, f)}
	}
	at := len(m.states) - 1
	c, err := m.tree.Cut(inos, false, force)
	m.must(err)
	m.logf("barrier %d of %v same=%v", c.Seq, inos, c.Same)
	for ino, err := range m.tree.SyncCut(m.t.Context(), c) {
		m.fail("sync %d: %v", ino, err)
	}
	if m.snaps[c.Seq] == nil {
		m.snaps[c.Seq] = s
	}
	pos := m.eng.Pos()
	if !c.Same {
		if pos, err = m.commit(c.Seq); err != nil {
			m.fail("commit: %v", err)
		}
	}
	m.must(m.eng.Sync(pos))
	m.tree.CutDone(c)
	if m.p.out() {
		return c.Seq
	}
	m.snaps[c.Seq].acked = true
	for _, f := range fs {
		f.durable = len(f.versions) - 1
		f.acks = append(f.acks, len(f.commits)-1)
	}
	m.states = m.states[at:]
	return c.Seq
}

// syncLive syncs an excluded file, as snapshot.Manager does.
func (m *machine) syncLive(f *cutFile) {
	at := len(m.states) - 1
	m.logf("sync %d", f.ino)
	if len(f.commits) == 0 || !bytes.Equal(f.commits[len(f.commits)-1], f.live()) {
		f.commits = append(f.commits, f.live())
	}
	m.must(m.tree.SyncLive(f.ino))
	m.must(m.eng.Sync(m.eng.Pos()))
	if m.p.out() {
		return
	}
	f.durable = len(f.versions) - 1
	f.acks = append(f.acks, len(f.commits)-1)
	m.states = m.states[at:]
	m.did.excluded.Add(1)
}

func (m *machine) commit(seq uint64) (journal.Pos, error) {
	return m.eng.Update(schema.KindCommit, func(tx *state.Tx) error {
		publish(tx, seq)
		return nil
	})
}

// TestPowerCut writes, renames, syncs, stores and evicts at random, takes the
// power away at a random operation of the disks, also during the recovery from
// the last cut, and compares what comes back with what was acknowledged.
func TestPowerCut(t *testing.T) {
	lives := 140
	if testing.Short() {
		lives = 40
	}
	if n, err := strconv.Atoi(os.Getenv("STEPFS_LIVES")); err == nil && n > 0 {
		lives = n
	}
	var did cutCounts
	t.Run("lives", func(t *testing.T) {
		for w := range 2 {
			t.Run(fmt.Sprint(w), func(t *testing.T) {
				t.Parallel()
				for k := range lives / 2 {
					runLife(t, uint64(w*100000+k), &did)
				}
			})
		}
	})
	t.Logf("%d power cuts and %d kills, %d more during recovery, %d operations; %d snapshots checked, %d unacknowledged ones gone, %d files back to an older content (%d with a mark), %d live files torn",
		did.cuts.Load(), did.kills.Load(), did.inRecovery.Load(), did.ops.Load(), did.acked.Load(), did.unacked.Load(), did.older.Load(), did.reverted.Load(), did.holes.Load())
	for what, n := range map[string]int64{"cuts": did.cuts.Load(), "kills": did.kills.Load(), "acked": did.acked.Load(), "older": did.older.Load(), "reverted": did.reverted.Load(), "torn": did.holes.Load(), "syncs of excluded files": did.excluded.Load()} {
		if n == 0 && !t.Failed() {
			t.Errorf("no %s: nothing proved", what)
		}
	}
}

// crashes is how many each store goes through.
const crashes = 10

// runLife takes one store through a number of crashes.
func runLife(t testing.TB, seed uint64, did *cutCounts) {
	rng := rand.New(rand.NewPCG(seed, 7))
	m := &machine{t: t, rng: rng, did: did, chunks: newMemChunks(), boots: 1,
		names: map[string]*cutFile{}, snaps: map[uint64]*cutSnap{}}
	m.logf("seed %d", seed)
	m.states = []map[string]*cutFile{{}}
	m.p = newPower(newMemDisk().on, rng)
	if seed%4 == 0 { // the store's creation is torn
		m.p.arm(1+rng.IntN(60), false)
	}
	m.open()
	for range crashes {
		if m.p.at == 0 {
			m.p.arm(1+rng.IntN(250), rng.IntN(5) == 0)
		}
		for range 40 {
			if m.p.out() || t.Failed() {
				break
			}
			m.step()
		}
		if t.Failed() {
			m.fail("stopped")
		}
		m.crash()
	}
	m.end()
	m.p.cut()
	m.must(m.tree.Close())
	_ = m.eng.Close(false)
}

// end gives up all files and snapshots: nothing may be left of them.
func (m *machine) end() {
	for name := range m.names {
		m.must(m.tree.Unlink(RootIno, name))
	}
	m.barrier(true)
	m.barrier(true)
	m.must(expire(m.eng, slices.Collect(maps.Keys(m.snaps))...))
	m.tree.settler.wait()
	m.must(prune(m.t, m.tree))
	if l := leftovers(m.eng); len(l) > 0 {
		m.fail("%d keys are left: %q", len(l), l[:min(len(l), 10)])
	}
	if n := m.p.disk.Staging(memStaging).Bytes(); n > 0 {
		m.fail("staging files of %d bytes are left", n)
	}
}
