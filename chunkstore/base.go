package chunkstore

import (
	"errors"

	"stepfs/chunkstore/codec"
	"stepfs/chunkstore/pack"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// A chunk that changed since the version before is kept as the difference from
// an earlier version of itself, its base, where that takes less. What a base is
// for is bounded:
//
//   - Versions are counted in turns from one that has no base, which has turn 0.
//     The base of turn n is the one before, and of each fourth the one of n with
//     its lowest bit cleared: none takes more than 1 + log2 n bases. After
//     Config.Turns the count begins anew. Where little changes from version to
//     version, each is made from the one before, up to maxDepth: there a base from
//     further away costs most, and a delta is decoded fast.
//   - What is rounded from another file's chunk has that for its base, and turn 0.
//   - A base lies in a durable, readable pack that is not retiring, and pinned
//     until what is made from it is indexed. From then on the key (base, chunk)
//     keeps it.
//   - A base and what is made from it are of one naming (naming.go).
//   - A base is less deep than what is made from it. So nothing is made from
//     itself, and a reader comes to an end. What keeps this true: a chunk that
//     is stored again, or that others are made from, gets no base.
//
// Rejected: each version from the one before (the deepest takes all of them),
// each from the first (versions drift apart: see docs/ARCHITECTURE.md).

// maxDepth is how many versions a chunk is made from, one from the other;
// nearShare: little has changed where a delta takes less than that part of it.
const (
	maxDepth  = 8
	nearShare = 3
)

// base is what a chunk may be made from.
type base struct {
	link  pack.Base // as the chunk made from it has it
	plain *buffer   // its window
	info  *packInfo // its pack, pinned
	at    int64     // where a content that has the chunk may have it
	phase uint8     // as Piece has it
}

// hint is what is known of a chunk at an offset that may be made from b, or, if that
// is nil, from nothing.
func (b *base) hint(offset int64) codec.Hint {
	h := codec.Hint{Offset: offset}
	if b != nil && b.link.Wide {
		h.Width, h.Phase = 2, int(b.phase)
	}
	return h
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

// baseFor gives what a chunk may be made from that lies where piece does, or nil.
// Give it back by release, or leave its pin to a pack (packWriter.keep). Its
// bytes are those of the chunk that it names, wherever they come from.
func (s *Store) baseFor(piece Piece) *base {
	s.mu.Lock()
	b, err := s.pinBaseLocked(piece)
	s.mu.Unlock()
	if b == nil || err != nil {
		return nil // whatever is wrong there, the chunk can do without
	}
	if b.plain = s.copyOf(b, piece.Len); b.plain != nil {
		return b
	}
	if here, herr := s.Here(b.link.ID); !here || herr != nil {
		s.releaseBase(b) // ingest does not wait for the bucket
		return nil
	}
	if b.plain, err = s.baseBytes(piece.ID, b.link, piece.Len, true); err != nil {
		s.releaseBase(b)
		return nil
	}
	return b
}

// pinBaseLocked chooses the base among a piece's own and what that is made from.
func (s *Store) pinBaseLocked(piece Piece) (*base, error) {
	loc, err := s.getChunk(s.db, piece.ID)
	if err != nil {
		return nil, err
	}
	at, err := linkOf(loc)
	if err != nil || loc.Raw != piece.BaseRaw(piece.Len) {
		return nil, err
	}
	b := base{link: pack.Base{ID: piece.ID, Window: piece.Normal(piece.Len)}, at: piece.At, phase: piece.Phase}
	if !piece.Wide { // what is wide is no earlier version: the turns begin with it
		turn := int(at.Turn) + 1
		if turn >= s.cfg.Turns {
			return nil, nil
		}
		from := turn - 1
		if turn%4 == 0 && int64(loc.Stored)*nearShare >= int64(loc.Raw) {
			from &= turn
		}
		if at, err = s.turnBack(&b.link, at, piece.Len, from); err != nil {
			return nil, err
		}
		b.link.Turn = uint8(turn)
	}
	if int(at.Depth) >= pack.MaxDepth {
		return nil, nil
	}
	b.link.Depth = at.Depth + 1
	if b.info, err = s.usableLocked(b.link.ID); b.info == nil || err != nil {
		return nil, err
	}
	if s.isOlder(b.info) {
		return nil, nil // what is made from it could not leave
	}
	b.info.pins++
	return &b, nil
}

// turnBack has link, of n bytes, lead to a version of a turn, or of the last one
// before it, or further back if that is too deep. at is the link of the chunk that
// it leads to, and is given back so.
func (s *Store) turnBack(link *pack.Base, at pack.Base, n uint32, turn int) (pack.Base, error) {
	for at.Turn > 0 && (int(at.Turn) > turn || at.Depth >= maxDepth) {
		if int(at.Turn) <= turn {
			turn = int(at.Turn) & int(at.Turn-1)
		}
		window, ok := link.Over(at.Window, n)
		if !ok {
			return at, errNoBase
		}
		link.ID, link.Window = at.ID, window
		loc, err := s.getChunk(s.db, link.ID)
		if err != nil {
			return at, err
		}
		next, err := linkOf(loc)
		if err != nil || next.Depth >= at.Depth {
			return at, errors.Join(err, errNoBase)
		}
		at = next
	}
	return at, nil
}

// errNoBase says that a chunk has to do without.
var errNoBase = errors.New("no base")

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
	return info != nil && err == nil && !s.isOlder(info)
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
		if err != nil || under.Depth >= link.Depth || next.Raw != link.BaseRaw(loc.Raw) || s.damage.has(link.ID, next.Pack) {
			return false, nil
		}
		loc = next
	}
}
