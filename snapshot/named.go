package snapshot

import (
	"context"
	"errors"
	"fmt"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// nameOld notes of the packs of steps that are published already that refs name
// them: a store that published before packs could be evicted did not note that, and
// nothing of those steps would ever go. It is done once.
func (c *packCache) nameOld(ctx context.Context) error {
	up := c.m.cfg.Uploads
	if c.named || up == nil {
		return nil
	}
	if _, attached := up.Writer(); !attached {
		return nil // then nothing is evicted either
	}
	mark := schema.MetaKey(schema.MetaNamed)
	_, err := c.m.db.Get(mark)
	if err == nil || !errors.Is(err, state.ErrNotFound) {
		c.named = err == nil
		return err
	}
	refs, err := c.m.refUploads()
	if err != nil {
		return err
	}
	for _, r := range refs {
		if err := up.NameOld(ctx, r.Writer, r.Seq); err != nil {
			return fmt.Errorf("find what published steps need: %w", err)
		}
	}
	_, err = c.m.db.Update(schema.KindUpload, func(tx *state.Tx) error {
		tx.Put(mark, schema.Counter(1))
		return nil
	})
	c.named = err == nil
	return err
}

// refUploads gives the refs of steps that have arrived.
func (m *Manager) refUploads() (refs []schema.RefUpload, err error) {
	it, err := m.db.NewIter([]byte{schema.PrefixRefUpload}, []byte{schema.PrefixRefUpload + 1})
	if err != nil {
		return nil, err
	}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		var r schema.RefUpload
		if r, err = schema.DecodeRefUpload(it.Value()); err == nil && !r.Barrier {
			refs = append(refs, r)
		}
	}
	return refs, errors.Join(err, it.Error(), it.Close())
}
