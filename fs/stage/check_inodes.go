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
	newest *schema.Inode // nil: there is none that can be read
	needs  needs
	need   []schema.Content
	queued bool // the reaper will look at it
	frags  []schema.Fragment
	claims *claims
	leads  *entries
}

// name is what the inode is called in reports.
func (n *inodeCheck) name() string { return inodeName(n.ino, n.newest) }

func inodeName(ino uint64, rec *schema.Inode) string {
	if rec == nil || rec.Name == "" {
		return fmt.Sprintf("inode %d", ino)
	}
	return fmt.Sprintf("inode %d (%q)", ino, rec.Name)
}

// inodeName is what an inode is called whose turn is over.
func (c *treeCheck) inodeName(ino uint64) string {
	var rec *schema.Inode
	_ = c.r.Each(c.ctx, schema.InodePrefix(ino), func(_, v []byte) (err error) { // it is for a name only
		if rec == nil {
			rec, err = schema.DecodeInode(v)
		}
		return unlessCorrupt(err)
	})
	return inodeName(ino, rec)
}

// corrupt reports a record of the inode that can't be read: what it needs is
// then not fully known.
func (n *inodeCheck) corrupt(err error) error {
	if errors.Is(err, schema.ErrCorrupt) {
		n.unsure[n.ino] = true
	}
	if err == nil { // no name is made for each record
		return nil
	}
	return n.r.Corrupt(n.name(), err)
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
	n := &inodeCheck{treeCheck: c, r: r, claims: c.newClaims(r, yield), leads: c.newEntries(r)}
	err := r.Join(c.ctx, kindsByInode, 8, func(g *check.Group) error {
		n.begin(binary.BigEndian.Uint64(g.ID))
		r.Done(0.8 * min(1, float64(n.ino)/last))
		if r == c.r {
			c.stats.Inodes++
		}
		return n.all(g)
	})
	if err == nil {
		err = n.claims.held.end()
	}
	if err == nil {
		err = n.leads.held.end()
	}
	return err
}

// begin begins an inode.
func (n *inodeCheck) begin(ino uint64) {
	n.ino, n.claims.ino = ino, ino
	n.newest, n.queued = nil, false
	n.needs = needs{marks: n.needs.marks[:0], all: n.needs.all[:0]}
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
		return n.claims.add(gen, claimMark, 0, 0)
	})
}

// versions reads the inode's versions.
func (n *inodeCheck) versions(g *check.Group) error {
	err := g.Each(schema.PrefixInode, func(k, v []byte) error {
		if len(k) != 17 {
			n.r.Damage("record", n.name(), "a key %x", k)
			return nil
		}
		rec, err := schema.DecodeInode(v)
		if err != nil {
			n.needs.versions++
			return n.corrupt(err)
		}
		live := claimNamed
		if n.newest == nil {
			n.newest = rec
			if !rec.Deleted {
				live = claimLive
			}
		}
		n.needs.add(rec)
		err = n.claims.add(rec.Live.Gen, live, 0, 0)
		for _, c := range [...]*schema.Content{rec.Committed, rec.Settled} {
			if c != nil && err == nil {
				err = n.claims.add(c.Gen, claimNamed, 0, 0)
			}
		}
		return err
	})
	n.need = n.needs.contents()
	return err
}

// queue reads what the reaper has to do.
func (n *inodeCheck) queue(g *check.Group) error {
	return g.Each(schema.PrefixReap, func(k, _ []byte) error {
		n.queued = true
		if len(k) != 17 {
			return nil
		}
		return n.claims.add(binary.BigEndian.Uint64(k[9:]), claimNamed, 0, 0)
	})
}

// entries checks the names in a directory, that is, the newest version of each.
func (n *inodeCheck) entries(g *check.Group) error {
	last, versions := "", 0
	var first schema.Dentry
	end := func() {
		if versions == 1 && first.Ino == 0 {
			n.r.Leak("tombstone", n.name(), "the entry %q is gone, and nothing older of it is left to hide", last)
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

// entry checks a name; what it leads to is looked up later.
func (n *inodeCheck) entry(name string, d schema.Dentry, live bool) error {
	if d.Ino == 0 {
		return nil
	}
	if live && (n.needs.versions == 0 || n.newest != nil && n.newest.Deleted) {
		n.r.Damage("entry-unreachable", n.name(), "the entry %q is in a directory that is not there", name)
	}
	return n.leads.held.add(entry{ino: d.Ino, dir: n.ino, live: live})
}

// rest checks what else hangs on an inode.
func (n *inodeCheck) rest(g *check.Group) error {
	gone := n.needs.versions == 0 && !n.queued
	switch {
	case g.Has(schema.PrefixOrphan) && (n.needs.versions == 0 || n.newest != nil && n.newest.Deleted):
		n.r.Leak("orphan", n.name(), "it is listed as unlinked and open, and is not there")
	case n.needs.versions == 1 && n.newest != nil && n.newest.Deleted && !n.queued:
		n.r.Leak("tombstone", n.name(), "it is deleted, and nothing older of it is left to hide")
	case g.Has(schema.PrefixSymlink) && gone:
		n.r.Leak("inode-remains", n.name(), "there is the target of a symbolic link of it, and no version")
	case n.newest != nil && n.newest.Mode&ModeType == ModeLink && !n.newest.Deleted && !g.Has(schema.PrefixSymlink):
		n.r.Damage("symlink-target", n.name(), "it is a symbolic link without a target")
	}
	if gone && g.Has(schema.PrefixXattr) {
		n.r.Leak("inode-remains", n.name(), "there are extended attributes of it, and no version")
	}
	return g.Each(schema.PrefixXattr, func(k, v []byte) error {
		_, _, err := schema.ParseXattrKey(k)
		if err == nil {
			_, err = schema.DecodeXattr(v)
		}
		return n.corrupt(err)
	})
}
