package stage

import (
	"stepfs/internal/schema"
)

func names(need []schema.Content, gen uint64) bool {
	for _, c := range need {
		if c.Gen == gen {
			return true
		}
	}
	return false
}

// needed gives the contents that somebody may still read: of the live tree,
// of every snapshot that is kept and of every cut under way. gone are versions
// of a deleted inode that nobody can see.
func (t *Tree) needed(versions []version) (need []schema.Content, gone []version, err error) {
	seen, err := t.seen(versions)
	if err != nil {
		return nil, nil, err
	}
	anySeen := false
	had := map[[2]uint64]bool{} // contents of one generation read the same stripes
	add := func(c *schema.Content) {
		if c != nil && !had[[2]uint64{c.Gen, c.Base}] {
			had[[2]uint64{c.Gen, c.Base}] = true
			need = append(need, *c)
		}
	}
	for i, v := range versions {
		if !seen[i] {
			continue
		}
		anySeen = true
		if i == 0 {
			add(&v.rec.Live)
		}
		add(v.rec.Committed)
		add(v.rec.Settled)
	}
	if len(versions) > 0 && versions[0].rec.Deleted && !anySeen {
		gone = versions
	}
	return need, gone, nil
}

// seen says of each version of an inode, newest first, whether the live tree,
// or a snapshot that exists or may come, shows it.
func (t *Tree) seen(versions []version) ([]bool, error) {
	out := make([]bool, len(versions))
	hi := newest
	// Cuts under way are asked first: one that ends meanwhile is in the index.
	for i, v := range versions {
		out[i] = !v.rec.Deleted && (i == 0 || v.seq <= hi && t.cuts.has(v.seq, hi))
		hi = v.seq - 1
	}
	it, err := t.db.NewIter([]byte{schema.PrefixSnapshot}, []byte{schema.PrefixSnapshot + 1})
	if err != nil {
		return nil, wrapDisk(err)
	}
	defer it.Close()
	hi = newest
	for i, v := range versions {
		if !v.rec.Deleted && !out[i] && it.SeekGE(schema.Numbered(schema.PrefixSnapshot, v.seq)) {
			seq, err := schema.ParseNumbered(it.Key())
			if err != nil {
				return nil, wrapDisk(err)
			}
			out[i] = seq <= hi
		}
		hi = v.seq - 1
	}
	return out, wrapDisk(it.Error())
}
