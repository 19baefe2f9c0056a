package chunkstore

import (
	"errors"

	"stepfs/chunkstore/pack"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// What an eviction left behind: stubs, and records that say that the bucket has the
// pack (evict.go).

// whereIs says where the file of a pack is.
type whereIs int

const (
	isLost whereIs = iota
	isHere
	isAway
	isGone // lost, but the bucket has it
)

// place says where the file of an indexed pack is. One that is in the bucket is
// away; if it was not evicted, that is damage all the same.
func (s *Store) place(name pack.Name, files map[pack.Name]whereIs) (whereIs, error) {
	if files[name] == isHere {
		return isHere, nil
	}
	up, err := uploadOf(s.db, name)
	switch {
	case err != nil:
		return isLost, err
	case up != nil && up.State == schema.UploadOnly:
		return isAway, nil
	case files[name] == isAway: // an index that is older than the eviction
		if err = s.noteStub(name); errors.Is(err, pack.ErrFormat) {
			return isLost, nil
		}
		return isAway, err
	case up != nil && up.State >= schema.UploadArrived:
		return isGone, nil
	}
	return isLost, nil
}

// noteStub records what a stub says of where its pack is, unless the index knows.
func (s *Store) noteStub(name pack.Name) error {
	b, err := readStub(s.fs, s.dir, name)
	if err != nil {
		return err
	}
	rec := b.record()
	up, err := uploadOf(s.db, name)
	if err != nil {
		return err
	}
	if up != nil && up.State >= schema.UploadArrived {
		rec.Writer, rec.Seq = up.Writer, up.Seq
	}
	return s.change(func(tx *state.Tx) { tx.Put(schema.PackUploadKey(name), rec.Encode()) })
}

func (s *Store) anyAway() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.totals.awayPacks > 0
}
