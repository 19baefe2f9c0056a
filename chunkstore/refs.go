package chunkstore

import (
	"errors"
	"fmt"

	"stepfs/internal/state"
)

var errNoHolder = errors.New("0 is no holder of chunks")

// Hold says that holder needs these chunks, and Drop that it no longer does:
// what nobody holds is dead, and Collect removes it. A holder is a number that
// its owner chooses (a generation; a snapshot's with bit 63 set); 0 is none.
//
// Both belong into the transaction that makes, or removes, what refers to the
// chunks, so that pointer and reference change in one record. They may be
// called any number of times in one, with any holders; ids may repeat; to hold
// what is held and to drop what is not changes nothing. After an error the
// transaction must fail: what was done of it is not taken back.
//
// Hold of a chunk that is not in the index is an error: nothing may point at
// what is not there. Until then the Pending that stored or found the chunk
// keeps it from Collect, so release that only after the transaction.
//
// They cost a look-up or two a chunk (BenchmarkHoldDrop), under the engine's
// ordering lock.
func (s *Store) Hold(tx *state.Tx, holder uint64, ids [][32]byte) error {
	if holder == 0 {
		return errNoHolder
	}
	l := s.ledger(tx)
	it, err := l.references()
	if err != nil {
		return fmt.Errorf("hold chunks: %w", err)
	}
	defer it.Close()
	s.touched(holder)
	for _, id := range ids {
		if err := l.hold(it, ref{id, holder}); err != nil {
			return fmt.Errorf("hold chunk %x: %w", id, err)
		}
	}
	l.flush()
	return nil
}

// Drop is the opposite of Hold.
func (s *Store) Drop(tx *state.Tx, holder uint64, ids [][32]byte) error {
	l := s.ledger(tx)
	it, err := l.references()
	if err != nil {
		return fmt.Errorf("drop chunks: %w", err)
	}
	defer it.Close()
	s.touched(holder)
	for _, id := range ids {
		if err := l.drop(it, ref{id, holder}); err != nil {
			return fmt.Errorf("drop chunk %x: %w", id, err)
		}
	}
	l.flush()
	return nil
}
