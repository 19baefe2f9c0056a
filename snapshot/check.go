package snapshot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"stepfs/internal/check"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// Check looks whether the records of snapshots, their names, their slots and
// what holds the objects of their trees agree. It gives the number of
// snapshots. An error says that it could not look; findings go to r.
func Check(ctx context.Context, r *check.Run) (snapshots uint64, err error) {
	c := &checker{r: r, ctx: ctx}
	for k, step := range [...]func() error{c.snapshots, c.names, c.slots, c.slotsOf, c.trees} {
		r.Done(float64(k) / 5)
		if err := step(); err != nil {
			return c.count, fmt.Errorf("check snapshots: %w", err)
		}
	}
	return c.count, nil
}

type checker struct {
	r     *check.Run
	ctx   context.Context
	count uint64
	old   bool // the store is older than references: its first steps have none
}

func snapName(seq uint64) string { return fmt.Sprintf("snapshot %d", seq) }

// snapshot reads a record; nil: there is none. unread: there is one that can't
// be read, which is said by snapshots.
func (c *checker) snapshot(seq uint64) (s *schema.Snapshot, unread bool, err error) {
	v, err := c.r.View.Get(schema.Numbered(schema.PrefixSnapshot, seq))
	if errors.Is(err, state.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	s, err = schema.DecodeSnapshot(v)
	if errors.Is(err, schema.ErrCorrupt) {
		return nil, true, nil
	}
	return s, false, err
}

// number reads a value that is a number; ok: there is one.
func (c *checker) number(key []byte) (n uint64, ok bool, err error) {
	v, err := c.r.View.Get(key)
	if errors.Is(err, state.ErrNotFound) {
		return 0, false, nil
	}
	if err == nil {
		n, err = schema.ParseCounter(v)
	}
	if err != nil {
		return 0, false, c.r.Corrupt(fmt.Sprintf("key %x", key), err)
	}
	return n, true, nil
}

// snapshots checks each record.
func (c *checker) snapshots() error {
	epoch, known, err := c.number(schema.MetaKey(schema.MetaEpoch))
	if err != nil {
		return err
	}
	from, _, err := c.number(schema.MetaKey(schema.MetaRefsFrom))
	if err != nil {
		return err
	}
	c.old = from > 1
	return c.r.Each(c.ctx, []byte{schema.PrefixSnapshot}, func(k, v []byte) error {
		seq, s, err := snapshotAt(k, v)
		if err != nil {
			return c.r.Corrupt(fmt.Sprintf("snapshot %x", k[1:]), err)
		}
		c.count++
		if known && seq >= epoch {
			c.r.Damage("snapshot-number", snapName(seq), "the next cut has the number %d", epoch)
		}
		if s.Name != "" {
			if ok, err := c.r.Has(schema.NameKey(s.Scope, s.Name, seq)); err != nil {
				return err
			} else if !ok {
				c.r.Damage("name-missing", snapName(seq), "it is %q in scope %q, and no name leads to it", s.Name, s.Scope)
			}
		}
		return c.tree(seq, s)
	})
}

// tree checks that a stored step holds its root, and is not about to give it up.
func (c *checker) tree(seq uint64, s *schema.Snapshot) error {
	holder := schema.TreeHolder(seq)
	leaving, err := c.r.Has(schema.Numbered(schema.PrefixDeadHold, holder))
	if err != nil {
		return err
	}
	if leaving {
		c.r.Damage("tree-leaving", snapName(seq), "the objects of its tree are about to be given up, and it is still there")
	}
	if s.Tree == [32]byte{} {
		return nil
	}
	held, err := c.r.Has(schema.TreeRefKey(holder, s.Tree))
	if err == nil && !held && !c.old {
		c.r.Damage("tree-missing", snapName(seq), "it does not hold the root of its tree, %x", s.Tree)
	}
	return err
}

// names checks that each name leads to a snapshot of that name.
func (c *checker) names() error {
	return c.r.Each(c.ctx, []byte{schema.PrefixName}, func(k, v []byte) error {
		scope, name, seq, err := schema.ParseNameKey(k)
		if err != nil {
			return c.r.Corrupt(fmt.Sprintf("key %x", k), err)
		}
		object := fmt.Sprintf("name %q in scope %q", name, scope)
		s, unread, err := c.snapshot(seq)
		switch {
		case err != nil || unread:
			return err
		case s == nil:
			c.r.Damage("name-dangling", object, "it leads to snapshot %d, which is not there", seq)
		case s.Scope != scope || s.Name != name:
			c.r.Damage("name-dangling", object, "it leads to snapshot %d, which is %q in scope %q", seq, s.Name, s.Scope)
		case len(v) > 0 && v[0] != s.NameFlags()[0]: // empty in stores from before there were flags
			c.r.Damage("name-flags", object, "it says %d of snapshot %d, whose record says %d", v[0], seq, s.NameFlags()[0])
		}
		return nil
	})
}

// slots checks that each slot is that of a snapshot which says the same.
func (c *checker) slots() error {
	next, known, err := c.number(schema.MetaKey(schema.MetaSlot))
	if err != nil {
		return err
	}
	return c.r.Each(c.ctx, []byte{schema.PrefixSlot}, func(k, v []byte) error {
		slot, err := schema.ParseNumbered(k)
		var seq uint64
		if err == nil {
			seq, err = schema.ParseCounter(v)
		}
		if err != nil {
			return c.r.Corrupt(fmt.Sprintf("key %x", k), err)
		}
		object := fmt.Sprintf("slot %d", slot)
		if !known || slot >= next {
			c.r.Damage("slot-number", object, "slots from %d on are about to be given out again", next)
		}
		back, ok, err := c.number(schema.Numbered(schema.PrefixSlotOf, seq))
		if err == nil && (!ok || back != slot) {
			c.r.Damage("slot", object, "it shows snapshot %d, whose slot is another one", seq)
		}
		return err
	})
}

// slotsOf checks that each snapshot that has a slot is there, and is shown by it.
func (c *checker) slotsOf() error {
	return c.r.Each(c.ctx, []byte{schema.PrefixSlotOf}, func(k, v []byte) error {
		seq, err := schema.ParseNumbered(k)
		var slot uint64
		if err == nil {
			slot, err = schema.ParseCounter(v)
		}
		if err != nil {
			return c.r.Corrupt(fmt.Sprintf("key %x", k), err)
		}
		back, ok, err := c.number(schema.Numbered(schema.PrefixSlot, slot))
		if err != nil {
			return err
		}
		if !ok || back != seq {
			c.r.Damage("slot", snapName(seq), "its slot is %d, which shows another one", slot)
		}
		there, err := c.r.Has(schema.Numbered(schema.PrefixSnapshot, seq))
		if err == nil && !there {
			c.r.Leak("slot-unused", snapName(seq), "it has slot %d, and is not there", slot)
		}
		return err
	})
}

// trees checks that whoever holds objects is a snapshot with a tree, or is
// queued to give them up.
func (c *checker) trees() error {
	last := uint64(0)
	return c.r.Each(c.ctx, []byte{schema.PrefixTreeRef}, func(k, _ []byte) error {
		if len(k) != 9+32 {
			c.r.Damage("record", fmt.Sprintf("key %x", k), "an object of a tree")
			return nil
		}
		holder := binary.BigEndian.Uint64(k[1:])
		if holder == last {
			return nil
		}
		last = holder
		leaving, err := c.r.Has(schema.Numbered(schema.PrefixDeadHold, holder))
		if err != nil || leaving {
			return err
		}
		seq := holder &^ (1 << 63)
		s, unread, err := c.snapshot(seq)
		if err == nil && !unread && (s == nil || s.Tree == [32]byte{}) {
			c.r.Leak("tree-unused", snapName(seq), "objects of its tree are held, and it has none")
		}
		return err
	})
}
