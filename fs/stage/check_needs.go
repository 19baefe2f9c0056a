package stage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"stepfs/internal/check"
	"stepfs/internal/schema"
)

// Who needs what a check finds damaged: the files whose content reads it, and
// the snapshots that show that content. It is looked up for each finding, in the
// index as it is by then: from a chunk to its holders, from a generation to the
// inodes that have a hold on it, from those to their versions, and from each
// version to the snapshots in its time. So it costs what is damaged.

// Needs adds the files that need chunk id, which holder names.
func (t *Tree) Needs(holder uint64, id [32]byte, n *check.Needs) error {
	if schema.IsTreeHolder(holder) {
		seq := holder &^ (1 << 63)
		need := check.Need{Path: "(its tree in packs)"}
		if _, err := t.shownBy(&need, seq, seq+1); err != nil {
			return err
		}
		n.Add(need)
		return nil
	}
	es, err := t.chunkMap(holder)
	if err != nil {
		return err
	}
	es = slices.DeleteFunc(es, func(e schema.ChunkExtent) bool { return e.ID != id })
	if len(es) == 0 {
		return nil
	}
	return t.generationNeeds(holder, n, func(off, end int64) bool {
		return slices.ContainsFunc(es, func(e schema.ChunkExtent) bool { return e.Off < end && off < e.Off+int64(e.Len) })
	})
}

// generationNeeds adds the files that read bytes of a generation in which hurt
// has some.
func (t *Tree) generationNeeds(gen uint64, n *check.Needs, hurt func(off, end int64) bool) error {
	g, err := t.generation(gen)
	if err != nil {
		return err
	}
	inos := []uint64{}
	if g.Ino != 0 {
		inos = append(inos, g.Ino)
	}
	prefix := schema.Numbered(schema.PrefixGenRef, gen)
	it, err := t.db.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return wrapDisk(err)
	}
	for ok := it.First(); ok && len(inos) < check.MaxCounted+check.MaxNeeds; ok = it.Next() {
		if ino := binary.BigEndian.Uint64(it.Key()[len(prefix):]); ino != g.Ino {
			inos = append(inos, ino)
		}
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return wrapDisk(err)
	}
	for _, ino := range inos {
		err := t.inodeNeeds(ino, n, func(c *schema.Content) (bool, error) { return t.readsFrom(ino, c, gen, hurt) })
		if err != nil || n.Full() {
			return err
		}
	}
	return nil
}

// readsFrom says whether a content reads bytes of a generation that hurt has.
func (t *Tree) readsFrom(ino uint64, c *schema.Content, gen uint64, hurt func(off, end int64) bool) (reads bool, err error) {
	err = t.stripes(ino, c, 0, func(s uint32, fs []schema.Fragment, _ uint64) (bool, error) {
		for _, f := range fs {
			off := int64(s)*stripeSize + int64(f.Off)
			end := min(off+int64(f.Len), c.Len)
			reads = reads || f.Gen == gen && off < end && hurt(off, end)
		}
		return !reads, nil
	})
	return reads, err
}

// inodeNeeds adds the paths under which an inode shows contents of a kind.
func (t *Tree) inodeNeeds(ino uint64, n *check.Needs, reads func(*schema.Content) (bool, error)) error {
	versions, err := t.versions(ino)
	if err != nil {
		return err
	}
	var found []check.Need
	for k, v := range versions {
		if v.rec.Deleted {
			continue
		}
		end := uint64(math.MaxUint64)
		if k > 0 {
			end = versions[k-1].seq
		}
		var need check.Need
		at := uint64(newest)
		if need.Live = k == 0; need.Live && isReg(v.rec) {
			if need.Live, err = reads(&v.rec.Live); err != nil {
				return err
			}
		}
		seen := !v.rec.Excluded
		if seen && isReg(v.rec) {
			if seen = v.rec.Committed != nil; seen {
				if seen, err = reads(v.rec.Committed); err != nil {
					return err
				}
			}
		}
		last := uint64(0)
		if seen {
			if last, err = t.shownBy(&need, v.seq, end); err != nil {
				return err
			}
		}
		if !need.Live {
			at = last
		}
		if at == 0 {
			continue
		}
		need.Path, err = t.path(ino, at)
		if errors.Is(err, ErrNotExist) && need.Live && last != 0 { // it has no name any more
			need.Live = false
			need.Path, err = t.path(ino, last)
		}
		if errors.Is(err, ErrNotExist) {
			need.Path, err = fmt.Sprintf("(inode %d, unlinked)", ino), nil
		}
		if err != nil {
			return err
		}
		found = mergeNeed(found, need)
	}
	for _, need := range found {
		n.Add(need)
	}
	return nil
}

// mergeNeed adds what an older version says to what newer ones say.
func mergeNeed(all []check.Need, n check.Need) []check.Need {
	k := slices.IndexFunc(all, func(m check.Need) bool { return m.Path == n.Path })
	if k < 0 {
		return append(all, n)
	}
	m := &all[k]
	take := min(check.MaxSnapshots-len(m.Snapshots), len(n.Snapshots))
	m.Snapshots = append(m.Snapshots, n.Snapshots[:take]...)
	m.More += n.More + len(n.Snapshots) - take
	return all
}

// shownBy adds the snapshots from a number up to another, and gives the newest.
func (t *Tree) shownBy(need *check.Need, from, to uint64) (last uint64, err error) {
	it, err := t.db.NewIter(schema.Numbered(schema.PrefixSnapshot, from), schema.Numbered(schema.PrefixSnapshot, to))
	if err != nil {
		return 0, wrapDisk(err)
	}
	defer it.Close()
	var barriers []string
	count := 0
	for ok := it.Last(); ok; ok = it.Prev() {
		seq := numberAt(it)
		last = max(last, seq)
		count++
		s, err := schema.DecodeSnapshot(it.Value())
		switch {
		case err != nil || s.Name == "":
			if len(barriers) < check.MaxSnapshots {
				barriers = append(barriers, fmt.Sprintf("@%d", seq))
			}
		case len(need.Snapshots) < check.MaxSnapshots:
			name := fmt.Sprintf("%s@%d", s.Name, seq)
			if s.Scope != "" {
				name = s.Scope + "/" + name
			}
			need.Snapshots = append(need.Snapshots, name)
		}
	}
	need.Snapshots = append(need.Snapshots, barriers[:min(len(barriers), check.MaxSnapshots-len(need.Snapshots))]...)
	need.More = count - len(need.Snapshots)
	return last, wrapDisk(it.Error())
}

// named adds to a finding of this layer who needs what it is about. A finding
// stands for itself: where the index is damaged, nobody may be found.
func (t *Tree) named(f *check.Finding) {
	if f.Kind != check.Damage {
		return
	}
	var number uint64
	var needs check.Needs
	var err error
	if _, scanned := fmt.Sscanf(f.Object, "generation %d", &number); scanned == nil {
		err = t.generationNeeds(number, &needs, func(int64, int64) bool { return true })
	} else if _, scanned := fmt.Sscanf(f.Object, "inode %d", &number); scanned == nil {
		err = t.inodeNeeds(number, &needs, func(*schema.Content) (bool, error) { return true, nil })
	}
	if err == nil {
		f.Needs = needs
	}
}
