package stage

import (
	"errors"
	"slices"

	"stepfs/internal/schema"
)

// A copy of a range within the tree, or out of a snapshot into it, shares what
// can be shared: that costs records, no data.
//
// Which ranges can share? Those that go to the offset at which they lie in the
// source, any of them and to the byte: the destination's stripes name the
// generations that the source's do, and each of these notes that it is named
// by one more inode (shareGen), as after a rollback. Holes stay holes.
//
// A range that moves cannot: a generation's bytes lie at the file's own
// offsets. A fragment would need an offset into its generation, which then all
// would have to heed that match the two without asking: chunk maps (ingest and
// diff), the disk's own map after a power cut, a content that is whole. That is
// much for what "cat a b >c" alone does, so those bytes are copied (copy.go).
//
// What is shared must not change any more, under whoever's hands:
//
//   - It is fixed. Where an overwrite could still go to the generation that
//     holds it, the source goes on in a new one (freeze), as after a truncate.
//   - It is durable. An inode's unsettled marks are about generations that it
//     wrote, and so is what mends them after a power cut or a failed sync. What
//     somebody else wrote has to be there when the destination's own barrier
//     says so. So it is synced before it is shared, as Linux writes the source
//     of a reflink back.
//   - It is held. The references and the stripes are one transaction, in which
//     the source still names what it named.
//
// From then on neither knows of the other: a generation that no inode has left
// gives back its file or its chunks.

const (
	// shareStripes is how many stripes one transaction shares.
	shareStripes = 256
	// shareTries is how often a source that is overwritten meanwhile is synced
	// again before its bytes are copied instead.
	shareTries = 3
)

var (
	// errUnsynced and errPassed end a transaction that shares nothing.
	errUnsynced = errors.New("what is to be shared is not durable yet")
	errPassed   = errors.New("the source ends before the range")
	// errUnshared: the range is copied instead. It moves, or can't be made durable.
	errUnshared = errors.New("the range is not shared")
)

// share makes the destination name what the source does, from x.SrcOff on, and
// gives how many bytes that are.
func (x *copying) share() (done int64, err error) {
	for tries := 0; done < x.Len && (done+int64(tries) == 0 || !x.stopped()); {
		off := x.SrcOff + done
		end := min(x.SrcOff+x.Len, (int64(stripeOf(off))+shareStripes)*stripeSize)
		n, unsynced, err := x.shareSome(off, end)
		switch {
		case errors.Is(err, errPassed):
			return done, nil
		case errors.Is(err, errUnsynced):
			if tries++; tries > shareTries {
				return done, errUnshared
			}
			for _, m := range unsynced {
				if x.t.settleOne(x.Src, m, nil) != nil {
					return done, errUnshared // who syncs the source is told
				}
			}
		case err != nil:
			return done, err
		default:
			done, tries = done+n, 0
		}
	}
	return done, nil
}

// shareSome shares [off, end) in one transaction, or says what has to be synced
// before.
func (x *copying) shareSome(off, end int64) (n int64, unsynced []mark, err error) {
	defer lockAll(x.src, x.dst)()
	if err := x.mayWrite(); err != nil {
		return 0, nil, err
	}
	if err := x.freeze(off, end); err != nil {
		return 0, nil, err
	}
	s := &sharing{x: x, rec: *x.dst.rec, off: off, end: end, gens: map[uint64]schema.Generation{}}
	if err := s.version(); err != nil {
		return 0, nil, err
	}
	old := x.dst.rec.Live
	_, err = x.t.update(schema.KindWrite, func(tx *txn) error { s.tx = tx; return s.record() })
	if err != nil {
		return 0, s.unsynced, err
	}
	d := x.dst
	d.tail = stripeCache{}
	d.appendOnly = d.appendOnly && off == old.Len
	if s.stored && (old.Len == 0 || sameBytes(&d.stored, &old)) {
		d.stored = s.rec.Live
	} else {
		d.stored = schema.Content{}
	}
	d.unflush(x.Fh)
	x.t.dirty(OpWrite, d)
	return s.end - off, nil, nil
}

// sameBytes says whether two contents of one inode are the same but for their
// times.
func sameBytes(a, b *schema.Content) bool {
	return a.Gen == b.Gen && a.Base == b.Base && a.Len == b.Len && a.Alloc == b.Alloc
}

// freeze has a live source go on in a new generation, without bytes, if an
// overwrite could still change some of [off, end).
func (x *copying) freeze(off, end int64) error {
	n := x.src
	if n == nil || n.rec.Live.Gen == 0 || end <= frozen(n.rec) {
		return nil
	}
	current := false
	err := x.t.stripes(n.ino, &n.rec.Live, stripeOf(off), func(s uint32, fs []schema.Fragment, _ uint64) (bool, error) {
		base := int64(s) * stripeSize
		current = slices.ContainsFunc(fs, func(f schema.Fragment) bool {
			return f.Gen == n.rec.Live.Gen && base+int64(f.Off) < end && base+int64(f.End()) > off
		})
		return !current && base+stripeSize < end, nil
	})
	if err != nil || !current {
		return err
	}
	rec := *n.rec
	g, err := x.t.bare(n.ino)
	if err != nil {
		return err
	}
	rec.Live.Gen = g.id
	_, err = x.t.update(schema.KindWrite, func(tx *txn) error {
		tx.Put(schema.Numbered(schema.PrefixGen, g.id), g.rec.Encode())
		x.t.putInode(tx, n, &rec)
		return nil
	})
	n.tail = stripeCache{}
	return err
}

// bare gives a new generation of an inode that takes no bytes: stripes stand
// under its number.
func (t *Tree) bare(ino uint64) (*generation, error) {
	g, err := t.gens.fresh(ino)
	if err != nil {
		return nil, err
	}
	defer t.gens.put(g)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rec.Inline = false
	return g, nil
}

// sharing is one transaction that shares a range.
type sharing struct {
	x        *copying
	tx       *txn
	rec      schema.Inode // what the destination becomes
	fresh    *generation  // under whose number its stripes stand; nil: that of before
	off, end int64
	gens     map[uint64]schema.Generation // that are shared
	unsynced []mark
	stored   bool // all that is shared is in chunks
}

// version chooses the generation under whose number the stripes stand. It takes
// no bytes, so that the next write starts one more: should power fail before
// those are durable, what shows in their place is what was shared, as long as
// the reaper leaves it, and not what lay there before.
func (s *sharing) version() (err error) {
	live, t, ino := &s.rec.Live, s.x.t, s.x.dst.ino
	if live.Gen > t.gens.old && s.off >= frozen(&s.rec) {
		g, err := t.generation(live.Gen)
		if err != nil {
			return wrapDisk(err)
		}
		if g == (schema.Generation{Ino: ino}) {
			return nil
		}
	}
	if s.fresh, err = t.bare(ino); err != nil {
		return err
	}
	if live.Gen == 0 || live.Len == 0 {
		live.Base, live.Alloc = s.fresh.id, 0 // whole: nothing older lies below
	}
	live.Gen = s.fresh.id
	return nil
}

// record is the transaction. It asks for what the source shows: what somebody
// frees at the same time is either gone here, or is told here that it is held.
func (s *sharing) record() error {
	x, t, d := s.x, s.x.t, s.x.dst
	src, from, err := x.source()
	if err != nil {
		return err
	}
	if s.end = min(s.end, from.Len); s.end <= s.off {
		return errPassed
	}
	parts, err := s.parts(src, from)
	if err != nil {
		return err
	}
	if len(s.unsynced) > 0 {
		return errUnsynced
	}
	for gen := range s.gens {
		if err := t.shareGen(s.tx, gen, d.ino); err != nil {
			return err
		}
	}
	if err := s.putStripes(parts); err != nil {
		return err
	}
	live := &s.rec.Live
	live.Len = max(live.Len, s.end)
	live.Mtime = t.now()
	s.rec.Ctime = live.Mtime
	s.rec.Grown = s.rec.Grown || src.Grown
	if s.fresh != nil {
		s.tx.Put(schema.Numbered(schema.PrefixGen, s.fresh.id), s.fresh.rec.Encode())
	}
	t.putInode(s.tx, d, &s.rec)
	return nil
}

// parts gives what the source has of the range, by stripe, and notes what
// generations that names and which of them are unsynced.
func (s *sharing) parts(src *schema.Inode, from *schema.Content) (map[uint32][]schema.Fragment, error) {
	x, t := s.x, s.x.t
	marks := t.marks(x.Src)
	fixed := x.src == nil
	if c := src.Committed; !fixed && c != nil && s.end <= frozen(src) {
		from, fixed = c, true
	}
	if fixed {
		// Of a content that could still be taken back the live file would
		// overwrite the bytes where they are. Then nothing takes it back.
		s.unsynced = slices.DeleteFunc(slices.Clone(marks), func(m mark) bool { return settledBy([]mark{m}, from) })
	}
	s.stored = true
	parts := map[uint32][]schema.Fragment{}
	return parts, t.stripes(x.Src, from, stripeOf(s.off), func(k uint32, fs []schema.Fragment, _ uint64) (bool, error) {
		base := int64(k) * stripeSize
		if base >= s.end {
			return false, nil
		}
		lo, hi := s.within(k)
		part := clip(nil, fs, lo, hi)
		for _, f := range part {
			end := base + int64(f.End())
			g, ok := s.gens[f.Gen]
			if !ok {
				var err error
				if g, err = t.generation(f.Gen); err != nil {
					return false, wrapDisk(err)
				}
				s.gens[f.Gen] = g
			}
			s.stored = s.stored && end <= g.Stored
			for _, m := range marks {
				if m.gen == f.Gen && end > m.Settled && !slices.Contains(s.unsynced, m) {
					s.unsynced = append(s.unsynced, m)
				}
			}
		}
		parts[k] = part
		return true, nil
	})
}

// within gives the range's part of a stripe, as offsets in it.
func (s *sharing) within(k uint32) (lo, hi uint32) {
	base := int64(k) * stripeSize
	return uint32(max(s.off-base, 0)), uint32(min(s.end-base, stripeSize))
}

// putStripes puts the parts in the place of what the destination has there.
func (s *sharing) putStripes(parts map[uint32][]schema.Fragment) error {
	t, d, live := s.x.t, s.x.dst, &s.rec.Live
	put := func(k uint32, fs []schema.Fragment) []schema.Fragment {
		lo, hi := s.within(k)
		now := clip(clip(clip(nil, fs, 0, lo), parts[k], lo, hi), fs, hi, stripeSize)
		live.Alloc += schema.Sum(now) - schema.Sum(fs)
		s.tx.Put(schema.StripeKey(d.ino, k, live.Gen), schema.EncodeStripe(now))
		delete(parts, k)
		return now
	}
	hidden := false
	if int64(stripeOf(s.off))*stripeSize < d.rec.Live.Len {
		err := t.stripes(d.ino, &d.rec.Live, stripeOf(s.off), func(k uint32, fs []schema.Fragment, ver uint64) (bool, error) {
			if int64(k)*stripeSize >= s.end {
				return false, nil
			}
			now := put(k, fs)
			if ver == live.Gen {
				lo, hi := s.within(k)
				t.unnamed(s.tx, d.ino, fs, now, lo, hi)
			} else {
				hidden = true
			}
			return true, nil
		})
		if err != nil {
			return err
		}
	}
	for k := range parts {
		put(k, nil)
	}
	if hidden {
		t.reaper.add(s.tx, d.ino)
	}
	return nil
}

// clip adds what fragments have in [lo, hi) of their stripe to out, which ends
// before that.
func clip(out, fs []schema.Fragment, lo, hi uint32) []schema.Fragment {
	for _, f := range fs {
		off, end := max(f.Off, lo), min(f.End(), hi)
		if off >= end {
			continue
		}
		if k := len(out) - 1; k >= 0 && out[k].Gen == f.Gen && out[k].End() == off {
			out[k].Len += end - off
			continue
		}
		out = append(out, schema.Fragment{Off: off, Len: end - off, Gen: f.Gen})
	}
	return out
}
