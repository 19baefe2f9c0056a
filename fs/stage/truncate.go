package stage

import (
	"stepfs/internal/schema"
)

// resize is a change of a file's length or holes, without data.
type resize struct {
	n   *inode
	rec schema.Inode
	gen uint64 // generation under which changed stripes are written
}

// reshape starts a change below offset `from`: in the current generation when
// nothing from there on is frozen, else in a new one that holds no bytes.
func (t *Tree) reshape(n *inode, from int64) (*resize, bool, error) {
	r := &resize{n: n, rec: *n.rec, gen: n.rec.Live.Gen}
	if r.gen != 0 && from > 0 && from >= frozen(n.rec) {
		return r, false, nil
	}
	g, err := t.gens.fresh(n.ino)
	if err != nil {
		return nil, false, err
	}
	defer t.gens.put(g)
	r.gen = g.id
	r.rec.Live.Gen = g.id
	return r, true, nil
}

// truncate sets the length of n, whose lock is held. A file that nobody has
// open for writing is closed with it.
func (t *Tree) truncate(n *inode, size int64) error {
	if size < 0 {
		return ErrInvalid
	}
	if size > maxSize {
		return ErrTooBig
	}
	if size >= n.rec.Live.Len {
		return t.extend(n, size)
	}
	r, fresh, err := t.reshape(n, size)
	if err != nil {
		return err
	}
	live := &r.rec.Live
	old := *live
	live.Len = size
	if size == 0 && fresh {
		live.Base, live.Alloc = r.gen, 0
	}
	return t.recordResize(r, fresh, func(tx *txn) error {
		if size == 0 && fresh {
			return nil // the new base hides all stripes
		}
		return t.clearStripes(tx, r, &old, size, old.Len)
	})
}

// extend makes the file size bytes long; what is new is a hole. The same
// length is a change of times alone.
func (t *Tree) extend(n *inode, size int64) error {
	r := &resize{n: n, rec: *n.rec, gen: n.rec.Live.Gen}
	r.rec.Live.Len = size
	return t.recordResize(r, false, func(*txn) error { return nil })
}

// punch makes [off, off+length) a hole.
func (t *Tree) punch(n *inode, off, length int64) error {
	end := min(off+length, n.rec.Live.Len)
	if off >= end {
		return nil
	}
	r, fresh, err := t.reshape(n, off)
	if err != nil {
		return err
	}
	old := r.rec.Live
	return t.recordResize(r, fresh, func(tx *txn) error {
		return t.clearStripes(tx, r, &old, off, end)
	})
}

// clearStripes takes the data in [from, to) out of the stripes of content old.
func (t *Tree) clearStripes(tx *txn, r *resize, old *schema.Content, from, to int64) error {
	return t.stripes(r.n.ino, old, stripeOf(from), func(s uint32, fs []schema.Fragment, ver uint64) (bool, error) {
		base := int64(s) * stripeSize
		if base >= to {
			return false, nil
		}
		lo, hi := max(from-base, 0), min(to-base, stripeSize)
		now := schema.Overlay(fs, uint32(lo), uint32(hi-lo), 0)
		if d := schema.Sum(now) - schema.Sum(fs); d != 0 {
			r.rec.Live.Alloc += d
			tx.Put(schema.StripeKey(r.n.ino, s, r.gen), schema.EncodeStripe(now))
		}
		return true, nil
	})
}

// recordResize is the transaction of a resize. The caller of a truncate(2)
// without a handle is its own close.
func (t *Tree) recordResize(r *resize, fresh bool, stripes func(tx *txn) error) error {
	n := r.n
	r.rec.Live.Mtime = t.now()
	r.rec.Ctime = r.rec.Live.Mtime
	r.rec.Failed = r.rec.Failed && r.rec.Live.Len > 0
	_, err := t.update(schema.KindTruncate, func(tx *txn) error {
		if err := stripes(tx); err != nil {
			return err
		}
		if fresh {
			tx.Put(schema.Numbered(schema.PrefixGen, r.gen), schema.Generation{Ino: n.ino, Inline: true}.Encode())
		}
		if n.writers == 0 {
			t.commitContent(tx, n, &r.rec)
		}
		t.putInode(tx, n, &r.rec)
		return nil
	})
	if err != nil {
		return err
	}
	n.tail = stripeCache{}
	n.appendOnly = false
	n.unflush()
	t.noteCommitted(n)
	return nil
}

// SetAttr changes attributes; a size is a truncate.
func (t *Tree) SetAttr(ino uint64, s SetAttr) (Attr, error) {
	n, err := t.get(ino)
	if err != nil {
		return Attr{}, err
	}
	defer t.put(n)
	n.mu.Lock()
	defer n.mu.Unlock()
	if s.Size != nil {
		if n.dir {
			return Attr{}, ErrIsDir
		}
		if !isReg(n.rec) {
			return Attr{}, ErrInvalid
		}
		if err := t.truncate(n, *s.Size); err != nil {
			return Attr{}, err
		}
	}
	if s.Mode == nil && s.UID == nil && s.GID == nil && s.Atime == nil && s.Mtime == nil && s.Ctime == nil {
		return n.attr(), nil
	}
	rec := *n.rec
	applyAttr(&rec, s, t.now())
	_, err = t.update(schema.KindAttr, func(tx *txn) error { t.putInode(tx, n, &rec); return nil })
	if err != nil {
		return Attr{}, err
	}
	t.changed(rec.Parent, rec.Name, ino)
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
