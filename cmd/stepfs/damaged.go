package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore"
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
	if err != nil {
		return err
	}
	staged, err := countStaged(dir)
	switch {
	case err != nil:
		return err
	case packs > 0:
		return &errDamaged{dir.Path(), fmt.Errorf("index/ and journal/ are gone or empty, and there are %d packs", packs)}
	case staged > 0: // a start would take them for leftovers
		return &errDamaged{dir.Path(), fmt.Errorf("index/ and journal/ are gone or empty, and there are %d staging files", staged)}
	}
	return nil
}

// notOlder refuses a store whose index and journal are older than its packs, as
// from a backup: what is in packs that they do not know would be dead.
func notOlder(ctx context.Context, dir *storedir.Dir, e *state.Engine, cfg chunkstore.Config) error {
	packs, steps, err := laterPacks(ctx, dir, e, cfg)
	if err != nil || len(steps) == 0 {
		return err
	}
	return &errDamaged{dir.Path(), fmt.Errorf("index and journal are older than the packs: %d packs hold what they do not know, %s", len(packs), someOf(steps))}
}

// laterPacks gives the packs that the index does not know, and the steps in them
// that come after all that it does.
func laterPacks(ctx context.Context, dir *storedir.Dir, e *state.Engine, cfg chunkstore.Config) (packs, steps []string, err error) {
	unknown, err := chunkstore.UnknownPacks(ctx, e, vfs.Default, dir.Join(storedir.PacksDir), cfg, schema.ObjectRoot)
	for _, u := range unknown {
		packs = append(packs, u.Name)
		for _, b := range u.Objects {
			if seq, rec, _, err := schema.DecodeRoot(b); err == nil && seq >= e.Epoch() {
				steps = append(steps, fmt.Sprintf("step %s@%d", scoped(rec.Scope, rec.Name), seq))
			}
		}
	}
	return packs, steps, err
}

// someOf names the first of many.
func someOf(names []string) string {
	if len(names) == 1 {
		return names[0]
	}
	return fmt.Sprintf("%s and %d more", names[0], len(names)-1)
}

// wayOut adds to an error of opening index and journal what helps, if it is damage.
func wayOut(dir *storedir.Dir, err error) error {
	if errors.Is(err, schema.ErrCorrupt) || errors.Is(err, journal.ErrCorrupt) || pebble.IsCorruptionError(err) || oserror.IsNotExist(err) {
		return &errDamaged{dir.Path(), err}
	}
	return err
}
