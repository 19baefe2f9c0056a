package fs

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"stepfs/fs/stage"
	"stepfs/snapshot"
)

// cuts is the least that can stand for package snapshot above a real tree: it
// takes real cuts and remembers their names in memory.
type cuts struct {
	tree *stage.Tree

	cutting sync.Mutex

	mu       sync.Mutex
	all      []snapshot.Info
	slots    []uint64       // seq by slot-1
	used     map[uint64]int // by seq
	pinned   map[uint64]int
	barriers map[string]int   // by reason
	fail     map[uint64]error // Barrier of that inode fails
	hold     chan struct{}    // not nil: Barrier waits for it
	entered  chan struct{}    // gets one for each Barrier that waits
}

func newCuts(tree *stage.Tree) *cuts {
	return &cuts{tree: tree, used: map[uint64]int{}, pinned: map[uint64]int{}, barriers: map[string]int{}, fail: map[uint64]error{}, entered: make(chan struct{}, 100)}
}

func (c *cuts) cut(info snapshot.Info, inos ...uint64) (snapshot.Info, error) {
	c.cutting.Lock() // as the manager does: one group at a time
	defer c.cutting.Unlock()
	cut, err := c.tree.Cut(inos, info.Name != "", true)
	if err != nil {
		return info, err
	}
	for _, err := range c.tree.SyncCut(context.Background(), cut) {
		return info, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	info.Seq, info.Time = cut.Seq, time.Now()
	c.all = append(c.all, info)
	return info, nil
}

func (c *cuts) Barrier(_ context.Context, reason string, inos ...uint64) (uint64, error) {
	c.mu.Lock()
	c.barriers[reason]++
	hold, err := c.hold, c.fail[inos[0]]
	c.mu.Unlock()
	if hold != nil {
		c.entered <- struct{}{}
		<-hold
	}
	if err != nil {
		return 0, err
	}
	info, err := c.cut(snapshot.Info{Reason: reason, ScopeIno: stage.RootIno}, inos...)
	return info.Seq, err
}

func (c *cuts) SnapshotAs(_ context.Context, scope, name, reason string, _ uint32, tags []string) (snapshot.Info, error) {
	if name == "" || strings.HasPrefix(name, ".") || strings.ContainsAny(name, "/@") {
		return snapshot.Info{}, snapshot.ErrBadName
	}
	ino := uint64(stage.RootIno)
	for _, part := range strings.FieldsFunc(scope, func(r rune) bool { return r == '/' }) {
		a, err := c.tree.Lookup(ino, part)
		if err != nil {
			return snapshot.Info{}, err
		}
		ino = a.Ino
	}
	return c.cut(snapshot.Info{Name: name, Scope: scope, ScopeIno: ino, Reason: reason, Tags: tags, Verdict: "unverified"})
}

func (c *cuts) Remove(_ context.Context, name string, uid uint32) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.all, func(i snapshot.Info) bool { return joinScope(i.Scope, i.Name) == name })
	switch {
	case i < 0:
		return snapshot.ErrNotExist
	case c.all[i].Reason != "mkdir":
		return snapshot.ErrReadOnly
	case uid != 0:
		return snapshot.ErrPerm
	}
	c.all = slices.Delete(c.all, i, i+1)
	return nil
}

func (c *cuts) Freeable(_ context.Context, seq uint64, _ time.Duration) (int64, error) {
	return int64(seq) * 1000, nil
}

func (c *cuts) Scopes(parent string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, i := range c.all {
		rest := i.Scope
		if parent != "" {
			var ok bool
			if rest, ok = strings.CutPrefix(i.Scope, parent+"/"); !ok {
				continue
			}
		}
		if first, _, _ := strings.Cut(rest, "/"); i.Name != "" && first != "" {
			out = append(out, first)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// newest gives the newest revision of each name of a scope, in name order.
func (c *cuts) newest(scope string) []snapshot.Info {
	c.mu.Lock()
	defer c.mu.Unlock()
	by := map[string]snapshot.Info{}
	for _, i := range c.all {
		if i.Scope == scope && i.Name != "" {
			by[i.Name] = i
		}
	}
	var out []snapshot.Info
	for _, i := range by {
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b snapshot.Info) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func (c *cuts) Steps(scope, after string, max int) ([]snapshot.Info, error) {
	var out []snapshot.Info
	for _, i := range c.newest(scope) {
		if i.Name > after && len(out) < max {
			out = append(out, i)
		}
	}
	return out, nil
}

func (c *cuts) Resolve(scope, name string) (snapshot.Info, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range slices.Backward(c.all) {
		if i.Scope == scope && i.Name != "" && (i.Name == name || fmt.Sprintf("%s@%d", i.Name, i.Seq) == name) {
			return i, nil
		}
	}
	return snapshot.Info{}, snapshot.ErrNotExist
}

func (c *cuts) Reach(scope, name string) (snapshot.Info, error) { return c.Resolve(scope, name) }

func (c *cuts) Use(seq uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used[seq]++
}

func (c *cuts) Pin(seq uint64) func() {
	c.pin(seq, 1)
	return func() { c.pin(seq, -1) }
}

func (c *cuts) pin(seq uint64, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pinned[seq] += n
}

// readers gives how often a snapshot was looked into, and is open.
func (c *cuts) readers(seq uint64) (used, pinned int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used[seq], c.pinned[seq]
}

func (c *cuts) Latest(scope string) (snapshot.Info, bool) {
	var last snapshot.Info
	for _, i := range c.newest(scope) {
		if i.Seq > last.Seq {
			last = i
		}
	}
	return last, last.Seq != 0
}

func (c *cuts) Barriers(after uint64, max int) ([]snapshot.Info, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []snapshot.Info
	for _, i := range c.all {
		if i.Seq > after && len(out) < max {
			out = append(out, i)
		}
	}
	return out, nil
}

func (c *cuts) Get(seq uint64) (snapshot.Info, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range c.all {
		if i.Seq == seq {
			return i, nil
		}
	}
	return snapshot.Info{}, snapshot.ErrNotExist
}

func (c *cuts) Slot(seq uint64) (uint32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.Index(c.slots, seq)
	if i < 0 {
		i = len(c.slots)
		c.slots = append(c.slots, seq)
	}
	return uint32(i + 1), nil
}

func (c *cuts) BySlot(slot uint32) (snapshot.Info, error) {
	c.mu.Lock()
	if int(slot) > len(c.slots) {
		c.mu.Unlock()
		return snapshot.Info{}, snapshot.ErrNotExist
	}
	seq := c.slots[slot-1]
	c.mu.Unlock()
	return c.Get(seq)
}

func (c *cuts) count(reason string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.barriers[reason]
}

func (c *cuts) total() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, v := range c.barriers {
		n += v
	}
	return n
}

func (c *cuts) failFor(ino uint64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail[ino] = err
}

func (c *cuts) holdBarriers(hold chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hold = hold
}
