package stage

import (
	"stepfs/internal/schema"
)

// A reference (PrefixGenRef) says that an inode names a generation which
// another one wrote; or that it wrote itself, and that came back to it out of a
// snapshot after the inode had gone on to others. So of a generation with a
// reference the versions of an inode that read it need not follow each other.

// stays says whether a version of an inode that stays when the snapshots are
// removed reads a generation to which the inode has a reference. Those next to
// what is removed were asked before.
func (l *loser) stays(gen, ino uint64) (bool, error) {
	reads, ok := l.kept[ino]
	if ok {
		return reads[gen], nil
	}
	versions, err := l.t.versions(ino)
	if err != nil {
		return false, err
	}
	reads = map[uint64]bool{}
	for k, v := range versions {
		shown := k == 0
		if !shown {
			if shown, err = l.shown(v.seq, versions[k-1].seq); err != nil {
				return false, err
			}
		}
		if !shown {
			continue
		}
		contents, err := l.contents(ino, v.seq, v.seq)
		if err != nil {
			return false, err
		}
		for _, c := range contents {
			if err := l.t.namedBy(ino, c, reads, false); err != nil {
				return false, err
			}
		}
	}
	l.kept[ino] = reads
	return reads[gen], nil
}

// shown says whether a snapshot that stays has a number from `from` to to-1.
func (l *loser) shown(from, to uint64) (bool, error) {
	for _, seq := range l.t.cuts.under() {
		if from <= seq && seq < to {
			return true, nil
		}
	}
	it, err := l.t.db.NewIter(schema.Numbered(schema.PrefixSnapshot, from), schema.Numbered(schema.PrefixSnapshot, to))
	if err != nil {
		return false, wrapDisk(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		if !l.ends[numberAt(it)] {
			return true, nil
		}
	}
	return false, wrapDisk(it.Error())
}

// comesBack tells those who know what snapshots alone need that an inode names
// a generation by fewer stripes than before, if it has a reference to it: a
// version that is not next to theirs may have been the other one that read it.
func (t *Tree) comesBack(gen, ino uint64) error {
	shared, err := t.has(schema.GenRefKey(gen, ino))
	if shared {
		t.freeables.touch(gen)
	}
	return err
}

// sharedOnly says whether a content has fragments, and all of them name
// generations to which its inode has references, up to where they are stored.
func (t *Tree) sharedOnly(ino uint64, c *schema.Content) (bool, error) {
	ends := map[uint64]int64{} // generation -> up to where it is shared and stored
	all := true                // of them, so far
	err := t.stripes(ino, c, 0, func(s uint32, fs []schema.Fragment, _ uint64) (bool, error) {
		for _, f := range fs {
			off := int64(s)*stripeSize + int64(f.Off)
			if off >= c.Len {
				break // appended since
			}
			end, ok := ends[f.Gen]
			if !ok {
				shared, err := t.has(schema.GenRefKey(f.Gen, ino))
				if err != nil {
					return false, err
				}
				if shared {
					g, err := t.generation(f.Gen)
					if err != nil {
						return false, wrapDisk(err)
					}
					end = g.Stored
				}
				ends[f.Gen] = end
			}
			if min(off+int64(f.Len), c.Len) > end {
				all = false
			}
		}
		return all, nil
	})
	return all && len(ends) > 0, err
}

// Done takes a content off what waits for ingest if it has nothing to be
// stored: it is made of what others have stored since.
func (f *Frozen) Done() (bool, error) {
	done := false
	// Looked at before, without the ordering lock, since most are not.
	if all, err := f.t.sharedOnly(f.p.Ino, &f.p.Content); err != nil || !all {
		return false, err
	}
	_, err := f.t.update(schema.KindStored, func(tx *txn) (err error) {
		key := schema.Numbered(schema.PrefixPending, f.gen)
		v, err := tx.Get(key)
		if err != nil {
			return ignoreGone(err)
		}
		p, err := schema.DecodePending(v)
		if err != nil || p.Content != f.p.Content {
			return wrapDisk(err)
		}
		if done, err = f.t.sharedOnly(f.p.Ino, &f.p.Content); done {
			tx.Delete(key)
		}
		return err
	})
	return done, err
}
