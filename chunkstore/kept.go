package chunkstore

import (
	"errors"

	"stepfs/chunkstore/pack"
	"stepfs/internal/state"
)

// How a chunk is kept.
const (
	KeptRaw    = "raw"
	KeptZstd   = "zstd"
	KeptPlanes = "planes"
	KeptDelta  = "delta"
)

var keptAs = map[pack.Encoding]string{pack.EncRaw: KeptRaw, pack.EncZstd: KeptZstd, pack.EncPlanes: KeptPlanes, pack.EncDelta: KeptDelta}

// Kept says how a chunk is kept now, and what its payload takes; ErrMissing: the
// index does not know it.
func (s *Store) Kept(id ID) (as string, stored int64, err error) {
	loc, err := s.getChunk(s.db, id)
	if errors.Is(err, state.ErrNotFound) {
		return "", 0, ErrMissing
	}
	return keptAs[pack.Encoding(loc.Enc)], int64(loc.Stored), err
}
