// Package snapshot turns moments of the live tree into snapshots: it takes the
// barriers, keeps the registry of snapshots and their names, seals steps, and
// has frozen content stored in the background.
//
// Read tree.go first (what it needs of the live tree), then barrier.go (cut,
// sync, commit, group commit) and seal.go (strict snapshots), registry.go
// (names), store.go, ingest.go and drain.go (background ingest) and merkle.go
// (how a sealed tree is written into packs).
//
// Steps: package rules (how they are written), event.go, watch.go and
// candidate.go (what happens to them), sealer.go and attempt.go (when they are
// sealed), judge.go, members.go and verdict.go (as what), rescan.go (after a crash) and
// explain.go.
//
// Retention: policy.go (what is kept), keeper.go and barriers.go (the goroutine
// that acts on it), hold.go and forget.go (what people do), expire.go (how a
// record goes), use.go (readers), clock.go (how old something is), pressure.go
// (what a full store gives up), outlook.go (what it would) and freeable.go (what
// that brings).
//
// Lock order: Manager.turn, then Manager.mu; neither is held over a sync of a
// staging file. Manager.keeping is taken before the engine's lock, those of the
// registry and of the keeper after it, and no lock inside them.
package snapshot

import (
	"errors"
	"fmt"
)

// What an operation on snapshots can answer.
var (
	ErrNotExist = errors.New("no such snapshot")
	ErrExist    = errors.New("a snapshot of that name exists")
	// ErrNoBucket: nothing is published from here.
	ErrNoBucket = errors.New("the store uploads to no bucket")
	// ErrReadOnly: a step can't be changed or removed by the job.
	ErrReadOnly = errors.New("snapshots are read-only")
	// ErrPerm: only who made a snapshot, or root, may remove it.
	ErrPerm = errors.New("not the owner of the snapshot")
	// ErrBadName: the name can't be one of a snapshot.
	ErrBadName = errors.New("bad snapshot name")
	// ErrClosed: the manager was closed.
	ErrClosed = errors.New("snapshots are closed")
	// ErrBusy: files of the scope are open for writing.
	ErrBusy = errors.New("files are open for writing")
)

// checkName refuses names that a path below snapshots/ could not show.
func checkName(name string) error {
	bad := name == "" || len(name) > 200 || name[0] == '.' || name == "latest"
	for _, r := range name {
		bad = bad || r == '/' || r == '@' || r < ' '
	}
	if bad {
		return fmt.Errorf("%w: %q: up to 200 bytes without '/', '@' or control characters, not starting with '.', not \"latest\"", ErrBadName, name)
	}
	return nil
}
