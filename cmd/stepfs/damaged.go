package main

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/internal/journal"
	"stepfs/internal/schema"
	"stepfs/internal/state"
	"stepfs/internal/storedir"
)

// A namespace that is damaged or gone is refused, and repaired on request: what
// a start would make of it by itself is an empty tree beside packs that nobody
// needs.

// errDamaged says which way leads out.
type errDamaged struct {
	store string
	err   error
}

func (e *errDamaged) Error() string {
	return fmt.Sprintf("%v; what can be done about it says: stepfs check --repair --dry-run %s", e.err, e.store)
}

func (e *errDamaged) Unwrap() error { return e.err }

// repairable refuses a store that has to be repaired before anybody writes to it.
func repairable(dir *storedir.Dir) error {
	if interrupted(dir) {
		return &errDamaged{dir.Path(), errors.New("a repair of the store was broken off; it has to be ended first")}
	}
	gone, err := state.Nameless(state.Config{Dir: dir.Path(), FS: vfs.Default})
	if err != nil || !gone {
		return err
	}
	packs, err := countPacks(dir)
	if err == nil && packs > 0 {
		err = &errDamaged{dir.Path(), fmt.Errorf("index/ and journal/ are gone or empty, and there are %d packs", packs)}
	}
	return err
}

// wayOut adds to an error of opening index and journal what helps, if it is damage.
func wayOut(dir *storedir.Dir, err error) error {
	if errors.Is(err, schema.ErrCorrupt) || errors.Is(err, journal.ErrCorrupt) || pebble.IsCorruptionError(err) || oserror.IsNotExist(err) {
		return &errDamaged{dir.Path(), err}
	}
	return err
}
