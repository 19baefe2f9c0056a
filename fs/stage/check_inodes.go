package stage

import (
	"encoding/binary"
	"errors"
	"fmt"

	"stepfs/internal/check"
	"stepfs/internal/schema"
)

// kindsByInode are the kinds of keys that begin with an inode's number; those
// of entries begin with their directory's.
var kindsByInode = string([]byte{
	schema.PrefixInode, schema.PrefixUnsettled, schema.PrefixReap, schema.PrefixStripe, schema.PrefixDentry,
	schema.PrefixXattr, schema.PrefixSymlink, schema.PrefixOrphan,
})

// inodeCheck is one inode.
type inodeCheck struct {
	*treeCheck
	r      *check.Run
	ino    uint64
	name   string        // for reports
	newest *schema.Inode // nil: there is none that can be read
	needs  needs
	need   []schema.Content
	queued bool                // the reaper will look at it
	gens   map[uint64]*holding // that its contents and stripes name, or did until it was queued
}

// holding is a generation as an inode that names it finds it.
type holding struct {
	rec   schema.Generation
	found bool
	held  bool // the inode has a hold on it
	// unread: there is a record, and it can't be read.
	unread bool
}

// corrupt reports a record of the inode that can't be read: what it needs is
// then not fully known.
func (n *inodeCheck) corrupt(err error) error {
	if errors.Is(err, schema.ErrCorrupt) {
		n.unsure[n.ino] = true
	}
	return n.r.Corrupt(n.name, err)
}

// unlessCorrupt drops an error that says that a record can't be read.
func unlessCorrupt(err error) error {
	if errors.Is(err, schema.ErrCorrupt) {
		return nil
	}
	return err
}

// inodeHolds checks all that is kept by inode, and yields the generations that
// each inode names, or is queued to give up, and has a hold on.
func (c *treeCheck) inodeHolds(r *check.Run, yield func(m []byte) error) error {
	last := c.counter(schema.MetaNextIno)
	var buf []byte
	return r.Join(c.ctx, kindsByInode, 8, func(g *check.Group) error {
		ino := binary.BigEndian.Uint64(g.ID)
		r.Done(0.4 + 0.4*min(1, float64(ino)/last))
		if r == c.r {
			c.stats.Inodes++
		}
		n := &inodeCheck{treeCheck: c, r: r, ino: ino, name: fmt.Sprintf("inode %d", ino), gens: map[uint64]*holding{}}
		if err := n.all(g); err != nil {
			return err
		}
		for gen, h := range n.gens {
			if !h.held {
				continue
			}
			buf = hold(buf, gen, ino)
			if err := yield(buf); err != nil {
				return err
			}
		}
		return nil
	})
}

func (n *inodeCheck) all(g *check.Group) error {
	// Marks first: which contents are needed depends on them.
	for _, step := range [...]func(*check.Group) error{n.marks, n.versions, n.queue, n.stripes, n.entries, n.rest} {
		if err := step(g); err != nil {
			return err
		}
	}
	return nil
}

// marks reads which generations are unsettled.
func (n *inodeCheck) marks(g *check.Group) error {
	return g.Each(schema.PrefixUnsettled, func(k, v []byte) error {
		_, gen, err := schema.ParseUnsettledKey(k)
		var u schema.Unsettled
		if err == nil {
			u, err = schema.DecodeUnsettled(v)
		}
		if err != nil {
			return n.corrupt(err)
		}
		n.needs.marks = append(n.needs.marks, mark{gen, u})
		rec, found, err := n.record(gen)
		if err == nil && (!found || rec.Ino != n.ino || !rec.File) {
			n.r.Leak("unsettled-mark", n.name, "generation %d is marked as not synced, and is not a staging file of this inode", gen)
		}
		return unlessCorrupt(err)
	})
}

// versions reads the inode's versions.
func (n *inodeCheck) versions(g *check.Group) error {
	n.needs.waits = map[uint64]bool{}
	err := g.Each(schema.PrefixInode, func(k, v []byte) error {
		if len(k) != 17 {
			n.r.Damage("record", n.name, "a key %x", k)
			return nil
		}
		rec, err := schema.DecodeInode(v)
		if err != nil {
			n.needs.versions++
			return n.corrupt(err)
		}
		if n.newest == nil {
			n.newest = rec
			if rec.Name != "" {
				n.name += fmt.Sprintf(" (%q)", rec.Name)
			}
		}
		n.needs.add(rec)
		for _, gen := range gensOf(rec) {
			if _, err := n.gen(gen); err != nil {
				return err
			}
		}
		return nil
	})
	n.need = n.needs.contents()
	if err != nil || n.newest == nil || n.newest.Deleted || n.newest.Live.Gen == 0 {
		return err
	}
	if h := n.gens[n.newest.Live.Gen]; h != nil && !h.found && !h.unread {
		n.r.Damage("generation-missing", n.name, "its content goes on in generation %d, of which there is no record", n.newest.Live.Gen)
	}
	return nil
}

// gen finds a generation that the inode names; 0 is none.
func (n *inodeCheck) gen(gen uint64) (*holding, error) {
	h := n.gens[gen]
	if h != nil || gen == 0 {
		return h, nil
	}
	h = &holding{}
	n.gens[gen] = h
	var err error
	if h.rec, h.found, err = n.record(gen); err != nil {
		h.unread = true // which is said by generation
		return h, unlessCorrupt(err)
	}
	if h.held = h.found && h.rec.Ino == n.ino; h.found && !h.held {
		h.held, err = n.r.Has(schema.GenRefKey(gen, n.ino))
	}
	return h, err
}

// queue reads what the reaper has to do.
func (n *inodeCheck) queue(g *check.Group) error {
	return g.Each(schema.PrefixReap, func(k, _ []byte) error {
		n.queued = true
		if len(k) != 17 {
			return nil
		}
		_, err := n.gen(binary.BigEndian.Uint64(k[9:]))
		return err
	})
}

// entries checks the names in a directory, that is, the newest version of each.
func (n *inodeCheck) entries(g *check.Group) error {
	last, versions := "", 0
	var first schema.Dentry
	end := func() {
		if versions == 1 && first.Ino == 0 {
			n.r.Leak("tombstone", n.name, "the entry %q is gone, and nothing older of it is left to hide", last)
		}
	}
	err := g.Each(schema.PrefixDentry, func(k, v []byte) error {
		name, _, err := schema.ParseDentryKey(k)
		var d schema.Dentry
		if err == nil {
			d, err = schema.DecodeDentry(v)
		}
		if err != nil {
			return n.corrupt(err)
		}
		if versions > 0 && name == last {
			versions++
			return n.entry(name, d, false)
		}
		end()
		last, versions, first = name, 1, d
		return n.entry(name, d, true)
	})
	end()
	return err
}

// entry checks that what a name leads to is there.
func (n *inodeCheck) entry(name string, d schema.Dentry, live bool) error {
	if d.Ino == 0 {
		return nil
	}
	if live && (n.needs.versions == 0 || n.newest != nil && n.newest.Deleted) {
		n.r.Damage("entry-unreachable", n.name, "the entry %q is in a directory that is not there", name)
	}
	prefix := schema.InodePrefix(d.Ino)
	it, err := n.r.View.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return err
	}
	defer it.Close()
	if !it.First() {
		if it.Error() == nil {
			n.r.Damage("entry-dangling", n.name, "the entry %q leads to inode %d, which is not there", name, d.Ino)
		}
		return it.Error()
	}
	if rec, err := schema.DecodeInode(it.Value()); err == nil && live && (rec.Deleted || rec.Nlink == 0) {
		n.r.Damage("entry-dangling", n.name, "the entry %q leads to inode %d, which is deleted", name, d.Ino)
	}
	return nil
}

// rest checks what else hangs on an inode.
func (n *inodeCheck) rest(g *check.Group) error {
	gone := n.needs.versions == 0 && !n.queued
	switch {
	case g.Has(schema.PrefixOrphan) && (n.needs.versions == 0 || n.newest != nil && n.newest.Deleted):
		n.r.Leak("orphan", n.name, "it is listed as unlinked and open, and is not there")
	case n.needs.versions == 1 && n.newest != nil && n.newest.Deleted && !n.queued:
		n.r.Leak("tombstone", n.name, "it is deleted, and nothing older of it is left to hide")
	case g.Has(schema.PrefixSymlink) && gone:
		n.r.Leak("inode-remains", n.name, "there is the target of a symbolic link of it, and no version")
	case n.newest != nil && n.newest.Mode&ModeType == ModeLink && !n.newest.Deleted && !g.Has(schema.PrefixSymlink):
		n.r.Damage("symlink-target", n.name, "it is a symbolic link without a target")
	}
	if gone && g.Has(schema.PrefixXattr) {
		n.r.Leak("inode-remains", n.name, "there are extended attributes of it, and no version")
	}
	return g.Each(schema.PrefixXattr, func(k, v []byte) error {
		_, _, err := schema.ParseXattrKey(k)
		if err == nil {
			_, err = schema.DecodeXattr(v)
		}
		return n.corrupt(err)
	})
}
