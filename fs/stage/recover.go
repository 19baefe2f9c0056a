package stage

import (
	"errors"
	"io"
	"io/fs"
	"slices"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// recover puts right what the last daemon left. After its death alone the page
// cache is whole, and so is everything that was acknowledged. After a power
// cut, bytes of a staging file that no sync has covered count only where the
// disk's own map has them; elsewhere the older content shows.
func (t *Tree) recover() error {
	if err := t.unsettled.load(t); err != nil {
		return err
	}
	if t.db.Recovery().PowerCut {
		mended := map[uint64]bool{}
		err := t.eachMarked(func(ino uint64, marks []mark) error {
			mended[ino] = true
			return t.mend(ino, marks)
		})
		if err == nil {
			err = t.unpendLost(mended)
		}
		if err != nil {
			return err
		}
		if err = t.closeOld(); err != nil {
			return err
		}
	}
	v, err := t.db.Get(schema.MetaKey(schema.MetaOldGen))
	if err == nil {
		t.gens.old, err = schema.ParseCounter(v)
	}
	if err != nil && !errors.Is(err, state.ErrNotFound) {
		return wrapDisk(err)
	}
	if err := t.sweepOrphans(); err != nil {
		return err
	}
	if err := t.sweepStaging(); err != nil {
		return err
	}
	// What was closed and not yet synced settles now.
	if err := t.eachMarked(func(ino uint64, _ []mark) error { t.settler.add(ino); return nil }); err != nil {
		return err
	}
	return t.reaper.load(t)
}

// closeOld ends the mending after a power cut. The staging files of before may
// hold bytes whose records are lost. So that no later write can be taken for
// one of those, files go on in new generations.
func (t *Tree) closeOld() error {
	last, err := t.db.NextGen()
	if err != nil {
		return wrapDisk(err)
	}
	_, err = t.update(schema.KindReverted, func(tx *txn) error {
		tx.PutBoot()
		tx.Put(schema.MetaKey(schema.MetaOldGen), schema.Counter(last))
		return nil
	})
	return err
}

// numbered lists the distinct first numbers of the keys of a kind.
func (t *Tree) numbered(prefix byte) (out []uint64, err error) {
	it, err := t.db.NewIter([]byte{prefix}, []byte{prefix + 1})
	if err != nil {
		return nil, wrapDisk(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		n, err := schema.ParseNumbered(it.Key()[:9])
		if err != nil {
			return nil, wrapDisk(err)
		}
		if len(out) == 0 || out[len(out)-1] != n {
			out = append(out, n)
		}
	}
	return out, wrapDisk(it.Error())
}

// dataMap says which ranges of a generation's staging file the disk holds.
type dataMap []Segment

func (m dataMap) covers(off, end int64) bool {
	for _, s := range m {
		if off >= s.Off && end <= s.Off+s.Len {
			return true
		}
	}
	return off >= end
}

// missing calls fn for each part of [off, end) that the disk does not hold.
func (m dataMap) missing(off, end int64, fn func(off, end int64)) {
	for _, s := range m {
		if off >= end {
			return
		}
		if s.Off > off {
			fn(off, min(s.Off, end))
		}
		off = max(off, s.Off+s.Len)
	}
	if off < end {
		fn(off, end)
	}
}

func (t *Tree) diskMap(gen uint64) (dataMap, error) {
	f, err := t.cfg.Disk.Open(gen)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, wrapDisk(err)
	}
	defer f.Close()
	var m dataMap
	for off := int64(0); ; {
		start, end, err := f.Data(off)
		if err == io.EOF {
			return m, nil
		}
		if err != nil {
			return nil, wrapDisk(err)
		}
		m = append(m, Segment{start, end - start})
		off = end
	}
}

// mend puts an inode with marked generations right after a power cut. In
// snapshots, whatever had not settled is reverted, even where the disk has
// bytes: they may be those of an earlier write to the same place. The live
// content shows what the disk's map says is left.
func (t *Tree) mend(ino uint64, marks []mark) error {
	maps := map[uint64]dataMap{}
	for _, m := range marks {
		dm, err := t.diskMap(m.gen)
		if err != nil {
			return err
		}
		maps[m.gen] = dm
	}
	torn, err := t.tornMarks(ino, marks, maps)
	if err != nil {
		return err
	}
	n, err := t.get(ino)
	if errors.Is(err, ErrNotExist) {
		n = &inode{ino: ino} // deleted since: older versions may still name it
	} else if err != nil {
		return err
	} else {
		defer t.put(n)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := t.revert(n, marks, false); err != nil {
		return err
	}
	if n.rec == nil {
		return t.dropMarks(ino, marks, maps)
	}
	// Of a file nothing of which is named any more not even the name need be left.
	empty := slices.DeleteFunc(slices.Clone(marks), func(m mark) bool {
		return len(maps[m.gen]) > 0 || slices.Contains(torn, m)
	})
	if err := t.dropMarks(ino, empty, maps); err != nil || len(torn) == 0 {
		return err // what else there is of the live content settles like any other
	}
	return t.mendLive(n, torn, maps)
}

// tornMarks gives the marks of generations of which the disk misses bytes
// that some version of a stripe names.
func (t *Tree) tornMarks(ino uint64, marks []mark, maps map[uint64]dataMap) (torn []mark, err error) {
	bad := map[uint64]bool{}
	prefix := schema.StripeInode(ino)
	it, err := t.db.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return nil, wrapDisk(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		s, _, err := schema.ParseStripeKey(it.Key())
		if err != nil {
			return nil, wrapDisk(err)
		}
		fs, err := schema.DecodeStripe(it.Value())
		if err != nil {
			return nil, wrapDisk(err)
		}
		base := int64(s) * stripeSize
		for _, f := range fs {
			m, marked := maps[f.Gen]
			if marked && !m.covers(base+int64(f.Off), base+int64(f.End())) {
				bad[f.Gen] = true
			}
		}
	}
	for _, m := range marks {
		if bad[m.gen] {
			torn = append(torn, m)
		}
	}
	return torn, wrapDisk(it.Error())
}

// dropMarks takes marks off that a power cut has left nothing to sync of.
func (t *Tree) dropMarks(ino uint64, marks []mark, maps map[uint64]dataMap) error {
	_, err := t.update(schema.KindReverted, func(tx *txn) error { return t.dropMarksIn(tx, ino, marks, maps) })
	return err
}

// dropMarksIn also notes which staging files hold nothing: perhaps not even
// their names are left.
func (t *Tree) dropMarksIn(tx *txn, ino uint64, marks []mark, maps map[uint64]dataMap) error {
	for _, m := range marks {
		t.dropMark(tx, ino, m.gen)
		tx.Put(schema.ReapKey(ino, m.gen), nil) // perhaps nothing names it any more
		if len(maps[m.gen]) > 0 {
			continue
		}
		g, err := t.generation(m.gen)
		if errors.Is(err, state.ErrNotFound) {
			continue
		}
		if err != nil {
			return wrapDisk(err)
		}
		g.File = false // nothing can go on in it
		tx.Put(schema.Numbered(schema.PrefixGen, m.gen), g.Encode())
		tx.Delete(schema.Numbered(schema.PrefixHot, m.gen))
		tx.Put(schema.Numbered(schema.PrefixDoomed, m.gen), nil)
	}
	if len(marks) > 0 {
		t.reaper.add(tx, ino)
	}
	return nil
}

// mendLive takes the ranges that are gone out of the live content. Where an
// older generation lies below, it shows through; a tail that is gone shortens
// the file, as ext4 would.
func (t *Tree) mendLive(n *inode, torn []mark, maps map[uint64]dataMap) error {
	rec := *n.rec
	bad := map[uint64]bool{}
	for _, m := range torn {
		bad[m.gen] = true
	}
	end := int64(0)
	_, err := t.update(schema.KindReverted, func(tx *txn) error {
		err := t.stripes(n.ino, &n.rec.Live, 0, func(s uint32, fs []schema.Fragment, ver uint64) (bool, error) {
			now, err := t.mendStripe(n, s, fs, bad, maps)
			if err != nil {
				return false, err
			}
			if k := len(now); k > 0 {
				end = max(end, int64(s)*stripeSize+int64(now[k-1].End()))
			}
			rec.Live.Alloc += schema.Sum(now) - schema.Sum(fs)
			tx.Put(schema.StripeKey(n.ino, s, ver), schema.EncodeStripe(now))
			return true, nil
		})
		if err != nil {
			return err
		}
		if last, err := t.stripeEnd(n); err != nil || last >= n.rec.Live.Len {
			rec.Live.Len = min(rec.Live.Len, max(end, durableEnd(n.rec)))
		}
		if err := t.dropMarksIn(tx, n.ino, torn, maps); err != nil {
			return err
		}
		t.putInode(tx, n, &rec)
		return nil
	})
	return err
}

// durableEnd is the length that the durable version of the file had. After
// revert, that is the committed one. One that was only made longer, and never
// written, lies below whatever the live content begins with.
func durableEnd(rec *schema.Inode) int64 {
	if c := rec.Committed; c != nil && (c.Gen == 0 || c.Gen >= rec.Live.Base) {
		return min(rec.Committed.Len, rec.Live.Len)
	}
	return 0
}

// stripeEnd is where the live content's last fragment ends.
func (t *Tree) stripeEnd(n *inode) (end int64, err error) {
	err = t.stripes(n.ino, &n.rec.Live, 0, func(s uint32, fs []schema.Fragment, _ uint64) (bool, error) {
		if k := len(fs); k > 0 {
			end = int64(s)*stripeSize + int64(fs[k-1].End())
		}
		return true, nil
	})
	return end, err
}

// mendStripe gives a stripe's fragments without the ranges that the disk
// lost, filled from the newest older version that has them.
func (t *Tree) mendStripe(n *inode, s uint32, fs []schema.Fragment, bad map[uint64]bool, maps map[uint64]dataMap) ([]schema.Fragment, error) {
	base := int64(s) * stripeSize
	now := fs
	for _, f := range fs {
		if !bad[f.Gen] {
			continue
		}
		var older []schema.Fragment
		if below := (schema.Content{Gen: f.Gen - 1, Base: n.rec.Live.Base, Len: maxSize}); below.Gen >= below.Base {
			var ver uint64
			var err error
			if older, ver, err = t.stripe(n.ino, s, &below); err != nil {
				return nil, err
			}
			// What was appended to the durable content may have been cut off again
			// by a version that is gone since.
			if c := n.rec.Committed; c != nil && ver <= c.Gen && c.Len < base+stripeSize {
				end := uint32(max(c.Len-base, 0))
				older = schema.Overlay(older, end, stripeSize-end, 0)
			}
			if older, err = t.mendStripe(n, s, older, bad, maps); err != nil {
				return nil, err
			}
		}
		maps[f.Gen].missing(base+int64(f.Off), base+int64(f.End()), func(off, end int64) {
			lo, hi := uint32(off-base), uint32(end-base)
			now = schema.Overlay(now, lo, hi-lo, 0)
			for _, o := range older {
				if a, b := max(o.Off, lo), min(o.End(), hi); a < b {
					now = schema.Overlay(now, a, b-a, o.Gen)
				}
			}
		})
	}
	return now, nil
}

// sweepOrphans deletes the files that were unlinked while open: nobody has
// them open any more.
func (t *Tree) sweepOrphans() error {
	inos, err := t.numbered(schema.PrefixOrphan)
	if err != nil {
		return err
	}
	for _, ino := range inos {
		n, err := t.get(ino)
		if errors.Is(err, ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if n.dir {
			t.put(n)
			if err := t.removeAll(ino); err != nil {
				return err
			}
			continue
		}
		n.mu.Lock()
		err = t.freeOrphan(n)
		n.mu.Unlock()
		t.put(n)
		if err != nil {
			return err
		}
	}
	return nil
}

// sweepStaging removes the staging files that no generation claims: of writes
// that were never recorded, and of generations that are dead. No number of a
// file that was found is given out again: should power fail before the disk has
// noted the removal, the old file is back, and would pass for the new one.
func (t *Tree) sweepStaging() error {
	var gone []uint64
	err := t.cfg.Disk.List(func(gen uint64) error {
		t.db.SkipGens(gen)
		v, err := t.db.Get(schema.Numbered(schema.PrefixGen, gen))
		if errors.Is(err, state.ErrNotFound) {
			gone = append(gone, gen)
			return nil
		}
		if err != nil {
			return err
		}
		g, err := schema.DecodeGeneration(v)
		if err == nil && !g.File {
			gone = append(gone, gen)
		}
		return err
	})
	if err != nil || len(gone) == 0 {
		return wrapDisk(err)
	}
	// The records that make them dead may be in the page cache only.
	if err := t.db.Sync(t.db.Pos()); err != nil {
		return wrapDisk(err)
	}
	for _, gen := range gone {
		if err := t.cfg.Disk.Remove(gen); err != nil {
			return wrapDisk(err)
		}
	}
	return nil
}
