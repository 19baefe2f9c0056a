package stage

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// memChunks is a chunk store of fixed-size chunks in memory: enough to test
// the swap from staged to stored without the packages above.
type memChunks struct {
	mu  sync.Mutex
	all map[[32]byte][]byte
}

func newMemChunks() *memChunks { return &memChunks{all: map[[32]byte][]byte{}} }

func (c *memChunks) ReadChunk(_ context.Context, id [32]byte, raw uint32, dst []byte, off int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, ok := c.all[id]
	if !ok || len(b) != int(raw) {
		return fmt.Errorf("no chunk %x of %d bytes", id, raw)
	}
	copy(dst, b[off:])
	return nil
}

// AnyDamaged: a chunk that is gone is known to be.
func (c *memChunks) AnyDamaged(ids [][32]byte) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		if c.all[id] == nil {
			return true, nil
		}
	}
	return false, nil
}

// holdKey stands for a generation's hold on a chunk.
func holdKey(gen uint64, id [32]byte) []byte {
	return append(schema.Numbered(schema.PrefixChunkRef, gen), id[:]...)
}

func (c *memChunks) Hold(tx *state.Tx, gen uint64, ids [][32]byte) error {
	for _, id := range ids {
		tx.Put(holdKey(gen, id), nil)
	}
	return nil
}

func (c *memChunks) Drop(tx *state.Tx, gen uint64, ids [][32]byte) error {
	for _, id := range ids {
		tx.Delete(holdKey(gen, id))
	}
	return nil
}

func (c *memChunks) Sole(uint64, [][32]byte, func(uint64) bool) (int64, error) { return 0, nil }
func (c *memChunks) Prefetch([32]byte, uint32) bool                            { return false }
func (c *memChunks) Watch(func(uint64))                                        {}

// storeAll ingests all that waits.
func (c *memChunks) storeAll(t *Tree) error {
	for {
		var f *Frozen
		if err := t.Pending(func(p *Frozen) bool { f = p; return false }); err != nil || f == nil {
			return err
		}
		if err := c.store(f); err != nil {
			return err
		}
	}
}

func (c *memChunks) store(f *Frozen) error {
	if err := f.Settle(); err != nil {
		return err
	}
	segs, err := f.Segments()
	if err != nil {
		return err
	}
	var es []schema.ChunkExtent
	for _, s := range segs {
		for off := s.Off; off < s.Off+s.Len; off += 300000 {
			b := make([]byte, min(300000, s.Off+s.Len-off))
			if _, err := f.ReadAt(b, off); err != nil {
				return err
			}
			id := sha256.Sum256(b)
			c.mu.Lock()
			c.all[id] = b
			c.mu.Unlock()
			es = append(es, schema.ChunkExtent{Off: off, Len: uint32(len(b)), Raw: uint32(len(b)), ID: id})
		}
	}
	return f.Store(context.Background(), es, "")
}
