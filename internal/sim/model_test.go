package sim

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"stepfs/fs/stage"
	"stepfs/snapshot"
	"stepfs/snapshot/include"
)

// workers is how many goroutines use a store at once, each in a directory of
// its own, so that the states of one follow each other in a line.
const workers = 2

// file is what the model knows of one inode's content. Its lists only grow.
type file struct {
	contents []string // by version
	commits  []int    // versions that were closed or synced: what snapshots show
	logs     []int    // versions that a seal may have taken while they were appended to
	acks     []int    // versions that a caller was told are durable
}

// node is one inode in one state.
type node struct {
	mode   uint32
	xattr  string
	target string // of a symlink
	f      *file  // of a file
	live   int    // version that the live tree shows
	commit int    // newest one that snapshots show; -1: none
	log    bool   // open by O_APPEND, and only appended to: a seal may take it up to its size
	unseen bool   // excluded: no close commits it, and no snapshot makes it durable
	maybe  []int  // newer versions that may be committed: a kill left it open, or a seal took a log
}

// unlogged is a node that is appended to no more: which of its versions a seal has
// taken, and so committed, is not known.
func (n node) unlogged() node {
	for v := n.commit + 1; n.log && v <= n.live; v++ {
		n.maybe = append(slices.Clip(n.maybe), v)
	}
	n.log = false
	return n
}

// treeState is a worker's directory between two of its operations.
type treeState struct {
	what  string
	names map[string]int // path -> node
	nodes map[int]node
	// wild: an operation of several transactions is under way, and what is seen
	// is anything.
	wild bool
	// pieces: the operation under way is of several transactions, each of which
	// changes the next part of a file.
	pieces bool
}

func (s treeState) clone(what string) treeState {
	return treeState{what: what, names: maps.Clone(s.names), nodes: maps.Clone(s.nodes)}
}

// ack is what one caller was told of a snapshot: it shows one state of each
// worker's line from lo to hi.
type ack struct {
	lo, hi       [workers]int
	inLo, inHigh int  // versions of what is included from outside,
	sealed       bool // if it was sealed then, and not found as it was by a barrier
	late         bool // it took so long that what is included may be missing

	begun time.Time
}

// snap is what is known of a snapshot that somebody was told of.
type snap struct {
	acks        []ack
	strict      bool            // sealed: all of it is durable
	name        string          // "" for a barrier
	fixed       map[string]seen // what it shows for ever, since a power cut has decided that
	forgetBegun bool            // it may be forgotten
	forgotten   bool            // it is
	holdBegun   bool            // it may be held
	held        bool            // it is
}

// model is what workers asked for and what they were told.
type model struct {
	alone sync.RWMutex // held by who wants nobody else to do anything meanwhile

	mu     sync.Mutex
	lines  [workers][]treeState // the last state is that of the operation under way
	done   [workers]int         // the newest state that its worker was told of
	synced [workers]int         // the newest state whose names somebody was told are durable
	files  []*file
	snaps  map[uint64]*snap
	steps  map[string]ack // by scope and step: where the workers were when it was committed
	out    *outside
	pruned bool   // somebody asked for it
	from   uint64 // cuts before this one may be of recovery, in no state of a line
	trace  []string
	ops    atomic.Int64
}

func newModel() *model {
	m := &model{snaps: map[uint64]*snap{}, steps: map[string]ack{}}
	for w := range m.lines {
		m.lines[w] = []treeState{{what: "nothing", names: map[string]int{}, nodes: map[int]node{}}}
	}
	return m
}

// long says that a life has gone on for long enough.
func (m *model) long() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.trace) >= 4000
}

func (m *model) note(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.noteLocked(format, args...)
}

func (m *model) noteLocked(format string, args ...any) {
	m.trace = append(m.trace, fmt.Sprintf(format, args...))
}

func (m *model) newFile(contents ...string) *file {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := &file{contents: contents}
	m.files = append(m.files, f)
	return f
}

// last is the state of a worker. Only that worker adds states.
func (m *model) last(w int) treeState {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lines[w][len(m.lines[w])-1]
}

// begin notes what a worker is about to do, and end that it is done.
func (m *model) begin(w int, s treeState) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ops.Add(1)
	m.noteLocked("w%d: %s", w, s.what)
	m.lines[w] = append(m.lines[w], s)
}

func (m *model) end(w int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done[w] = len(m.lines[w]) - 1
}

// span is where the workers are: from what they were told of to what they have
// begun.
func (m *model) span() (a ack) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a.inLo, a.inHigh = m.out.span()
	a.lo, a.begun = m.done, time.Now()
	for w, l := range m.lines {
		a.hi[w] = len(l) - 1
	}
	return a
}

// acked notes that a caller was told of snapshot seq: it was cut after from and
// before now; own is the caller, or -1, whose last state it shows, and synced
// are its files.
func (m *model) acked(seq uint64, own int, from ack, name string, strict bool, synced ...int) {
	a := m.span()
	a.lo, a.inLo, a.sealed = from.lo, from.inLo, name != ""
	a.late = a.begun.Sub(from.begun) >= include.MaxTime
	m.mu.Lock()
	defer m.mu.Unlock()
	if own >= 0 {
		a.lo[own] = a.hi[own]
	}
	if seq != 0 { // else it is of what is excluded
		s := m.snaps[seq]
		if s == nil {
			s = &snap{}
			m.snaps[seq] = s
		}
		if s.fixed == nil {
			s.acks = append(s.acks, a)
		}
		s.strict = s.strict || strict
		if name != "" {
			s.name = name
		}
	}
	for w := range m.synced {
		m.synced[w] = max(m.synced[w], a.lo[w])
	}
	if own >= 0 {
		last := m.lines[own][a.hi[own]]
		for _, id := range synced {
			n := last.nodes[id]
			n.f.acks = append(n.f.acks, n.commit)
		}
	}
	if strict {
		for w := range m.lines { // what all states that it may show have committed
			m.ackStrict(w, a.lo[w], a.hi[w])
		}
	}
	m.noteLocked("snapshot %d %q acknowledged to w%d: %v to %v", seq, name, own, a.lo, a.hi)
}

// sealed hears of each step.
func (m *model) sealed(i snapshot.Info) {
	if i.Explicit {
		return // who asked for it is told
	}
	m.mu.Lock()
	from := m.steps[i.Scope+"/"+i.Name]
	m.mu.Unlock()
	m.acked(i.Seq, -1, from, i.Name, true)
}

// committing notes that a worker is about to commit a step.
func (m *model) committing(w int, step string) {
	a := m.span()
	a.lo[w]++
	m.mu.Lock()
	defer m.mu.Unlock()
	m.steps[dirName(w)+"/"+step] = a
}

func (m *model) ackStrict(w, lo, hi int) {
	for _, n := range m.lines[w][lo].nodes {
		if n.f == nil || n.commit < 0 || n.log || n.maybe != nil || n.unseen {
			continue
		}
		same := true
		for _, s := range m.lines[w][lo : hi+1] {
			for _, o := range s.nodes {
				if o.f == n.f && o.commit != n.commit {
					same = false
				}
			}
		}
		if same {
			n.f.acks = append(n.f.acks, n.commit)
		}
	}
}

// known is the model at the moment of a crash.
type known struct {
	lines  [workers][]treeState
	done   [workers]int
	synced [workers]int
	files  map[*file]file
	snaps  map[uint64]snap
	pruned bool
	from   uint64
	trace  []string

	expired []uint64 // somebody was told that they are gone
}

// before is what was acknowledged; it is taken before the crash is.
func (m *model) before() *known {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := &known{done: m.done, synced: m.synced, files: make(map[*file]file, len(m.files)), snaps: make(map[uint64]snap, len(m.snaps))}
	for _, f := range m.files {
		k.files[f] = file{acks: f.acks}
	}
	for seq, s := range m.snaps {
		k.snaps[seq] = *s
	}
	return k
}

// after adds what had begun; it is taken after the crash was.
func (m *model) after(k *known) *known {
	m.mu.Lock()
	defer m.mu.Unlock()
	k.lines, k.trace, k.pruned, k.from = m.lines, m.trace, m.pruned, m.from
	for _, f := range m.files {
		k.files[f] = file{contents: f.contents, commits: f.commits, logs: f.logs, acks: k.files[f].acks}
	}
	for seq, s := range k.snaps {
		now := m.snaps[seq]
		s.forgetBegun, s.forgotten = s.forgetBegun || now.forgetBegun, s.forgotten && now.forgotten
		s.holdBegun, s.held = s.holdBegun || now.holdBegun, s.held && now.held
		k.snaps[seq] = s
	}
	return k
}

// wild says whether a worker was amid an operation of several transactions.
func (k *known) wild() bool {
	for _, line := range k.lines {
		if line[len(line)-1].wild {
			return true
		}
	}
	return false
}

// least is the oldest version that a snapshot may show of a file whose version
// commit it was given: -1 means that the file may be absent.
func (k *known) least(f *file, commit int) int {
	least := -1
	for _, v := range k.files[f].acks {
		if v <= commit {
			least = max(least, v)
		}
	}
	return least
}

// mismatch says how what is found differs from a state, when it is asked: most
// states that are tried do not fit. Nil: it does not differ.
type mismatch func() string

func differs(format string, args ...any) mismatch {
	return func() string {
		for i, a := range args {
			if s, ok := a.(content); ok {
				args[i] = brief(string(s))
			}
		}
		return fmt.Sprintf(format, args...)
	}
}

// content is shown in brief.
type content string

// shows holds what a snapshot shows of a worker's directory against one of its
// states. exact: nothing had to be durable.
func (k *known) shows(view map[string]seen, s treeState, exact bool) (older int, wrong mismatch) {
	if s.wild {
		return 0, nil
	}
	inos := map[int]uint64{}
	for path, id := range s.names {
		if hidden(path) {
			continue
		}
		n, v := s.nodes[id], seen{}
		v, there := view[path]
		if there {
			if ino := inos[id]; ino != 0 && ino != v.ino {
				return 0, differs("%s is inode %d, another name of it %d", path, v.ino, ino)
			}
			inos[id] = v.ino
		}
		if n.f == nil || there && n.mode != v.mode {
			if !there || v.mode != n.mode || v.xattr != n.xattr || v.data != n.target {
				return 0, differs("%s: there %v, mode %o and not %o, xattr %q and not %q, leads to %q and not %q", path, there, v.mode, n.mode, v.xattr, n.xattr, v.data, n.target)
			}
			continue
		}
		version, ok := k.version(n, v, there, exact)
		if !ok {
			return 0, differs("%s: %s (there: %v), none of versions %d to %d", path, content(v.data), there, k.least(n.f, n.commit), n.commit)
		}
		if there && v.xattr != n.xattr {
			return 0, differs("%s: xattr %q and not %q", path, v.xattr, n.xattr)
		}
		if version < n.commit {
			older++
			if there && v.mark == "" {
				return 0, differs("%s shows version %d instead of %d and is not marked", path, version, n.commit)
			}
		}
	}
	for path := range view {
		if _, ok := s.names[path]; !ok || hidden(path) {
			return 0, differs("%s is there and should not be", path)
		}
	}
	return older, nil
}

// version is which of the versions that a snapshot may show of a file it does.
func (k *known) version(n node, v seen, there, exact bool) (int, bool) {
	f := k.files[n.f]
	least := k.least(n.f, n.commit)
	if exact {
		least = n.commit
	}
	if !there {
		return -1, least < 0
	}
	if n.commit >= 0 && f.contents[n.commit] == v.data {
		return n.commit, true
	}
	for _, version := range n.maybe {
		if f.contents[version] == v.data {
			return version, true
		}
	}
	if n.log {
		for version := n.live; version > n.commit; version-- {
			if f.contents[version] == v.data {
				return version, true
			}
		}
	}
	for _, shown := range [][]int{f.commits, f.logs} {
		for _, version := range slices.Backward(shown) {
			if version >= least && version <= n.commit && f.contents[version] == v.data {
				return version, true
			}
		}
	}
	return 0, false
}

// liveAs holds the live tree after a power cut, or with exact after a kill,
// against a state. Each byte is that of some version since the last one that
// was acknowledged.
func (k *known) liveAs(view map[string]seen, s, next treeState, exact bool) mismatch {
	if s.wild || exact && next.wild {
		return nil
	}
	for path, id := range s.names {
		n := s.nodes[id]
		v, there := view[path]
		if !there || v.mode != n.mode || v.xattr != n.xattr || n.f == nil && v.data != n.target {
			return differs("%s: there %v, mode %o and not %o, xattr %q and not %q, leads to %q and not %q", path, there, v.mode, n.mode, v.xattr, n.xattr, v.data, n.target)
		}
		if n.f == nil {
			continue
		}
		contents := k.files[n.f].contents
		if exact {
			got := contents[n.live]
			if v.data != got && !torn(got, contents[next.nodes[id].versionOf(n.f, n.live)], v.data, next.pieces) {
				return differs("%s: %s, want %s", path, content(v.data), content(got))
			}
			continue
		}
		if wrong := mixed(contents[max(0, k.least(n.f, len(contents))):], v.data); wrong != nil {
			return func() string { return path + ": " + wrong() }
		}
	}
	for path := range view {
		if _, ok := s.names[path]; !ok {
			return differs("%s is there and should not be", path)
		}
	}
	return nil
}

func (n node) versionOf(f *file, def int) int {
	if n.f == f {
		return n.live
	}
	return def
}

// torn: the daemon died between the bytes of a write and its record: some bytes
// are new, and the length is the old one; or, of one that is done in pieces, any up
// to the new one.
func torn(before, after, got string, pieces bool) bool {
	if len(after) < len(before) || len(got) < len(before) || len(got) > len(after) || len(got) > len(before) && !pieces {
		return false
	}
	for i := range len(got) {
		if got[i] != after[i] && (i >= len(before) || got[i] != before[i]) {
			return false
		}
	}
	return true
}

func mixed(versions []string, got string) mismatch {
	lo, hi := len(versions[0]), len(versions[0])
	for _, v := range versions {
		lo, hi = min(lo, len(v)), max(hi, len(v))
		if v == got {
			return nil
		}
	}
	if len(got) < lo || len(got) > hi {
		return differs("%d bytes, want %d to %d", len(got), lo, hi)
	}
	for i := range len(got) {
		ok := got[i] == 0 && i >= lo
		for _, v := range versions {
			ok = ok || i < len(v) && v[i] == got[i]
		}
		if !ok {
			return differs("byte %d of %s is %d, in none of %d versions", i, content(got), got[i], len(versions))
		}
	}
	return nil
}

func brief(s string) string {
	if len(s) > 24 {
		return fmt.Sprintf("%d bytes %q…%q", len(s), s[:8], s[len(s)-4:])
	}
	return fmt.Sprintf("%q", s)
}

// fileMode is a regular file's mode.
func fileMode(perm uint32) uint32 { return stage.ModeReg | perm }
