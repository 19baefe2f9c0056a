package stage

import (
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"stepfs/internal/schema"
)

// writing is one write under way: what its transaction will record.
type writing struct {
	n     *inode
	g     *generation
	fresh bool // g is new with this write
	spill bool // g moves from the index to a staging file
	rec   schema.Inode
	off   int64
	data  []byte
}

// Write writes data at offset off, or at the end for a handle opened with
// O_APPEND, and gives how much was written: all, less if the disk took less,
// or with an error nothing. When it returns, the bytes survive the death of the daemon.
func (t *Tree) Write(ino, fh uint64, data []byte, off int64) (int, error) {
	if len(data) == 0 {
		return 0, nil
	}
	n, err := t.get(ino)
	if err != nil {
		return 0, ErrStale
	}
	defer t.put(n)
	if err := t.space.admit(int64(len(data))); err != nil {
		return 0, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.dead || !isReg(n.rec) {
		return 0, ErrStale
	}
	if h := n.handles[fh]; h != nil && h.append {
		off = n.rec.Live.Len
	}
	if off < 0 || off > maxSize-int64(len(data)) {
		return 0, ErrTooBig
	}
	w := &writing{n: n, rec: *n.rec, off: off, data: data}
	if err := t.place(w); err != nil {
		return 0, err
	}
	defer t.gens.put(w.g)
	defer w.g.mu.Unlock()
	if err := t.recordWrite(w); err != nil {
		return 0, err
	}
	n.unflush(fh)
	t.dirty(OpWrite, n)
	if len(data) >= largeWrite {
		t.settler.written.Store(time.Now().UnixNano())
	}
	return len(w.data), nil
}

// frozen is the length of the current generation that a cut or a close has
// fixed: an overwrite below it needs a new generation, an append does not.
func frozen(rec *schema.Inode) int64 {
	if rec.Committed != nil && rec.Committed.Gen == rec.Live.Gen {
		return rec.Committed.Len
	}
	return 0
}

// place picks the generation, puts the bytes where they belong, and fills in
// what the inode becomes. Nothing is visible before recordWrite. On success
// w.g is referenced and locked: nothing may settle, evict or read it between
// its bytes and its record.
func (t *Tree) place(w *writing) (err error) {
	live := &w.rec.Live
	if live.Gen > t.gens.old && w.off >= frozen(&w.rec) {
		if w.g, err = t.gens.get(live.Gen); err != nil {
			return err
		}
		if (w.g.rec.File || w.g.rec.Inline) && w.g.rec.Ino == w.n.ino {
			return t.placeIn(w)
		}
		t.gens.put(w.g) // evicted, or another inode's: a new one goes on
	}
	if w.g, err = t.gens.fresh(w.n.ino); err != nil {
		return err
	}
	w.fresh = true
	if live.Gen == 0 || live.Len == 0 {
		live.Base = w.g.id // whole: nothing older lies below
	}
	live.Gen = w.g.id
	return t.placeIn(w)
}

// placeIn puts the bytes into generation w.g: inline while it is small.
func (t *Tree) placeIn(w *writing) error {
	g := w.g
	g.mu.Lock()
	if err := g.failed.Load(); err != nil {
		return t.abandon(w, fmt.Errorf("%w: an earlier sync of this file failed: %w", ErrIO, *err))
	}
	if g.rec.Inline {
		if t.inlineFits(g, w.off, len(w.data)) {
			return nil // recordWrite puts the blocks
		}
		if err := t.spill(w); err != nil {
			return t.abandon(w, err)
		}
	}
	if g.file == nil {
		f, err := t.cfg.Disk.Open(g.id)
		if err != nil {
			return t.abandon(w, wrapDisk(fmt.Errorf("open staging file %d: %w", g.id, err)))
		}
		g.file = f
	}
	g.writes++
	if err := t.fillEdges(w); err != nil {
		return t.abandon(w, wrapDisk(fmt.Errorf("write staging file %d: %w", g.id, err)))
	}
	n, err := g.file.WriteAt(w.data, w.off)
	if err != nil && n == 0 {
		return t.abandon(w, wrapDisk(fmt.Errorf("write staging file %d: %w", g.id, err)))
	}
	w.data = w.data[:n] // a short write; it may be over live bytes, so it counts
	return nil
}

// abandon gives the generation of a failed write back, as it was.
func (t *Tree) abandon(w *writing, err error) error {
	t.undoPlace(w)
	w.g.mu.Unlock()
	t.gens.put(w.g)
	return err
}

// loadInline brings the blocks of an inline generation into memory.
func (t *Tree) loadInline(g *generation) error {
	if g.inline != nil {
		return nil
	}
	prefix := schema.Numbered(schema.PrefixInline, g.id)
	it, err := t.db.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return wrapDisk(err)
	}
	defer it.Close()
	blocks := map[uint32][]byte{}
	for ok := it.First(); ok; ok = it.Next() {
		blk := it.Key()[9:]
		n := uint32(blk[0])<<24 | uint32(blk[1])<<16 | uint32(blk[2])<<8 | uint32(blk[3])
		blocks[n] = append([]byte(nil), it.Value()...)
	}
	if err := it.Error(); err != nil {
		return wrapDisk(err)
	}
	g.inline = blocks
	return nil
}

// inlineFits says whether g stays small enough for the index with this write.
// An error of loading is met again by whoever needs the blocks.
func (t *Tree) inlineFits(g *generation, off int64, n int) bool {
	if n > inlineMax || off+int64(n) > int64(schema.InlineBlock)<<32 || t.loadInline(g) != nil {
		return false
	}
	blocks := len(g.inline)
	for b := off / schema.InlineBlock; b <= (off+int64(n)-1)/schema.InlineBlock; b++ {
		if _, ok := g.inline[uint32(b)]; !ok {
			blocks++
		}
	}
	return blocks*schema.InlineBlock <= inlineMax
}

// spill moves an inline generation into a staging file. If some of it was
// committed, it is durable by the journal alone so far, so the file is synced
// before the record that takes the blocks out of the index.
func (t *Tree) spill(w *writing) error {
	g := w.g
	if err := t.loadInline(g); err != nil {
		return err
	}
	f, err := t.cfg.Disk.Create(g.id)
	if err != nil {
		return wrapDisk(fmt.Errorf("create staging file %d: %w", g.id, err))
	}
	for blk, b := range g.inline {
		if b, err = t.spilled(w, blk, b); err == nil {
			_, err = f.WriteAt(b, int64(blk)*schema.InlineBlock)
		}
		if err != nil {
			break
		}
	}
	g.named = false
	if err == nil && frozen(&w.rec) > 0 {
		if err = f.Sync(); err == nil {
			err = t.cfg.Disk.SyncDir(g.id)
			g.named = err == nil
		}
	}
	if err != nil {
		_ = f.Close()
		t.fault("remove staging file", t.cfg.Disk.Remove(g.id)) // the record still says inline
		return wrapDisk(fmt.Errorf("move generation %d to a staging file: %w", g.id, err))
	}
	g.file = f
	w.spill = true
	g.rec.Inline, g.rec.File = false, true
	return nil
}

// recordWrite is the transaction of a write: stripes, inode, and what became
// of the generation.
func (t *Tree) recordWrite(w *writing) error {
	n, rec := w.n, &w.rec
	end := w.off + int64(len(w.data))
	oldLen := rec.Live.Len
	rec.Live.Len = max(oldLen, end)
	rec.Live.Mtime = t.now()
	rec.Ctime = rec.Live.Mtime
	if rec.Live.Base == rec.Live.Gen && w.fresh {
		rec.Live.Alloc = 0
	}
	var tail stripeCache
	_, err := t.update(schema.KindWrite, func(tx *txn) error {
		var err error
		if tail, err = t.putStripes(tx, w, oldLen); err != nil {
			return err
		}
		if err := t.putGeneration(tx, w); err != nil {
			return err
		}
		t.putInode(tx, n, rec)
		return nil
	})
	if err != nil {
		t.undoPlace(w)
		return err
	}
	n.tail = tail
	n.appendOnly = n.appendOnly && w.off == oldLen
	return nil
}

// undoPlace forgets what place did to the generation in memory: its record in
// the index is as before.
func (t *Tree) undoPlace(w *writing) {
	g := w.g
	if w.spill { // no record tells of the file: it would only take space
		g.rec.Inline, g.rec.File = true, false
		t.fault("close staging file", g.closeFile())
		t.fault("remove staging file", t.cfg.Disk.Remove(g.id))
	}
	g.inline = nil
	if w.fresh {
		g.loaded = false
	}
}

// putStripes records that [off, off+len) now lies in generation w.g.
func (t *Tree) putStripes(tx *txn, w *writing, oldLen int64) (tail stripeCache, err error) {
	live := &w.rec.Live
	for off, end := w.off, w.off+int64(len(w.data)); off < end; {
		s := stripeOf(off)
		base := int64(s) * stripeSize
		stop := min(end, base+stripeSize)
		var fs []schema.Fragment
		ver := live.Gen
		switch {
		case w.n.tail.ok && w.n.tail.stripe == s && w.n.tail.gen == live.Gen:
			fs = w.n.tail.frags
		case base >= oldLen, w.fresh && live.Base == live.Gen: // nothing is there
		default:
			if fs, ver, err = t.stripe(w.n.ino, s, live); err != nil {
				return tail, err
			}
		}
		now := schema.Overlay(fs, uint32(off-base), uint32(stop-off), live.Gen)
		if ver == live.Gen {
			t.unnamed(tx, w.n.ino, fs, now, uint32(off-base), uint32(stop-base))
		}
		live.Alloc += schema.Sum(now) - schema.Sum(fs)
		tx.Put(schema.StripeKey(w.n.ino, s, live.Gen), schema.EncodeStripe(now))
		tail = stripeCache{ok: true, stripe: s, gen: live.Gen, frags: now}
		off = stop
	}
	return tail, nil
}

// unnamed has the reaper look for generations that a version of a stripe named
// before [off, end) of it was written again.
func (t *Tree) unnamed(tx *txn, ino uint64, before, now []schema.Fragment, off, end uint32) {
	for _, f := range before {
		if f.Off < end && f.End() > off && !slices.ContainsFunc(now, func(n schema.Fragment) bool { return n.Gen == f.Gen }) {
			tx.Put(schema.ReapKey(ino, f.Gen), nil)
			t.reaper.add(tx, ino)
		}
	}
}

// putGeneration records where the bytes of this write lie.
func (t *Tree) putGeneration(tx *txn, w *writing) error {
	g := w.g
	if w.fresh || w.spill {
		tx.Put(schema.Numbered(schema.PrefixGen, g.id), g.rec.Encode())
	}
	if w.spill && !w.fresh {
		if err := tx.DeletePrefix(schema.Numbered(schema.PrefixInline, g.id)); err != nil {
			return wrapDisk(err)
		}
	}
	if g.rec.File {
		if !g.marked {
			settled := settledLen(w.n.rec, g.id)
			t.putMark(tx, w.n.ino, g.id, settled)
			tx.then(func() { g.marked, g.settled = true, settled })
		}
		tx.then(func() { g.inline = nil })
		return nil
	}
	blocks := t.inlineBlocks(g, w.off, w.data)
	for blk, b := range blocks {
		tx.Put(schema.InlineKey(g.id, blk), b)
	}
	tx.then(func() {
		for blk, b := range blocks {
			g.inline[blk] = b
		}
	})
	return nil
}

// settledLen is how much of generation gen is durable already.
func settledLen(rec *schema.Inode, gen uint64) int64 {
	if rec.Committed != nil && rec.Committed.Gen == gen {
		return rec.Committed.Len
	}
	return 0
}

// inlineBlocks gives the blocks of an inline generation that data at off
// changes, as they become.
func (t *Tree) inlineBlocks(g *generation, off int64, data []byte) map[uint32][]byte {
	out := map[uint32][]byte{}
	for len(data) > 0 {
		blk, in := uint32(off/schema.InlineBlock), int(off%schema.InlineBlock)
		n := min(len(data), schema.InlineBlock-in)
		b := make([]byte, max(len(g.inline[blk]), in+n))
		copy(b, g.inline[blk])
		copy(b[in:], data[:n])
		out[blk] = b
		data, off = data[n:], off+int64(n)
	}
	return out
}

// Fallocate: the default mode and FALLOC_FL_KEEP_SIZE promise space, which a
// store of sparse generations gives by its reserve; punching holes and zeroing
// replace a range by a hole.
func (t *Tree) Fallocate(ino, fh uint64, off, length int64, mode uint32) error {
	if off < 0 || length <= 0 {
		return ErrInvalid
	}
	if off > maxSize-length {
		return ErrTooBig
	}
	n, err := t.get(ino)
	if err != nil {
		return err
	}
	defer t.put(n)
	const keep = unix.FALLOC_FL_KEEP_SIZE
	if mode == 0 || mode == keep {
		if err := t.space.admit(length); err != nil { // without the inode's lock: to count takes it
			return err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.dead || !isReg(n.rec) {
		return ErrInvalid
	}
	switch mode {
	case 0, keep:
		end := n.rec.Live.Len
		if mode == 0 {
			end = max(end, off+length)
		}
		return t.extend(n, end, fh) // or of times alone, as on ext4
	case unix.FALLOC_FL_PUNCH_HOLE | keep, unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE | keep:
		if err := t.punch(n, off, length, fh); err != nil {
			return err
		}
		if end := off + length; mode == unix.FALLOC_FL_ZERO_RANGE && end > n.rec.Live.Len {
			return t.extend(n, end, fh)
		}
		return nil
	}
	return ErrNotSupported
}
