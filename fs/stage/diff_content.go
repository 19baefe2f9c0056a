package stage

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"slices"

	"stepfs/internal/schema"
)

// compare notes how an entry differs from what it was. names says that its
// mtime has a reason that is listed: a directory has other names.
func (d *differ) compare(paths [2]string, inos [2]uint64, names, renamed bool) error {
	var recs [2]*schema.Inode
	for side, v := range d.views {
		var err error
		if recs[side], err = v.inode(inos[side]); err != nil {
			return err
		}
	}
	old, new := recs[0], recs[1]
	c := Change{Old: paths[0], New: paths[1], OldMode: old.Mode, NewMode: new.Mode, OldSize: size(old), NewSize: size(new)}
	if err := d.content(&c, recs, inos); err != nil {
		return err
	}
	if (old.Mode^new.Mode)&modePerm != 0 {
		c.Attrs |= AttrMode
	}
	if old.UID != new.UID || old.GID != new.GID {
		c.Attrs |= AttrOwner
	}
	if shown(old).Mtime != shown(new).Mtime && !names && c.Attrs&(AttrContent|AttrType) == 0 {
		c.Attrs |= AttrMtime
	}
	same, err := d.sameXattrs(inos)
	if err != nil {
		return err
	}
	if !same {
		c.Attrs |= AttrXattr
	}
	if renamed {
		c.Attrs |= AttrName
	}
	if c.Attrs != 0 {
		d.add(c, inos)
	}
	return nil
}

func size(rec *schema.Inode) int64 {
	if !isReg(rec) {
		return 0
	}
	return shown(rec).Len
}

func (d *differ) add(c Change, inos [2]uint64) {
	d.out.Changes = append(d.out.Changes, c)
	if !d.counted[inos] {
		d.counted[inos] = true
		d.out.Bytes += c.Bytes
	}
}

// lone notes an entry that one side alone has. Another name of a file that the
// other side has brings what differs in it.
func (d *differ) lone(side int, s single) error {
	rec, err := d.views[side].inode(s.ino)
	if err != nil {
		return err
	}
	var c Change
	if side == 0 {
		c.Old, c.OldMode, c.OldSize = s.path, rec.Mode, size(rec)
	} else {
		c.New, c.NewMode, c.NewSize = s.path, rec.Mode, size(rec)
	}
	var contents [2]*schema.Content
	var inos [2]uint64
	if isReg(rec) {
		contents[side], inos[side] = shown(rec), s.ino
		if other, err := d.views[1-side].inode(s.ino); err == nil {
			contents[1-side], inos[1-side] = shown(other), s.ino
		} else if !errors.Is(err, ErrNotExist) {
			return err
		}
		if c.Bytes, err = d.changed(contents, inos); err != nil {
			return err
		}
	}
	d.add(c, inos)
	return nil
}

// content compares types and what files hold.
func (d *differ) content(c *Change, recs [2]*schema.Inode, inos [2]uint64) (err error) {
	var contents [2]*schema.Content
	links := [2]string{}
	for side, rec := range recs {
		switch {
		case isReg(rec):
			contents[side] = shown(rec)
		case rec.Mode&ModeType == ModeLink:
			if links[side], err = d.t.Readlink(inos[side]); err != nil {
				return err
			}
		}
	}
	if (recs[0].Mode^recs[1].Mode)&ModeType != 0 || recs[0].Rdev != recs[1].Rdev {
		c.Attrs |= AttrType
	} else if links[0] != links[1] {
		c.Attrs |= AttrContent
	}
	if c.Bytes, err = d.changed(contents, inos); err != nil {
		return err
	}
	if c.Attrs&AttrType == 0 && (c.Bytes > 0 || c.OldSize != c.NewSize) {
		c.Attrs |= AttrContent
	}
	return nil
}

func (d *differ) sameXattrs(inos [2]uint64) (bool, error) {
	var all [2][]string
	for side, v := range d.views {
		var err error
		if all[side], err = v.ListXattr(inos[side]); err != nil {
			return false, err
		}
	}
	if !slices.Equal(all[0], all[1]) {
		return false, nil
	}
	for _, name := range all[0] {
		a, err := d.views[0].GetXattr(inos[0], name)
		b, err2 := d.views[1].GetXattr(inos[1], name)
		if err = errors.Join(err, err2); err != nil || !bytes.Equal(a, b) {
			return false, err
		}
	}
	return true, nil
}

// changed gives how many bytes of two contents are not known to be the same;
// either may be nil, for none. No data is read: a generation holds one thing at
// one offset, and so does a chunk.
func (d *differ) changed(contents [2]*schema.Content, inos [2]uint64) (n int64, err error) {
	chunks := map[uint64]*chunkList{}
	next, stop := iter.Pull2(d.fragments(inos[1], contents[1]))
	defer stop()
	b, failed, more := next()
	for a, err := range d.fragments(inos[0], contents[0]) {
		if err != nil {
			return 0, err
		}
		for a.Len > 0 && more {
			if failed != nil {
				return 0, failed
			}
			switch {
			case b.Off+b.Len <= a.Off: // the new one alone
				n += b.Len
				b, failed, more = next()
			case b.Off < a.Off:
				n += a.Off - b.Off
				b = b.from(a.Off)
			case a.Off+a.Len <= b.Off: // the old one alone
				n += a.Len
				a.Len = 0
			case a.Off < b.Off:
				n += b.Off - a.Off
				a = a.from(b.Off)
			default:
				to := min(a.Off+a.Len, b.Off+b.Len)
				if a.gen != b.gen {
					same, err := d.sameChunks(chunks, a.gen, b.gen, a.Off, to)
					if err != nil {
						return 0, err
					}
					n += to - a.Off - same
				}
				a = a.from(to)
				if b = b.from(to); b.Len == 0 {
					b, failed, more = next()
				}
			}
		}
		n += a.Len
	}
	for ; more; b, failed, more = next() {
		if failed != nil {
			return 0, failed
		}
		n += b.Len
	}
	return n, nil
}

// piece is a range of a file that one generation holds.
type piece struct {
	Segment
	gen uint64
}

// from is the piece without what lies before off.
func (p piece) from(off int64) piece {
	return piece{Segment{off, p.Off + p.Len - off}, p.gen}
}

// fragments gives the pieces of a content, in order.
func (d *differ) fragments(ino uint64, c *schema.Content) iter.Seq2[piece, error] {
	return func(yield func(piece, error) bool) {
		if c == nil {
			return
		}
		err := d.t.stripes(ino, c, 0, func(s uint32, fs []schema.Fragment, _ uint64) (bool, error) {
			base := int64(s) * stripeSize
			for _, f := range fs {
				off, end := base+int64(f.Off), min(base+int64(f.End()), c.Len)
				if off < end && !yield(piece{Segment{off, end - off}, f.Gen}, nil) {
					return false, nil
				}
			}
			return true, d.ctx.Err()
		})
		if err != nil {
			yield(piece{}, err)
		}
	}
}

// sameChunks gives how many bytes of [from, to) lie in the same chunk, at the
// same place of it, in both generations. What is staged lies in none.
func (d *differ) sameChunks(known map[uint64]*chunkList, a, b uint64, from, to int64) (same int64, err error) {
	var es [2][]schema.ChunkExtent
	for side, gen := range [2]uint64{a, b} {
		l := known[gen]
		if l == nil {
			if l, err = d.t.chunkList(gen); err != nil {
				return 0, err
			}
			known[gen] = l
		}
		es[side] = l.appendRange(nil, from, to)
	}
	for i, j := 0, 0; i < len(es[0]) && j < len(es[1]); {
		x, y := &es[0][i], &es[1][j]
		start, end := max(x.Off, y.Off), min(x.Off+int64(x.Len), y.Off+int64(y.Len))
		if start < end && x.ID == y.ID && int64(x.Skip)-x.Off == int64(y.Skip)-y.Off {
			same += end - start
		}
		if x.Off+int64(x.Len) <= y.Off+int64(y.Len) {
			i++
		} else {
			j++
		}
	}
	return same, nil
}

// Compare compares one inode in snapshot old with one in snapshot new; if they
// are two, it counts as renamed. Nothing may prune either meanwhile.
func (t *Tree) Compare(ctx context.Context, old, oldIno, new, newIno uint64) (Change, error) {
	d := &differ{t: t, ctx: ctx, views: [2]*View{t.At(old), t.At(new)}, counted: map[[2]uint64]bool{}}
	err := d.compare([2]string{}, [2]uint64{oldIno, newIno}, false, oldIno != newIno)
	if err != nil || len(d.out.Changes) == 0 {
		return Change{}, err
	}
	return d.out.Changes[0], nil
}
