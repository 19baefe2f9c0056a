package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore"
	"stepfs/chunkstore/pack"
	"stepfs/fs/stage"
	"stepfs/internal/journal"
	"stepfs/internal/state"
	"stepfs/internal/storedir"
)

// A repair goes through what a store consists of, from the config upwards, and
// does at each part what is needed there: config, packs without a footer, index
// and journal, and at last what the index says of chunks.
//
// What takes the place of index or journal is built beside them, in repair/, and
// put there when it is whole (repair_swap.go). Nothing of the store is deleted:
// what is damaged goes to damaged-<time>/. So a repair that is broken off
// anywhere is begun again.

// repairer is one repair.
type repairer struct {
	ctx   context.Context
	dir   *storedir.Dir
	req   RepairRequest
	tell  func(RepairEvent)
	bar   *progress
	sum   RepairSummary
	aside string   // made when it is needed first
	fresh bool     // the namespace was rebuilt
	holey bool     // and something of a pack is not known
	saved []string // packs that were made of damaged ones
}

func (x *repairer) run() error {
	for _, part := range [...]string{storedir.IndexDir, storedir.JournalDir, storedir.PacksDir, storedir.StagingDir} {
		if _, err := os.ReadDir(x.dir.Join(part)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err // what can't be looked at is not gone
		}
	}
	if err := x.dir.ConfigBroken(); err != nil {
		x.did("config-restored", storedir.ConfigName, "%v; its second copy takes its place", err)
	}
	if err := x.resume(); err != nil {
		return err
	}
	if err := x.salvage(); err != nil {
		return err
	}
	c, err := state.Inspect(x.ctx, x.state(x.dir.Path()))
	if err != nil {
		return err
	}
	packs, err := countPacks(x.dir)
	if err != nil {
		return err
	}
	staged, err := countStaged(x.dir)
	if err != nil {
		return err
	}
	switch {
	case c.Fits() && !(c.Empty() && packs+staged > 0) && !x.req.Rebuild:
		return x.references()
	case c.Empty() && packs+staged == 0:
		return nil // a new store
	case c.Replays() && !x.req.Rebuild:
		err = x.replay(c)
	case c.Index == nil && !x.req.Rebuild && (c.Tables > 0 || c.Applied > 0) && c.Journal != nil:
		err = x.newJournal(c)
	default:
		err = x.namespace(c, staged)
	}
	if err != nil || x.req.DryRun {
		return err
	}
	return x.references()
}

func (x *repairer) state(dir string) state.Config {
	return state.Config{Dir: dir, FS: vfs.Default, BootID: storedir.BootID()}
}

func (x *repairer) chunks() chunkstore.Config {
	cfg := x.dir.Config()
	return chunkstore.Config{Polynomial: cfg.Polynomial, Key: cfg.Key, Domain: cfg.Domain, Older: olderKeys(cfg), Workers: 1}
}

// countPacks counts the packs of a store, here and, by their stubs, in its bucket.
func countPacks(dir *storedir.Dir) (n int, err error) {
	names, err := os.ReadDir(dir.Join(storedir.PacksDir))
	for _, e := range names {
		if ext := filepath.Ext(e.Name()); ext == pack.Suffix || ext == chunkstore.StubSuffix {
			n++
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return n, err
}

// salvage saves what can be read of packs whose footer is damaged.
func (x *repairer) salvage() error {
	x.bar.note("packs")
	dir := x.dir.Join(storedir.PacksDir)
	names, why, err := chunkstore.Unreadable(x.ctx, vfs.Default, dir, x.dir.Config().Domain)
	if err != nil {
		return err
	}
	for k, name := range names {
		s, err := chunkstore.Salvage(x.ctx, vfs.Default, dir, name, x.chunks(), x.req.DryRun)
		if err != nil {
			return err
		}
		x.did("pack-salvaged", filepath.Join(storedir.PacksDir, name), "%v; %d chunks of it read back (%s) and are saved into a new pack, %d don't",
			why[k], s.Chunks, humanBytes(int64(s.Bytes)), s.Broken)
		x.saved = append(x.saved, s.Into...)
		if err := x.move(filepath.Join(storedir.PacksDir, name)); err != nil {
			return err
		}
	}
	return nil
}

// replay has the journal make the index again: it holds everything.
func (x *repairer) replay(c state.Condition) error {
	x.did("index-replayed", storedir.IndexDir, "%v; the journal holds everything, and makes it again", c.Index)
	if errors.Is(c.Index, state.ErrAbsent) {
		return nil
	}
	return x.move(storedir.IndexDir)
}

// newJournal gives an index that reads back a journal again: what reads back of
// the old one, or an empty one.
func (x *repairer) newJournal(c state.Condition) error {
	base, err := x.begin()
	if err != nil {
		return err
	}
	defer x.drop(base)
	to := filepath.Join(base, storedir.JournalDir)
	old := x.dir.Join(storedir.JournalDir)
	var s journal.Salvaged
	if !errors.Is(c.Journal, state.ErrAbsent) {
		if s, err = journal.Salvage(vfs.Default, old, to, journal.Options{BootID: storedir.BootID()}); err != nil {
			return err
		}
	}
	known := max(s.End, c.Applied)
	whole := s.Clean && s.Last <= known
	if s.End < c.Applied || s.First > c.Applied || s.Last == 0 {
		if err := os.RemoveAll(to); err != nil {
			return err
		}
		if err := state.FreshJournal(vfs.Default, to, c.Applied, storedir.BootID()); err != nil {
			return err
		}
		known = c.Applied
	}
	lost := "the index holds everything that was in it"
	if !whole {
		x.sum.Unknown++
		lost = fmt.Sprintf("changes behind position %d are lost, if there were any: of a store that was closed there are none", known)
	}
	x.did("journal-renewed", storedir.JournalDir, "%v; %s", c.Journal, lost)
	if x.req.DryRun {
		return nil
	}
	return x.swap(base, true, storedir.JournalDir)
}

// strays moves staging files aside that no record names: what named them may be
// what is lost.
func (x *repairer) strays() (err error) {
	e, err := state.Open(x.state(x.dir.Path()))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close(false)) }()
	var all []string
	if err := stage.Stray(e, x.dir.Join(storedir.StagingDir), func(path string) error {
		all = append(all, path)
		return nil
	}); err != nil {
		return err
	}
	for _, path := range all {
		if err := x.move(filepath.Join(storedir.StagingDir, path)); err != nil {
			return err
		}
	}
	if len(all) > 0 {
		x.did("staging-moved", storedir.StagingDir, "no record names %d files: they are moved to %s", len(all), x.aside)
	}
	return nil
}
