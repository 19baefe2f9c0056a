package main

import (
	"errors"
	"path/filepath"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore"
	"stepfs/fs/stage"
	"stepfs/internal/check"
	"stepfs/internal/schema"
	"stepfs/internal/state"
	"stepfs/internal/storedir"
	"stepfs/snapshot"
)

// What the index says of chunks, held against the packs.

// references looks, in a store whose index and journal read back, at what the
// index says of chunks: it is made again where it is wrong, and chunks that are
// needed and not there are marked. A dry run opens the store as every command
// does.
func (x *repairer) references() (err error) {
	x.bar.note("references")
	e, err := state.Open(x.state(x.dir.Path()))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close(err == nil)) }()
	if !x.fresh {
		if err := x.later(e); err != nil {
			return err
		}
	}
	chunks, err := chunkstore.Open(e, vfs.Default, x.dir.Join(storedir.PacksDir), x.chunks())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, chunks.Close()) }()
	if err := x.chunkIndex(e, chunks); err != nil {
		return err
	}
	if x.fresh { // what is lost was said
		return nil
	}
	if !x.req.DryRun {
		if err := chunks.ForgetEmpty(x.ctx); err != nil { // what was saved of them is read elsewhere
			return err
		}
	}
	lost := map[uint64]map[[32]byte]struct{}{}
	trees := map[uint64]struct{}{}
	owners := map[uint64][]uint64{}
	err = chunks.Lost(x.ctx, func(id chunkstore.ID, holder uint64) error {
		if schema.IsTreeHolder(holder) {
			trees[holder&^(1<<63)] = struct{}{}
			return nil
		}
		inos, known := owners[holder]
		if !known {
			var err error
			if inos, err = stage.Owners(e, holder); err != nil {
				return err
			}
			owners[holder] = inos
		}
		for _, ino := range inos {
			if lost[ino] == nil {
				lost[ino] = map[[32]byte]struct{}{}
			}
			lost[ino][id] = struct{}{}
		}
		return nil
	})
	if err != nil || len(lost)+len(trees) == 0 {
		return err
	}
	return x.mark(e, chunks, lost, len(trees))
}

// later moves packs aside that are of a later time than index and journal, where
// these come from a backup: else what only they hold would be dead.
func (x *repairer) later(e *state.Engine) error {
	packs, steps, err := laterPacks(x.ctx, x.dir, e, x.chunks())
	if err != nil || len(steps) == 0 {
		return err
	}
	x.did("packs-later", storedir.PacksDir, "index and journal are older than %d packs, which hold %s: --rebuild brings them back; else the packs are moved aside", len(packs), someOf(steps))
	x.sum.Lost += len(steps)
	for _, p := range packs {
		if slices.Contains(x.saved, p) {
			continue // its chunks are those of a pack that the index does know
		}
		if err := x.move(filepath.Join(storedir.PacksDir, p)); err != nil {
			return err
		}
	}
	return nil
}

// chunkIndex makes the chunk index again, if what it says is not what packs say.
func (x *repairer) chunkIndex(e *state.Engine, chunks *chunkstore.Store) error {
	view := e.View()
	defer view.Close()
	var wrong []check.Finding
	run := &check.Run{View: view, Report: func(f check.Finding) {
		if f.Kind == check.Damage && !slices.Contains([]string{"pack-missing", "pack-size", "pack-unreadable", "chunk-missing"}, f.What) {
			wrong = append(wrong, f)
		}
	}}
	if _, err := chunks.Check(x.ctx, run, chunkstore.CheckOptions{}); err != nil || len(wrong) == 0 {
		return err
	}
	x.did("chunk-index-rebuilt", storedir.IndexDir, "%d entries are wrong (%s: %s): it is made again from packs", len(wrong), wrong[0].Object, wrong[0].Detail)
	if x.req.DryRun {
		return nil
	}
	return chunks.RebuildIndex(x.ctx)
}

// mark marks the snapshots that lost something.
func (x *repairer) mark(e *state.Engine, chunks *chunkstore.Store, lost map[uint64]map[[32]byte]struct{}, trees int) (err error) {
	before := x.sum.Lost
	x.sum.Lost = 0
	tree, err := stage.Open(stage.Config{Engine: e, Disk: stage.NewDisk(x.dir.Join(storedir.StagingDir)), Chunks: chunkReader{chunks}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tree.Close()) }()
	at := func(seq uint64) snapshot.LostView { return tree.At(seq) }
	n, err := snapshot.MarkLost(x.ctx, e, at, lost, x.req.DryRun, x.lost)
	if x.sum.Lost = max(before, x.sum.Lost); err != nil {
		return err
	}
	if len(lost) > 0 {
		x.did("lost-marked", storedir.PacksDir, "chunks of %d files are lost: %d snapshots with a name show them, and are partial", len(lost), n)
	}
	if trees > 0 {
		x.did("objects-lost", storedir.PacksDir, "directory objects of %d steps are lost: these steps can be read as far as they could before, but not be rebuilt from packs", trees)
	}
	return nil
}
