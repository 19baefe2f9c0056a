package chunkstore

// maxCopies is how many of a chunk's holders are asked for its bytes.
const maxCopies = 4

// Copies has fn asked for the bytes of a base before they are decoded, which
// takes much longer: fn fills dst with what holder has of the chunk id, of
// len(dst) bytes, at off of its content, outside of packs, or says that it has
// nothing there. What it gives counts only if it has the chunk's name.
func (s *Store) Copies(fn func(holder uint64, id [32]byte, off int64, dst []byte) bool) {
	s.copies.Store(&fn)
}

// copyOf gives the bytes of a chunk that may lie at off in what its holders have,
// verified, or nil.
func (s *Store) copyOf(id ID, n uint32, off int64) *buffer {
	ask := s.copies.Load()
	if ask == nil {
		return nil
	}
	holders, err := s.Holders(id, maxCopies)
	if err != nil {
		return nil // the pack has it, too
	}
	b := s.buffers.get(int(n))
	for _, h := range holders {
		if (*ask)(h, id, off, b.bytes) && s.name(b.bytes) == id {
			s.counters.hotBases.Add(uint64(n))
			return b
		}
	}
	s.buffers.put(b)
	return nil
}
