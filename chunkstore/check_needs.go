package chunkstore

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"stepfs/internal/check"
	"stepfs/internal/schema"
)

// found passes a finding on, with the files that need what it is about. What
// is found of a whole pack waits for lost, which looks for the chunks of all
// such packs at once.
func (c *checker) found(f check.Finding) {
	c.one.Lock()
	defer c.one.Unlock()
	if f.Kind != check.Damage {
		c.out(f)
		return
	}
	if number, whole := ofPack(f); whole {
		c.lost = append(c.lost, lostPack{number, f})
		return
	}
	if id, ok := chunkOf(f.Object); ok {
		// A finding stands for itself: where the index is damaged, nobody may be found.
		var needs check.Needs
		if c.needs(id, &needs) == nil {
			f.Needs = needs
		}
	}
	c.out(f)
}

// lostPack is a finding that concerns all that is in a pack.
type lostPack struct {
	number uint64
	f      check.Finding
}

func ofPack(f check.Finding) (number uint64, ok bool) {
	switch f.What {
	case "pack-missing", "pack-unreadable", "pack-size", "pack-record-missing":
		_, err := fmt.Sscanf(f.Object, "pack %d", &number)
		return number, err == nil
	}
	return 0, false
}

// chunkOf is the inverse of chunkName.
func chunkOf(object string) (id ID, ok bool) {
	s, ok := strings.CutPrefix(object, "chunk ")
	b, err := hex.DecodeString(s)
	if !ok || err != nil || len(b) != len(id) {
		return id, false
	}
	return ID(b), true
}

// needs adds the files that need a chunk.
func (c *checker) needs(id ID, n *check.Needs) (err error) {
	if c.opts.Holders == nil {
		return nil
	}
	prefix := schema.ChunkRefPrefix(c.cfg.Domain, id)
	it, err := c.r.View.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok && !n.Full(); ok = it.Next() {
		_, _, holder, err := schema.ParseChunkRefKey(it.Key())
		if err != nil {
			return err
		}
		if err := c.opts.Holders.Needs(holder, id, n); err != nil {
			return err
		}
	}
	return it.Error()
}

// losses reports what was found of whole packs. Which chunks are in them only
// the index can tell: one walk over it for all.
func (c *checker) losses(ctx context.Context) error {
	byNumber := map[uint64]*check.Needs{}
	for _, l := range c.lost {
		byNumber[l.number] = &check.Needs{}
	}
	if len(c.lost) > 0 {
		err := c.r.Each(ctx, []byte{schema.PrefixChunk}, func(k, v []byte) error {
			loc, err := schema.DecodeChunkLoc(v)
			if err != nil || len(k) != 5+len(ID{}) {
				return nil // said before
			}
			if n := byNumber[loc.Pack]; n != nil && !n.Full() {
				_ = c.needs(ID(k[5:]), n) // what can be found is found
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for _, l := range c.lost {
		l.f.Needs = *byNumber[l.number]
		c.out(l.f)
	}
	return nil
}
