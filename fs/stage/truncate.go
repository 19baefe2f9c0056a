package stage

import (
	"errors"

	"stepfs/internal/schema"
)

// resize is a change of a file's length or holes, without data.
type resize struct {
	n   *inode
	rec schema.Inode
	gen *schema.Generation // a new generation for the changed stripes, or nil
	fh  uint64             // handle through which it came; 0: by path
}

// reshape starts a change that takes data away: a new generation. If anything
// is left below, it takes no bytes, and the next write starts one more: should
// power fail before those bytes are durable, what shows in their place is the
// hole, and not what lay there before it was made.
func (t *Tree) reshape(n *inode, whole bool, fh uint64) (*resize, error) {
	g, err := t.gens.fresh(n.ino)
	if err != nil {
		return nil, err
	}
	defer t.gens.put(g)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rec.Inline = whole
	rec := g.rec
	r := &resize{n: n, rec: *n.rec, gen: &rec, fh: fh}
	r.rec.Live.Gen = g.id
	return r, nil
}

// truncate sets the length of n, whose lock is held. A file that nobody has
// open for writing is closed with it.
func (t *Tree) truncate(n *inode, size int64, fh uint64) error {
	if size < 0 {
		return ErrInvalid
	}
	if size > maxSize {
		return ErrTooBig
	}
	if size >= n.rec.Live.Len {
		return t.extend(n, size, fh)
	}
	r, err := t.reshape(n, size == 0, fh)
	if err != nil {
		return err
	}
	live := &r.rec.Live
	live.Len = size
	if size == 0 {
		live.Base, live.Alloc = live.Gen, 0
		r.rec.Grown = false
	}
	return t.recordResize(r, func(tx *txn) error {
		if size == 0 {
			return nil // the new base hides all stripes
		}
		return t.clearStripes(tx, r, size, n.rec.Live.Len)
	})
}

// extend makes the file size bytes long; what is new is a hole. The same
// length is a change of times alone.
func (t *Tree) extend(n *inode, size int64, fh uint64) error {
	r := &resize{n: n, rec: *n.rec, fh: fh}
	r.rec.Grown = r.rec.Grown || size > r.rec.Live.Len
	r.rec.Live.Len = size
	return t.recordResize(r, func(*txn) error { return nil })
}

// punch makes [off, off+length) a hole.
func (t *Tree) punch(n *inode, off, length int64, fh uint64) error {
	end := min(off+length, n.rec.Live.Len)
	if off >= end {
		return t.extend(n, n.rec.Live.Len, fh)
	}
	r, err := t.reshape(n, false, fh)
	if err != nil {
		return err
	}
	return t.recordResize(r, func(tx *txn) error { return t.clearStripes(tx, r, off, end) })
}

// clearStripes takes the data in [from, to) out of the stripes.
func (t *Tree) clearStripes(tx *txn, r *resize, from, to int64) error {
	return t.stripes(r.n.ino, &r.n.rec.Live, stripeOf(from), func(s uint32, fs []schema.Fragment, ver uint64) (bool, error) {
		base := int64(s) * stripeSize
		if base >= to {
			return false, nil
		}
		lo, hi := max(from-base, 0), min(to-base, stripeSize)
		now := schema.Overlay(fs, uint32(lo), uint32(hi-lo), 0)
		if d := schema.Sum(now) - schema.Sum(fs); d != 0 {
			r.rec.Live.Alloc += d
			tx.Put(schema.StripeKey(r.n.ino, s, r.rec.Live.Gen), schema.EncodeStripe(now))
		}
		return true, nil
	})
}

// recordResize is the transaction of a resize. A truncate(2) by path is its own
// close, unless somebody is writing the file.
func (t *Tree) recordResize(r *resize, stripes func(tx *txn) error) error {
	n, size := r.n, r.n.rec.Live.Len
	n.unflush(r.fh) // ftruncate: the handle is writing
	r.rec.Live.Mtime = t.now()
	r.rec.Ctime = r.rec.Live.Mtime
	r.rec.Failed = r.rec.Failed && r.rec.Live.Len > 0
	healed := n.rec.Failed && !r.rec.Failed
	_, err := t.update(schema.KindTruncate, func(tx *txn) error {
		if err := stripes(tx); err != nil {
			return err
		}
		if r.gen != nil {
			tx.Put(schema.Numbered(schema.PrefixGen, r.rec.Live.Gen), r.gen.Encode())
		}
		if healed {
			t.dropFailed(tx, n.ino)
		}
		if n.closed() {
			t.commitContent(tx, n, &r.rec)
		}
		t.putInode(tx, n, &r.rec)
		return nil
	})
	if err != nil {
		return err
	}
	n.tail = stripeCache{}
	n.appendOnly = n.appendOnly && r.gen == nil && n.rec.Live.Len == size
	t.noteCommitted(n)
	t.dirty(OpTruncate, n)
	if n.closed() {
		t.clean(OpClose, n)
	}
	return nil
}

// dropFailed takes the marks off generations whose sync failed, of a file that
// was emptied: no snapshot and no live byte names what was lost.
func (t *Tree) dropFailed(tx *txn, ino uint64) {
	for _, m := range t.marks(ino) {
		if t.gens.hasFailed(m.gen) {
			t.dropMark(tx, ino, m.gen)
		}
	}
}

// SetAttr changes attributes; a size is a truncate. To change nothing, as
// chown(2) may, is a change of ctime.
func (t *Tree) SetAttr(ino uint64, s SetAttr) (Attr, error) {
	n, err := t.get(ino)
	if errors.Is(err, ErrNotExist) && s.Size == nil {
		if a, ok := t.ghosts.change(ino, func(rec *schema.Inode) { applyAttr(rec, s, t.now()) }); ok {
			return a, nil
		}
	}
	if err != nil {
		return Attr{}, err
	}
	defer t.put(n)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.dead {
		return Attr{}, ErrNotExist
	}
	if s.Size != nil {
		if n.dir {
			return Attr{}, ErrIsDir
		}
		if !isReg(n.rec) {
			return Attr{}, ErrInvalid
		}
		if err := t.truncate(n, *s.Size, s.Handle); err != nil {
			return Attr{}, err
		}
	}
	if s.Size != nil && s.Mode == nil && s.UID == nil && s.GID == nil && s.Atime == nil && s.Mtime == nil && s.Ctime == nil {
		return n.attr(), nil
	}
	rec := *n.rec
	applyAttr(&rec, s, t.now())
	_, err = t.update(schema.KindAttr, func(tx *txn) error { t.putInode(tx, n, &rec); return nil })
	if err != nil {
		return Attr{}, err
	}
	if rec.Excluded {
		return n.attr(), nil
	}
	t.happened(Event{Op: OpAttr, Dir: rec.Parent, Name: rec.Name, Ino: ino})
	return n.attr(), nil
}

// applyAttr sets what s names. A changed mtime belongs to the content that a
// snapshot shows too, since utimensat usually follows the close.
func applyAttr(rec *schema.Inode, s SetAttr, now int64) {
	if s.Mode != nil {
		rec.Mode = rec.Mode&ModeType | *s.Mode&modePerm
	}
	if s.UID != nil {
		rec.UID = *s.UID
	}
	if s.GID != nil {
		rec.GID = *s.GID
	}
	if s.Atime != nil {
		rec.Atime = *s.Atime
	}
	if s.Mtime != nil {
		if c := rec.Committed; c != nil && *c == rec.Live {
			same := *c
			same.Mtime = *s.Mtime
			rec.Committed = &same
		}
		rec.Live.Mtime = *s.Mtime
	}
	rec.Ctime = now
	if s.Ctime != nil {
		rec.Ctime = *s.Ctime
	}
}
