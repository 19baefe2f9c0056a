package stage

import (
	"errors"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// What scrub needs of the tree: what the hot copy of a stored generation says
// its chunks are.

// CopyExtents gives the chunks of a generation that still has its own copy;
// nil: it has none.
func (t *Tree) CopyExtents(gen uint64) ([]schema.ChunkExtent, error) {
	hot, err := t.IsHot(gen)
	if err != nil || !hot {
		return nil, err
	}
	return t.chunkMap(gen)
}

// HotChunk fills dst from a generation's own copy, if it has one, where the chunk
// id lies in it, at off and whole. Nobody says that the copy is not damaged.
func (t *Tree) HotChunk(gen uint64, id [32]byte, off int64, dst []byte) bool {
	if hot, err := t.IsHot(gen); err != nil || !hot {
		return false
	}
	e, err := t.chunkAt(gen, off)
	if err != nil || e.ID != id || e.Off != off || e.Len != e.Raw || int(e.Raw) != len(dst) {
		return false
	}
	ok, err := t.ReadCopy(gen, dst, off)
	return ok && err == nil
}

// ReadCopy fills dst from a generation's own copy, never from chunks. ok is
// false when it has none.
func (t *Tree) ReadCopy(gen uint64, dst []byte, off int64) (ok bool, err error) {
	g, err := t.gens.get(gen)
	if errors.Is(err, state.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer t.gens.put(g)
	ok, err = t.gens.readOwn(g, dst, off)
	return ok && err == nil, err
}
