package stage

import (
	"errors"
	"fmt"
	"slices"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// A file's bytes are found in three steps. A content version says which
// generations count (Base..Gen) and the length. The newest version in that
// range of a stripe lists its fragments. A fragment names the generation that
// holds its bytes, at the file's own offsets; the generation says where it
// lies: in a staging file, inline in the index, or in chunks.

const stripeSize = schema.StripeSize

// maxSize is the largest file: stripes are numbered by 32 bits.
const maxSize = int64(stripeSize) << 32

func stripeOf(off int64) uint32 { return uint32(off / stripeSize) }

// stripe gives the fragments of one stripe of content c of inode ino, and the
// version that they were written under (0: none, a hole).
func (t *Tree) stripe(ino uint64, s uint32, c *schema.Content) ([]schema.Fragment, uint64, error) {
	if c.Gen == 0 {
		return nil, 0, nil
	}
	k, v, err := t.db.Seek(schema.StripePrefix(ino, s), schema.StripeKey(ino, s, c.Gen))
	if errors.Is(err, state.ErrNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, wrapDisk(err)
	}
	return parseStripe(ino, k, v, c)
}

func parseStripe(ino uint64, k, v []byte, c *schema.Content) ([]schema.Fragment, uint64, error) {
	s, gen, err := schema.ParseStripeKey(k)
	if err != nil {
		return nil, 0, wrapDisk(err)
	}
	if gen < c.Base {
		return nil, 0, nil
	}
	fs, err := schema.DecodeStripe(v)
	if err != nil {
		return nil, 0, wrapDisk(fmt.Errorf("inode %d stripe %d: %w", ino, s, err))
	}
	return fs, gen, nil
}

// stripes calls fn for each stripe of c that has a version at or behind
// `from`, in order, until fn says to stop. It costs what it visits.
func (t *Tree) stripes(ino uint64, c *schema.Content, from uint32, fn func(s uint32, fs []schema.Fragment, gen uint64) (bool, error)) error {
	if c.Gen == 0 {
		return nil
	}
	it, err := t.db.NewIter(schema.StripePrefix(ino, from), schema.After(schema.StripeInode(ino)))
	if err != nil {
		return wrapDisk(err)
	}
	defer it.Close()
	for ok := it.First(); ok; {
		s, gen, err := schema.ParseStripeKey(it.Key())
		if err != nil {
			return wrapDisk(err)
		}
		if gen > c.Gen {
			ok = it.SeekGE(schema.StripeKey(ino, s, c.Gen))
			continue
		}
		if int64(s)*stripeSize >= c.Len {
			return nil
		}
		fs, gen, err := parseStripe(ino, it.Key(), it.Value(), c)
		if err != nil {
			return err
		}
		if gen != 0 {
			if more, err := fn(s, fs, gen); err != nil || !more {
				return err
			}
		}
		ok = skipVersions(it, schema.StripePrefix(ino, s))
	}
	return wrapDisk(it.Error())
}

// readContent fills dst from offset off of content c and gives how many bytes
// that was: fewer than len(dst) only at the end of the file.
func (t *Tree) readContent(ino uint64, c *schema.Content, dst []byte, off int64) (int, error) {
	if off < 0 {
		return 0, ErrInvalid
	}
	if off >= c.Len {
		return 0, nil
	}
	if rest := c.Len - off; int64(len(dst)) > rest {
		dst = dst[:rest]
	}
	for done := 0; done < len(dst); {
		at := off + int64(done)
		in := int(at % stripeSize)
		n := min(len(dst)-done, stripeSize-in)
		if err := t.readAt(ino, c, dst[done:done+n], at-int64(in), uint32(in)); err != nil {
			return 0, err
		}
		done += n
	}
	return len(dst), nil
}

// readAt reads from offset in of the stripe at base. Readers of a snapshot
// hold no lock: when the stripe is made to name another place meanwhile, and
// the old one is freed, it is looked up again.
func (t *Tree) readAt(ino uint64, c *schema.Content, dst []byte, base int64, in uint32) error {
	var failed error
	for last := []schema.Fragment(nil); ; {
		fs, _, err := t.stripe(ino, stripeOf(base), c)
		if err != nil {
			return err
		}
		if failed != nil && slices.Equal(fs, last) {
			return failed
		}
		if failed = t.readStripe(fs, dst, base, in); failed == nil {
			return nil
		}
		last = fs
	}
}

// readStripe fills dst with the bytes of a stripe from offset in on; the
// stripe begins at file offset base. What no fragment covers is zero.
func (t *Tree) readStripe(fs []schema.Fragment, dst []byte, base int64, in uint32) error {
	pos, end := in, in+uint32(len(dst))
	for _, f := range fs {
		if f.End() <= pos {
			continue
		}
		if f.Off >= end {
			break
		}
		if f.Off > pos {
			clear(dst[pos-in : f.Off-in])
			pos = f.Off
		}
		stop := min(f.End(), end)
		if err := t.gens.read(f.Gen, dst[pos-in:stop-in], base+int64(pos)); err != nil {
			return err
		}
		pos = stop
	}
	clear(dst[pos-in:])
	return nil
}

// Segment is a range of a file that holds data.
type Segment struct{ Off, Len int64 }

// segments gives the data ranges of content c from offset from on, merged,
// at most max of them (0: all).
func (t *Tree) segments(ino uint64, c *schema.Content, from int64, max int) ([]Segment, error) {
	var out []Segment
	add := func(off, end int64) {
		if k := len(out) - 1; k >= 0 && out[k].Off+out[k].Len == off {
			out[k].Len = end - out[k].Off
			return
		}
		out = append(out, Segment{off, end - off})
	}
	err := t.stripes(ino, c, stripeOf(from), func(s uint32, fs []schema.Fragment, _ uint64) (bool, error) {
		base := int64(s) * stripeSize
		for _, f := range fs {
			off, end := base+int64(f.Off), min(base+int64(f.End()), c.Len)
			if end > from && off < end {
				add(off, end)
			}
		}
		// One more than wanted: the last one may still grow.
		return max == 0 || len(out) <= max, nil
	})
	if max > 0 && len(out) > max {
		out = out[:max]
	}
	return out, err
}

// seekContent is lseek(2) with SEEK_DATA (data) or SEEK_HOLE.
func (t *Tree) seekContent(ino uint64, c *schema.Content, off int64, data bool) (int64, error) {
	if off < 0 || off >= c.Len {
		return 0, ErrNXIO
	}
	segs, err := t.segments(ino, c, off, 1)
	if err != nil {
		return 0, err
	}
	if data {
		if len(segs) == 0 {
			return 0, ErrNXIO
		}
		return max(off, segs[0].Off), nil
	}
	if len(segs) == 0 || segs[0].Off > off {
		return off, nil
	}
	return segs[0].Off + segs[0].Len, nil
}
