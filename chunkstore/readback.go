package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"stepfs/chunkstore/pack"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// ReadBack reads a chunk from its pack, past the cache, and verifies it. It
// gives the chunk's bytes, in buf if they fit.
func (s *Store) ReadBack(ctx context.Context, id ID, buf []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	loc, _, err := s.locate(id)
	if errors.Is(err, state.ErrNotFound) {
		return nil, s.report(fmt.Errorf("%w: chunk %x is not in the index", ErrMissing, id))
	}
	if err != nil {
		return nil, err
	}
	if loc.Raw > pack.MaxRaw {
		return nil, s.report(fmt.Errorf("%w: chunk %x has %d bytes", ErrCorrupt, id, loc.Raw))
	}
	release, err := s.bring(ctx, id)
	if err != nil {
		return nil, err
	}
	defer release()
	dst := slices.Grow(buf[:0], int(loc.Raw))[:loc.Raw]
	err = s.reading(id, loc.Raw, func(loc schema.ChunkLoc, rec schema.PackRecord) error {
		return s.fetch(id, loc, rec, dst)
	})
	return dst, err
}
