package chunkstore

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// Sole adds up the payload bytes of those chunks of a holder that would be dead
// if all those holders ended that freed says yes to, this one among them. Each
// chunk is put down to the first of its holders alone, so that the sums of
// several holders add up. Packs of which it is not known what is dead give
// nothing back. A chunk that deltas are made from counts in full, though
// something has to take its place. ids may repeat. It costs a look-up or two a chunk.
func (s *Store) Sole(holder uint64, ids [][32]byte, freed func(holder uint64) bool) (bytes int64, err error) {
	it, err := s.db.NewIter(schema.ChunkRefBounds())
	if err != nil {
		return 0, err
	}
	defer it.Close()
	seen := make(map[ID]struct{}, len(ids))
	for _, id := range ids {
		if _, again := seen[id]; again {
			continue
		}
		seen[id] = struct{}{}
		n, err := s.soleBytes(it, id, holder, freed)
		if err != nil {
			return 0, fmt.Errorf("who holds chunk %x: %w", id, err)
		}
		bytes += n
	}
	return bytes, nil
}

func (s *Store) soleBytes(it *pebble.Iterator, id ID, holder uint64, freed func(uint64) bool) (int64, error) {
	first := true
	err := s.eachHolder(it, id, func(h uint64) (more bool) {
		sole := !first || h == holder
		if first = false; !sole || !freed(h) {
			holder = 0 // none
		}
		return holder != 0
	})
	if err != nil || first || holder == 0 {
		return 0, err
	}
	loc, err := s.getChunk(s.db, id)
	if errors.Is(err, state.ErrNotFound) || err == nil && !s.collectable(loc.Pack) {
		return 0, nil
	}
	return int64(loc.Stored), err
}

// eachHolder calls fn for each holder of a chunk, in their order, until it says
// to stop.
func (s *Store) eachHolder(it *pebble.Iterator, id ID, fn func(holder uint64) (more bool)) error {
	prefix := schema.ChunkRefPrefix(s.cfg.Domain, id)
	for ok := it.SeekGE(prefix); ok; ok = it.Next() {
		domain, of, holder, err := schema.ParseChunkRefKey(it.Key())
		if err != nil {
			return err
		}
		if domain != s.cfg.Domain || of != id || !fn(holder) {
			break
		}
	}
	return it.Error()
}

// Watch has fn told when an answer of Sole may have changed: of the holder that
// begins or ceases to hold chunks, and, of each of those that others hold as
// well, of the first of those others. (A chunk is nobody else's but a set of
// holders' only if the first of its holders is in the set.) fn is called under
// the engine's ordering lock, before the transaction is applied, and calls
// nothing.
func (s *Store) Watch(fn func(holder uint64)) { s.watch.Store(&fn) }

// touched tells of a holder.
func (s *Store) touched(holder uint64) {
	if fn := s.watch.Load(); fn != nil {
		(*fn)(holder)
	}
}

// touchedOther tells of the first holder that a chunk has, or keeps, besides one.
func (l *ledger) touchedOther(it *pebble.Iterator, id ID, besides uint64) error {
	if l.s.watch.Load() == nil {
		return nil
	}
	return l.s.eachHolder(it, id, func(h uint64) (more bool) {
		there, changed := l.refs[ref{id, h}]
		if more = h == besides || changed && !there; !more {
			l.s.touched(h)
		}
		return more
	})
}
