package chunkstore

import "stepfs/chunkstore/pack"

// maxCopies is how many of a chunk's holders are asked for its bytes.
const maxCopies = 4

// Copies has fn asked for the bytes of a base before they are decoded, which
// takes much longer: fn fills dst with what holder has of the chunk id, of
// len(dst) bytes, at off of its content, outside of packs, or says that it has
// nothing there. What it gives counts only if it has the chunk's name.
func (s *Store) Copies(fn func(holder uint64, id [32]byte, off int64, dst []byte) bool) {
	s.copies.Store(&fn)
}

// copyOf is baseBytes of what the holders of a base have where it may lie. It gives
// nil if that is not the base.
func (s *Store) copyOf(b *base, rawLen uint32) *buffer {
	ask, n := s.copies.Load(), b.link.BaseRaw(rawLen)
	if ask == nil || n > pack.MaxRaw || b.link.Size(rawLen) > pack.MaxRaw {
		return nil
	}
	holders, err := s.Holders(b.link.ID, maxCopies)
	if err != nil {
		return nil // the pack has it, too
	}
	whole := s.buffers.get(int(n))
	for _, h := range holders {
		if (*ask)(h, b.link.ID, b.at, whole.bytes) && s.named(whole.bytes, b.link.ID) {
			s.counters.hotBases.Add(uint64(n))
			return s.window(b.link, whole, rawLen)
		}
	}
	s.buffers.put(whole)
	return nil
}
