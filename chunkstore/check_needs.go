package chunkstore

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"stepfs/internal/check"
	"stepfs/internal/schema"
)

// Who needs what is damaged is looked up for many findings at once: the files that
// hold a chunk are asked once where they have it, and once who reads those places. So
// it costs what is damaged, and what holds that, however many findings that makes;
// and it takes no more memory than there are findings and places in one batch.
const (
	needsBatch  = 256     // findings
	needsPlaces = 1 << 16 // chunks, and holders of chunks
)

// found passes a finding on, with the files that need what it is about. Those of
// chunks wait for others, and those of whole packs for the end: which chunks are in
// a pack only a walk over the index can tell.
func (c *checker) found(f check.Finding) {
	c.one.Lock()
	defer c.one.Unlock()
	if f.Kind != check.Damage {
		c.out(f)
		return
	}
	if number, whole := ofPack(f); whole {
		c.lost = append(c.lost, lostPack{number: number, f: f})
		return
	}
	id, ok := chunkOf(f.Object)
	if !ok || c.opts.Holders == nil {
		c.out(f)
		return
	}
	if c.lost = append(c.lost, lostPack{id: id, chunk: true, f: f}); len(c.lost) >= needsBatch {
		c.chunksLost()
	}
}

// lostPack is a finding that concerns a chunk, or all that is in a pack.
type lostPack struct {
	number uint64
	id     ID
	chunk  bool
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

// chunksLost reports what was found of chunks so far.
func (c *checker) chunksLost() {
	l := c.newLookup()
	var packs, chunks []lostPack
	for _, p := range c.lost {
		if p.chunk {
			chunks = append(chunks, p)
		} else {
			packs = append(packs, p)
		}
	}
	for k := range chunks {
		l.add(chunks[k].id, &chunks[k].f.Needs)
	}
	l.end()
	for _, p := range chunks {
		c.out(p.f)
	}
	c.lost = packs
}

// losses reports what is left, of chunks and of whole packs: one walk over the index
// for all of these.
func (c *checker) losses(ctx context.Context) error {
	c.chunksLost()
	byNumber := map[uint64]*check.Needs{}
	for _, l := range c.lost {
		byNumber[l.number] = &check.Needs{}
	}
	if len(c.lost) > 0 && c.opts.Holders != nil {
		l := c.newLookup()
		err := c.r.Each(ctx, []byte{schema.PrefixChunk}, func(k, v []byte) error {
			loc, err := schema.DecodeChunkLoc(v)
			if err != nil || len(k) != 5+len(ID{}) {
				return nil // said before
			}
			if n := byNumber[loc.Pack]; n != nil {
				l.add(ID(k[5:]), n)
			}
			return nil
		})
		if err != nil {
			return err
		}
		l.end()
	}
	for _, l := range c.lost {
		l.f.Needs = *byNumber[l.number]
		c.out(l.f)
	}
	return nil
}

// lookup finds out who needs chunks. What can be found is found: where the index is
// damaged, that may be nobody.
type lookup struct {
	*checker
	want    map[ID][]*check.Needs
	holders map[uint64]map[ID]struct{}
	pairs   int
}

func (c *checker) newLookup() *lookup {
	return &lookup{checker: c, want: map[ID][]*check.Needs{}, holders: map[uint64]map[ID]struct{}{}}
}

// add asks for a chunk.
func (l *lookup) add(id ID, n *check.Needs) {
	if n.Full() || slices.Contains(l.want[id], n) {
		return
	}
	if len(l.want) >= needsPlaces {
		l.end()
	}
	_, known := l.want[id]
	l.want[id] = append(l.want[id], n)
	if known {
		return
	}
	prefix := schema.ChunkRefPrefix(l.cfg.Domain, id)
	it, err := l.r.View.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		_, _, holder, err := schema.ParseChunkRefKey(it.Key())
		if err != nil {
			return
		}
		if l.holders[holder] == nil {
			l.holders[holder] = map[ID]struct{}{}
		}
		l.holders[holder][id] = struct{}{}
		if l.pairs++; l.pairs >= needsPlaces {
			l.ask()
		}
	}
}

// ask finds out who needs what is held by the holders so far.
func (l *lookup) ask() {
	at := map[*check.Needs]check.Places{}
	for holder, ids := range l.holders {
		_ = l.opts.Holders.Places(holder,
			func(id [32]byte) bool { _, asked := ids[id]; return asked },
			func(id [32]byte, p check.Place) {
				for _, n := range l.want[id] {
					if at[n] == nil {
						at[n] = check.Places{}
					}
					at[n][holder] = append(at[n][holder], p)
				}
			})
	}
	for n, places := range at {
		_ = l.opts.Holders.Needs(places, n)
	}
	clear(l.holders)
	l.pairs = 0
}

func (l *lookup) end() {
	l.ask()
	clear(l.want)
}
