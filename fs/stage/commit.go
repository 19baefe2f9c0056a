package stage

import (
	"maps"
	"slices"
	"strings"
	"sync"

	"stepfs/internal/schema"
)

// A file's content is *committed* when it is closed, or by its own barrier:
// that is the content which every later snapshot shows until the next commit.
// Committing copies nothing. It fixes (generation, length), and from then on
// an overwrite below that length starts a new generation.

// commitContent makes rec's live content the committed one. n is locked.
func (t *Tree) commitContent(tx *txn, n *inode, rec *schema.Inode) {
	if !isReg(rec) || rec.Failed || rec.Excluded || rec.Committed != nil && *rec.Committed == rec.Live {
		return
	}
	t.fixContent(n, rec)
	if c := rec.Live; c.Gen != 0 && !sameBytes(&c, &n.stored) {
		t.putPending(tx, n.ino, c)
	}
}

// fixContent is commitContent for what waits for no ingest.
func (t *Tree) fixContent(n *inode, rec *schema.Inode) {
	if old := rec.Committed; old != nil && settledBy(t.marks(n.ino), old) {
		rec.Settled = old
	}
	c := rec.Live
	rec.Committed = &c
	rec.Marked, rec.Reverted = false, false
}

// putPending queues a content for ingest. One that goes on from an earlier
// content of the same generation, which is still queued, is as urgent as that.
func (t *Tree) putPending(tx *txn, ino uint64, c schema.Content) {
	p := schema.Pending{Ino: ino, Content: c, Epoch: tx.Epoch(), Time: t.now()}
	key := schema.Numbered(schema.PrefixPending, c.Gen)
	if v, err := tx.Get(key); err == nil {
		if old, err := schema.DecodePending(v); err == nil {
			p.Epoch, p.Time = old.Epoch, old.Time
		}
	}
	tx.Put(key, p.Encode())
}

// supersede notes, if the committed content old still waits for ingest, that
// cut seq is the first which sees next in its place, or nothing. Errors are met
// again by whoever stores it.
func (t *Tree) supersede(tx *txn, old, next *schema.Content, seq uint64) {
	if old == nil || old.Gen == 0 || next != nil && next.Gen == old.Gen {
		return
	}
	t.setUntil(tx, old.Gen, seq)
}

func (t *Tree) setUntil(tx *txn, gen, seq uint64) {
	key := schema.Numbered(schema.PrefixPending, gen)
	v, err := tx.Get(key)
	if err != nil {
		return
	}
	if p, err := schema.DecodePending(v); err == nil && p.Until != seq {
		p.Until = seq
		tx.Put(key, p.Encode())
	}
}

// commitClosed commits n, which is locked, at its close.
func (t *Tree) commitClosed(n *inode) error {
	if n.rec.Excluded {
		t.noteCommitted(n)
		return nil
	}
	if !isReg(n.rec) || n.rec.Failed || n.rec.Committed != nil && *n.rec.Committed == n.rec.Live {
		return nil
	}
	rec := *n.rec
	_, err := t.update(schema.KindClose, func(tx *txn) error {
		t.commitContent(tx, n, &rec)
		t.putInode(tx, n, &rec)
		return nil
	})
	if err != nil {
		return err
	}
	t.noteCommitted(n)
	return nil
}

// noteCommitted starts what follows a commit in the background.
func (t *Tree) noteCommitted(n *inode) {
	if n.rec.Excluded {
		if isReg(n.rec) && n.closed() && len(t.marks(n.ino)) > 0 {
			t.settler.add(n.ino) // nobody has to wait for it, but it keeps a descriptor
		}
		return
	}
	if n.rec.Committed != nil && *n.rec.Committed == n.rec.Live && n.rec.Live.Gen != 0 {
		if len(t.marks(n.ino)) > 0 {
			t.settler.add(n.ino)
		}
		if t.cfg.Events.Pending != nil {
			t.cfg.Events.Pending()
		}
	}
}

// Cut is a frozen tree: everything recorded before it carries a version at or
// below Seq.
type Cut struct {
	Seq uint64
	// Same says that nothing has changed since an earlier cut, Seq, so that no
	// new one was made.
	Same   bool
	Marked []uint64 // append-only files taken though they are open
	inos   []uint64
	failed map[uint64]bool // of inos: an earlier sync failed, nothing more is committed
	waits  bool            // somebody waits for it: the settler gives way until CutDone
}

// cutSet knows the cuts that are under way: their number is taken and no
// snapshot of it is in the registry yet, so Prune must spare it.
type cutSet struct {
	mu      sync.Mutex
	pending map[uint64]bool
	last    uint64 // newest cut
	changes uint64 // Tree.changes when it was taken
}

func (c *cutSet) init() { c.pending = map[uint64]bool{} }

// under gives the cuts under way, in order.
func (c *cutSet) under() []uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.pending))
}

// Cut freezes the tree. The content of the given files is committed as it is;
// with logs, so is that of files which are open and were only appended to. An
// inode that is gone by now is passed over. The caller ends the cut with
// CutDone, unless it is the Same as an earlier one.
func (t *Tree) Cut(inos []uint64, logs, force bool) (*Cut, error) {
	return t.cut(inos, logs, force, nil)
}

// cut is Cut with a graft, or nil; without an error, nil when that has no place
// any more.
func (t *Tree) cut(inos []uint64, logs, force bool, g *graft) (*Cut, error) {
	var nodes []*inode
	defer func() {
		for _, n := range nodes {
			t.put(n)
		}
	}()
	marked := map[uint64]bool{}
	add := func(ino uint64) {
		n, err := t.get(ino)
		switch {
		case err != nil:
		case n.dir: // its names are in the cut anyhow; several directories are locked by renames alone
			t.put(n)
		default:
			nodes = append(nodes, n)
		}
	}
	for _, ino := range inos {
		add(ino)
	}
	if logs {
		for _, n := range t.openLogs() {
			marked[n] = true
			add(n)
		}
	}
	cut := &Cut{}
	t.giveWay(cut, !logs)
	defer lockAll(append(g.inodes(), nodes...)...)()
	valid, err := t.valid(g)
	if valid && err == nil {
		_, err = t.update(schema.KindCut, func(tx *txn) error { return t.cutIn(tx, cut, nodes, marked, force, g) })
	}
	if !valid || err != nil {
		t.CutDone(cut)
		return nil, err
	}
	if cut.Same {
		t.giveWay(cut, false) // nothing is under way
	}
	return cut, nil
}

// giveWay has the settler spare the disk while somebody waits for a cut.
func (t *Tree) giveWay(c *Cut, on bool) {
	if on {
		t.settler.barrierBegins()
	} else if c.waits {
		t.settler.barrierEnds()
	}
	c.waits = on
}

func (t *Tree) cutIn(tx *txn, cut *Cut, nodes []*inode, marked map[uint64]bool, force bool, g *graft) error {
	seen := map[uint64]bool{}
	changed := false
	for _, n := range nodes {
		if seen[n.ino] || n.dead {
			continue
		}
		seen[n.ino] = true
		if !isReg(n.rec) {
			continue
		}
		if marked[n.ino] && !n.growing() {
			continue // meanwhile it was closed, which has committed it, or overwritten
		}
		cut.inos = append(cut.inos, n.ino)
		rec := *n.rec
		if rec.Failed {
			if cut.failed == nil {
				cut.failed = map[uint64]bool{}
			}
			cut.failed[n.ino] = true
		}
		t.commitContent(tx, n, &rec)
		if rec.Committed == n.rec.Committed {
			continue
		}
		if changed = true; marked[n.ino] {
			rec.Marked = true
			cut.Marked = append(cut.Marked, n.ino)
		}
		t.putInode(tx, n, &rec)
	}
	t.cuts.mu.Lock()
	defer t.cuts.mu.Unlock()
	if !changed && !force && t.cuts.last != 0 && t.cuts.changes == t.changes {
		cut.Seq, cut.Same = t.cuts.last, true
		return nil
	}
	if err := t.show(tx, g); err != nil {
		return err
	}
	cut.Seq = tx.Cut()
	g.unshow(tx)
	t.cuts.pending[cut.Seq] = true
	// Until its snapshot is recorded (Published), nobody wants what it shows.
	tx.Put(schema.Numbered(schema.PrefixExpired, cut.Seq), nil)
	// What counts as seen by this cut is what was recorded before it: by the
	// time that `then` runs, the ordering lock is free and more may have come.
	changes := t.changes
	tx.then(func() { t.cuts.took(cut.Seq, changes) })
	return nil
}

// took notes the newest cut, and how many changes it saw.
func (c *cutSet) took(seq, changes uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if seq > c.last {
		c.last, c.changes = seq, changes
	}
}

// openLogs gives the logs that somebody writes: files that were only appended
// to since they were opened. Any file that is written from front to back looks
// like that, and half a checkpoint is torn; so its writers must have asked for
// O_APPEND, or its name must be that of a TensorBoard event file.
func (t *Tree) openLogs() (inos []uint64) {
	for _, n := range t.inodes.open() {
		n.mu.RLock()
		if n.growing() {
			inos = append(inos, n.ino)
		}
		n.mu.RUnlock()
	}
	return inos
}

// growing says whether n, which is locked, is a log that somebody writes.
func (n *inode) growing() bool {
	return n.writers > 0 && n.appendOnly && n.rec != nil && isReg(n.rec) && !n.rec.Excluded && n.isLog()
}

func (n *inode) isLog() bool {
	if strings.HasPrefix(n.rec.Name, "events.out.tfevents.") {
		return true
	}
	for _, h := range n.handles {
		if h.writable && !h.append {
			return false
		}
	}
	return true
}

// CutDone ends a cut: its snapshot is in the registry, or never will be.
func (t *Tree) CutDone(c *Cut) {
	t.giveWay(c, false)
	t.cuts.mu.Lock()
	defer t.cuts.mu.Unlock()
	delete(t.cuts.pending, c.Seq)
}
