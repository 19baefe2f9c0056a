package stage

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"stepfs/internal/check"
	"stepfs/internal/schema"
)

// Who needs what a check finds damaged: the files whose content reads it, and
// the snapshots that show that content. It is looked up for each finding, in the
// index as it is by then: from a chunk to its holders, from a generation to the
// inodes that have a hold on it, from those to their versions, and from each
// version to the snapshots in its time. Of a batch of findings each generation is
// asked once, and of a finding each inode once, whatever generations it has. So it
// costs what is damaged, and the versions of the files that have it.

// Places tells where a generation has the chunks that it is asked for; of the tree of
// a step, whether.
func (t *Tree) Places(holder uint64, asked func(id [32]byte) bool, fn func(id [32]byte, at check.Place)) error {
	if schema.IsTreeHolder(holder) {
		return t.treeObjects(holder, asked, fn)
	}
	es, err := t.chunkMap(holder)
	if err != nil {
		return err
	}
	for _, e := range es {
		if asked(e.ID) {
			fn(e.ID, check.Place{Off: e.Off, End: e.Off + int64(e.Len)})
		}
	}
	return nil
}

func (t *Tree) treeObjects(holder uint64, asked func(id [32]byte) bool, fn func(id [32]byte, at check.Place)) error {
	prefix := schema.Numbered(schema.PrefixTreeRef, holder)
	it, err := t.db.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return wrapDisk(err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		if id := it.Key()[len(prefix):]; len(id) == 32 && asked([32]byte(id)) {
			fn([32]byte(id), check.Place{})
		}
	}
	return wrapDisk(errors.Join(it.Error(), it.Close()))
}

// Needs adds the files that read these places, and the steps whose trees have them.
func (t *Tree) Needs(at check.Places, n *check.Needs) error {
	hurt := map[uint64]check.Places{} // by inode
	for _, holder := range slices.Sorted(maps.Keys(at)) {
		if schema.IsTreeHolder(holder) {
			if err := t.treeNeeds(holder&^(1<<63), n); err != nil {
				return err
			}
			continue
		}
		slices.SortFunc(at[holder], func(a, b check.Place) int { return cmp.Compare(a.Off, b.Off) })
		err := t.namers(holder, func(ino uint64) {
			if hurt[ino] == nil {
				hurt[ino] = check.Places{}
			}
			hurt[ino][holder] = at[holder]
		})
		if err != nil {
			return err
		}
	}
	for _, ino := range slices.Sorted(maps.Keys(hurt)) {
		err := t.inodeNeeds(ino, n, func(c *schema.Content) (bool, error) { return t.readsFrom(ino, c, hurt[ino]) })
		if err != nil || n.Full() {
			return err
		}
	}
	return nil
}

func (t *Tree) treeNeeds(seq uint64, n *check.Needs) error {
	need := check.Need{Path: "(its tree in packs)"}
	if err := t.shownBy(&need, seq, seq+1); err != nil {
		return err
	}
	n.Add(need)
	return nil
}

// namers calls fn for the inodes that name a generation, or for so many that nobody
// asks for more.
func (t *Tree) namers(gen uint64, fn func(ino uint64)) error {
	g, err := t.generation(gen)
	if err != nil {
		return err
	}
	if g.Ino != 0 {
		fn(g.Ino)
	}
	prefix := schema.Numbered(schema.PrefixGenRef, gen)
	it, err := t.db.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return wrapDisk(err)
	}
	for ok, k := it.First(), 0; ok && k < check.MaxCounted+check.MaxNeeds; ok, k = it.Next(), k+1 {
		if ino := binary.BigEndian.Uint64(it.Key()[len(prefix):]); ino != g.Ino {
			fn(ino)
		}
	}
	return wrapDisk(errors.Join(it.Error(), it.Close()))
}

// readsFrom says whether a content reads one of these places, which are in order. It
// looks at no stripe before the first of them, nor behind the last.
func (t *Tree) readsFrom(ino uint64, c *schema.Content, hurt check.Places) (reads bool, err error) {
	first, last := int64(math.MaxInt64), int64(0)
	for _, at := range hurt {
		first = min(first, at[0].Off)
		for _, p := range at {
			last = max(last, p.End)
		}
	}
	if first >= c.Len {
		return false, nil
	}
	err = t.stripes(ino, c, stripeOf(first), func(s uint32, fs []schema.Fragment, _ uint64) (bool, error) {
		if int64(s)*stripeSize >= last {
			return false, nil
		}
		for _, f := range fs {
			off := int64(s)*stripeSize + int64(f.Off)
			end := min(off+int64(f.Len), c.Len)
			at := hurt[f.Gen]
			k, _ := slices.BinarySearchFunc(at, off, func(p check.Place, off int64) int { return cmp.Compare(p.End, off+1) })
			reads = reads || off < end && k < len(at) && at[k].Off < end
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
		need, err := t.versionNeeds(ino, v, k == 0, end, n, reads)
		if err != nil {
			return err
		}
		if need.Path != "" {
			found = mergeNeed(found, need)
		}
	}
	for _, need := range found {
		n.Add(need)
	}
	return nil
}

// versionNeeds gives the path under which a version of an inode, which holds up to a
// cut, shows such a content; none: it does not.
func (t *Tree) versionNeeds(ino uint64, v version, live bool, end uint64, n *check.Needs, reads func(*schema.Content) (bool, error)) (need check.Need, err error) {
	if need.Live = live; live && isReg(v.rec) {
		if need.Live, err = reads(&v.rec.Live); err != nil {
			return need, err
		}
	}
	seen := !v.rec.Excluded
	if seen && isReg(v.rec) {
		if seen = v.rec.Committed != nil; seen {
			if seen, err = reads(v.rec.Committed); err != nil {
				return need, err
			}
		}
	}
	last := uint64(0)
	if seen {
		if last, err = t.lastShown(v.seq, end); err != nil {
			return need, err
		}
	}
	at := uint64(newest)
	if !need.Live {
		at = last
	}
	if at == 0 {
		return need, nil
	}
	path, err := t.path(ino, at)
	if errors.Is(err, ErrNotExist) && need.Live && last != 0 { // it has no name any more
		need.Live = false
		path, err = t.path(ino, last)
	}
	if errors.Is(err, ErrNotExist) {
		path, err = fmt.Sprintf("(inode %d, unlinked)", ino), nil
	}
	if need.Path = path; err == nil && last != 0 && n.Lists(path) {
		err = t.shownBy(&need, v.seq, end)
	}
	return need, err
}

// mergeNeed adds what an older version says to what newer ones say.
func mergeNeed(all []check.Need, n check.Need) []check.Need {
	k := slices.IndexFunc(all, func(m check.Need) bool { return m.Path == n.Path })
	if k < 0 && len(all) > check.MaxCounted+check.MaxNeeds {
		return all // nobody counts further
	}
	if k < 0 {
		return append(all, n)
	}
	m := &all[k]
	take := min(check.MaxSnapshots-len(m.Snapshots), len(n.Snapshots))
	m.Snapshots = append(m.Snapshots, n.Snapshots[:take]...)
	m.More += n.More + len(n.Snapshots) - take
	return all
}

// lastShown gives the newest snapshot from a number up to another; 0: there is none.
func (t *Tree) lastShown(from, to uint64) (last uint64, err error) {
	it, err := t.db.NewIter(schema.Numbered(schema.PrefixSnapshot, from), schema.Numbered(schema.PrefixSnapshot, to))
	if err != nil {
		return 0, wrapDisk(err)
	}
	if it.Last() {
		last = numberAt(it)
	}
	return last, wrapDisk(errors.Join(it.Error(), it.Close()))
}

// shownBy adds the snapshots from a number up to another.
func (t *Tree) shownBy(need *check.Need, from, to uint64) error {
	it, err := t.db.NewIter(schema.Numbered(schema.PrefixSnapshot, from), schema.Numbered(schema.PrefixSnapshot, to))
	if err != nil {
		return wrapDisk(err)
	}
	defer it.Close()
	var barriers []string
	count := 0
	for ok := it.Last(); ok; ok = it.Prev() {
		seq := numberAt(it)
		if count++; len(need.Snapshots) == check.MaxSnapshots {
			continue
		}
		s, err := schema.DecodeSnapshot(it.Value())
		switch {
		case err != nil || s.Name == "":
			if len(barriers) < check.MaxSnapshots {
				barriers = append(barriers, fmt.Sprintf("@%d", seq))
			}
		default:
			name := fmt.Sprintf("%s@%d", s.Name, seq)
			if s.Scope != "" {
				name = s.Scope + "/" + name
			}
			need.Snapshots = append(need.Snapshots, name)
		}
	}
	need.Snapshots = append(need.Snapshots, barriers[:min(len(barriers), check.MaxSnapshots-len(need.Snapshots))]...)
	need.More = count - len(need.Snapshots)
	return wrapDisk(it.Error())
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
		err = t.Needs(check.Places{number: {{End: math.MaxInt64}}}, &needs)
	} else if _, scanned := fmt.Sscanf(f.Object, "inode %d", &number); scanned == nil {
		err = t.inodeNeeds(number, &needs, func(*schema.Content) (bool, error) { return true, nil })
	}
	if err == nil {
		f.Needs = needs
	}
}
