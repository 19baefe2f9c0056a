package stage

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"stepfs/internal/check"
	"stepfs/internal/schema"
)

// deaths holds the versions that a newer one has superseded against the lists
// of deaths: each is listed once, or nothing will ever free it.
func (c *treeCheck) deaths() error {
	c.r.Done(0.8)
	superseded := func(yield func([]byte) error) error {
		for _, kind := range [...]byte{schema.PrefixInode, schema.PrefixDentry, schema.PrefixXattr} {
			var last []byte
			err := c.r.Each(c.ctx, []byte{kind}, func(k, _ []byte) error {
				if len(k) < 17 {
					return nil // said before
				}
				prefix := k[:len(k)-8]
				if bytes.Equal(prefix, last) {
					return yield(k)
				}
				last = append(last[:0], prefix...)
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
	return check.Compare(superseded, c.once(c.listed), func(k []byte) error {
		c.r.Leak("version-unlisted", versionName(k), "a newer version has taken its place, and no list of deaths names it")
		return nil
	}, func(k []byte) error {
		// A tombstone goes early, with what it hid, and all that hangs on an inode
		// goes with it; their deaths then come to nothing.
		if k[0] == schema.PrefixInode {
			c.r.Damage("death-dangling", versionName(k), "a list of deaths names it, and it is not there or not superseded")
		}
		return nil
	})
}

// listed checks the lists of deaths and yields what they name. What is listed
// behind a snapshot is freed once that is gone, and queued.
func (c *treeCheck) listed(r *check.Run, yield func(m []byte) error) error {
	last := uint64(0)
	return r.Each(c.ctx, []byte{schema.PrefixDeath}, func(k, _ []byte) error {
		if _, err := versionOf(k); err != nil {
			return r.Corrupt(fmt.Sprintf("key %x", k), err)
		}
		if kind := k[9]; kind != schema.PrefixInode && kind != schema.PrefixDentry && kind != schema.PrefixXattr {
			r.Damage("record", fmt.Sprintf("key %x", k), "a death of what has no versions")
		}
		seq := binary.BigEndian.Uint64(k[1:])
		if err := yield(k[9:]); err != nil || seq == last {
			return err
		}
		last = seq
		for _, kind := range [...]byte{schema.PrefixSnapshot, schema.PrefixExpired} {
			if ok, err := r.Has(schema.Numbered(kind, seq-1)); err != nil || ok {
				return err
			}
		}
		r.Leak("deaths-unqueued", fmt.Sprintf("snapshot %d", seq-1), "it is gone and not queued to be freed, and versions are listed behind it")
		return nil
	})
}

// versionName says which version a key is.
func versionName(k []byte) string {
	if len(k) < 17 {
		return fmt.Sprintf("key %x", k)
	}
	ino, seq := binary.BigEndian.Uint64(k[1:]), ^binary.BigEndian.Uint64(k[len(k)-8:])
	switch k[0] {
	case schema.PrefixInode:
		return fmt.Sprintf("inode %d, version %d", ino, seq)
	case schema.PrefixDentry:
		return fmt.Sprintf("entry %q of inode %d, version %d", k[9:len(k)-9], ino, seq)
	}
	return fmt.Sprintf("attribute %q of inode %d, version %d", k[9:len(k)-9], ino, seq)
}

// expired checks the queue of snapshots that are gone: nothing that is queued is
// a snapshot.
func (c *treeCheck) expired() error {
	c.r.Done(0.9)
	return c.r.Each(c.ctx, []byte{schema.PrefixExpired}, func(k, _ []byte) error {
		seq, err := schema.ParseNumbered(k)
		if err != nil {
			return c.r.Corrupt(fmt.Sprintf("key %x", k), err)
		}
		kept, err := c.r.Has(schema.Numbered(schema.PrefixSnapshot, seq))
		if kept {
			c.r.Damage("snapshot-expired", fmt.Sprintf("snapshot %d", seq), "it is there, and what it shows is about to be freed")
		}
		return err
	})
}
