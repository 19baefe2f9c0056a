package chunkstore

import (
	"errors"

	"stepfs/chunkstore/pack"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// A chunk that changed since the version before is kept as the difference from
// an earlier version of itself, its base, where that takes less. What a base is
// for is bounded:
//
//   - Versions are counted in turns from one that has no base, which has turn 0.
//     The base of turn n is the one of n with its lowest bit cleared: half of
//     all versions are made from the one before them, and none takes more than
//     log2 n bases. After Config.Turns the count begins anew.
//   - A base lies in a durable, readable pack that is not retiring, and pinned
//     until what is made from it is indexed. From then on the key (base, chunk)
//     keeps it.
//   - A base is less deep than what is made from it. So nothing is made from
//     itself, and a reader comes to an end. What keeps this true: a chunk that
//     is stored again, or that others are made from, gets no base.
//
// Rejected: each version from the one before (the deepest takes all of them),
// each from the first (versions drift apart: see docs/ARCHITECTURE.md).

// base is what a chunk may be made from.
type base struct {
	link  pack.Base // as the chunk made from it has it
	plain *buffer
	info  *packInfo // its pack, pinned
}

// content gives the bytes of a base, which may be nil.
func (b *base) content() []byte {
	if b == nil {
		return nil
	}
	return b.plain.content()
}

// linkOf gives the base of a chunk where it lies; depth and turn 0: it has none.
func linkOf(loc schema.ChunkLoc) (pack.Base, error) {
	if pack.Encoding(loc.Enc) != pack.EncDelta {
		return pack.Base{}, nil
	}
	return pack.ParseBase(loc.Ext)
}

// baseFor gives what a new version of the chunk prior may be made from, or nil.
// Give it back by release, or leave its pin to a pack (packWriter.keep). Its
// bytes have its name, wherever they come from.
func (s *Store) baseFor(prior Ref) *base {
	s.mu.Lock()
	b, err := s.pinBaseLocked(prior.ID, prior.Len)
	s.mu.Unlock()
	if b == nil || err != nil {
		return nil // whatever is wrong there, the chunk can do without
	}
	if b.plain = s.copyOf(b.link.ID, prior.Len, prior.Off); b.plain != nil {
		return b
	}
	if b.plain, err = s.baseBytes(prior.ID, b.link, prior.Len, true); err != nil {
		s.releaseBase(b)
		return nil
	}
	return b
}

// pinBaseLocked chooses the base among prior and what prior is made from.
func (s *Store) pinBaseLocked(prior ID, n uint32) (*base, error) {
	loc, err := s.getChunk(s.db, prior)
	if err != nil {
		return nil, err
	}
	link, err := linkOf(loc)
	if err != nil || loc.Raw != n {
		return nil, err
	}
	turn := int(link.Turn) + 1
	if turn >= s.cfg.Turns {
		return nil, nil
	}
	id, at := prior, link
	for int(at.Turn) > turn&(turn-1) {
		id = at.ID
		if loc, err = s.getChunk(s.db, id); err != nil {
			return nil, err
		}
		next, err := linkOf(loc)
		if err != nil || next.Depth >= at.Depth {
			return nil, err
		}
		at = next
	}
	if int(at.Depth) >= pack.MaxDepth {
		return nil, nil
	}
	info, err := s.usableLocked(id)
	if info == nil || err != nil {
		return nil, err
	}
	info.pins++
	return &base{link: pack.Base{ID: id, Depth: at.Depth + 1, Turn: uint8(turn)}, info: info}, nil
}

// releaseBase gives up a base, which may be nil.
func (s *Store) releaseBase(b *base) {
	if b == nil {
		return
	}
	s.buffers.put(b.plain)
	b.plain = nil
	s.mu.Lock()
	defer s.mu.Unlock()
	if b.info != nil {
		b.info.pins--
		b.info = nil
	}
}

// keep leaves the pin of a base to the pack, until that is indexed.
func (pw *packWriter) keep(b *base) {
	pw.s.mu.Lock()
	defer pw.s.mu.Unlock()
	pw.bases = append(pw.bases, b.info)
	b.info = nil
}

// mayHaveBase says whether a chunk that is about to be stored may have a base.
func (s *Store) mayHaveBase(id ID) (bool, error) {
	if _, err := s.db.Get(schema.ChunkKey(s.cfg.Domain, id)); !errors.Is(err, state.ErrNotFound) {
		return false, err
	}
	prefix := schema.ChunkBasePrefix(s.cfg.Domain, id)
	it, err := s.db.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return false, err
	}
	made := it.First()
	return !made, errors.Join(it.Error(), it.Close())
}

// has says whether a chunk need not be stored, as far as can be said now.
func (s *Store) has(id ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.inflight[id] != nil {
		return true
	}
	info, err := s.usableLocked(id)
	return info != nil && err == nil
}

// readable says whether what a chunk is made from is there, all the way down.
func (s *Store) readable(loc schema.ChunkLoc) (bool, error) {
	for {
		link, err := linkOf(loc)
		if err != nil || link.Depth == 0 {
			return err == nil, nil
		}
		next, err := s.getChunk(s.db, link.ID)
		if errors.Is(err, state.ErrNotFound) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		under, err := linkOf(next)
		if err != nil || under.Depth >= link.Depth || next.Raw != loc.Raw || s.damage.has(link.ID, next.Pack) {
			return false, nil
		}
		loc = next
	}
}
