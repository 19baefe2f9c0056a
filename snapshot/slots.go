package snapshot

import (
	"errors"
	"fmt"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// Slot gives the number under which a snapshot's nodes are shown, the same
// one for ever, giving one out at the first call.
func (r *Registry) Slot(seq uint64) (uint32, error) {
	n, err := r.number(schema.Numbered(schema.PrefixSlotOf, seq))
	if err == nil || !errors.Is(err, state.ErrNotFound) {
		return uint32(n), err
	}
	_, err = r.db.Update(schema.KindRegistry, func(tx *state.Tx) error {
		if n, err = r.number(schema.Numbered(schema.PrefixSlotOf, seq)); err == nil {
			return nil // another caller was first
		}
		if _, err = tx.Get(schema.Numbered(schema.PrefixSnapshot, seq)); err != nil {
			return ErrNotExist // expired meanwhile: nobody would remove its slot
		}
		n, err = r.number(schema.MetaKey(schema.MetaSlot))
		if errors.Is(err, state.ErrNotFound) {
			n, err = 1, nil
		}
		if err != nil {
			return err
		}
		if n > maxSlot {
			return errSlots
		}
		tx.Put(schema.MetaKey(schema.MetaSlot), schema.Counter(n+1))
		tx.Put(schema.Numbered(schema.PrefixSlotOf, seq), schema.Counter(n))
		tx.Put(schema.Numbered(schema.PrefixSlot, n), schema.Counter(seq))
		return nil
	})
	return uint32(n), err
}

// maxSlot is the highest slot: 22 bits of an inode number under snapshots/.
const maxSlot = 1<<22 - 1

var errSlots = fmt.Errorf("%d snapshots have been looked into: no inode numbers are left for more", maxSlot)

// BySlot is the inverse of Slot.
func (r *Registry) BySlot(slot uint32) (Info, error) {
	seq, err := r.number(schema.Numbered(schema.PrefixSlot, uint64(slot)))
	if errors.Is(err, state.ErrNotFound) {
		return Info{}, ErrNotExist
	}
	if err != nil {
		return Info{}, err
	}
	return r.Get(seq)
}

func (r *Registry) number(key []byte) (uint64, error) {
	v, err := r.db.Get(key)
	if err != nil {
		return 0, err
	}
	return schema.ParseCounter(v)
}

// dropSlot removes the slot of a snapshot. Its number is not given out again:
// the kernel may still know inodes by it.
func (m *Manager) dropSlot(tx *state.Tx, seq uint64) error {
	slotOf := schema.Numbered(schema.PrefixSlotOf, seq)
	slot, err := m.number(slotOf)
	if errors.Is(err, state.ErrNotFound) {
		return nil // nobody ever looked at it
	}
	if err != nil {
		return err
	}
	tx.Delete(slotOf)
	tx.Delete(schema.Numbered(schema.PrefixSlot, slot))
	return nil
}
