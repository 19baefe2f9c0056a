package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore"
	"stepfs/fs/stage"
	"stepfs/internal/livetree"
	"stepfs/internal/schema"
	"stepfs/internal/state"
	"stepfs/internal/storedir"
	"stepfs/snapshot"
)

// The namespace of a store, made again from the steps in its packs.

// countStaged counts what is in the staging directory.
func countStaged(dir *storedir.Dir) (n int, err error) {
	err = filepath.WalkDir(dir.Join(storedir.StagingDir), func(_ string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			n++
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return n, err
}

// namespace rebuilds everything from packs.
func (x *repairer) namespace(c state.Condition, staged int) (err error) {
	base, err := x.begin()
	if err != nil {
		return err
	}
	defer x.drop(base)
	x.did("namespace-rebuilt", "index, journal", "%s; the namespace is made again from the steps that are found in packs", x.whyRebuild(c))
	if staged > 0 {
		x.sum.Unknown++
		x.did("staging-moved", storedir.StagingDir, "%d files hold what was not stored yet: without records nobody knows whose bytes they are, they are moved aside", staged)
	}
	err = x.rebuild(base)
	if err == nil {
		err = state.JournalOfBulk(vfs.Default, filepath.Join(base, storedir.JournalDir), storedir.BootID())
	}
	if err != nil {
		return err
	}
	x.fresh = true
	if x.req.DryRun {
		return nil
	}
	parts := []string{storedir.IndexDir, storedir.JournalDir}
	if staged > 0 {
		if err := os.Mkdir(filepath.Join(base, storedir.StagingDir), 0o700); err != nil {
			return err
		}
		parts = append(parts, storedir.StagingDir)
	}
	return x.swap(base, false, parts...)
}

func (x *repairer) whyRebuild(c state.Condition) string {
	switch {
	case x.req.Rebuild && c.Fits():
		return "--rebuild"
	case c.Empty():
		return "index and journal are gone"
	case c.Index != nil && c.Journal != nil:
		return fmt.Sprintf("index: %v; journal: %v", c.Index, c.Journal)
	case c.Index != nil:
		return fmt.Sprintf("index: %v; the journal does not go back to the beginning", c.Index)
	}
	return fmt.Sprintf("the index is at journal position %d, the journal holds %d to %d", c.Applied, c.Found.First, c.Found.End)
}

// rebuild makes a new index in base.
func (x *repairer) rebuild(base string) (err error) {
	cfg := x.state(base)
	cfg.Bulk, cfg.MemTable = true, 64<<20
	e, err := state.Open(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close(err == nil)) }()
	x.bar.note("footers of packs")
	packs, domain := x.dir.Join(storedir.PacksDir), x.dir.Config().Domain
	found, err := chunkstore.IndexPacks(x.ctx, e, vfs.Default, packs, domain, nil)
	if err != nil {
		return err
	}
	for k, name := range found.BadStubs {
		x.holey = true
		x.sum.Unknown++
		x.did("stub-unreadable", filepath.Join(storedir.PacksDir, name), "%v; what lies in the pack, which is only in the bucket, is not known here any more", found.WhyBad[k])
	}
	reader, err := chunkstore.NewReader(e, vfs.Default, packs, x.chunks())
	if err != nil {
		return err
	}
	defer reader.Close()
	if url := x.dir.Config().Settings[remoteFlag]; url != "" {
		reader.ReadFrom(openReads(url))
	}
	x.bar.note("steps")
	now := time.Now()
	known, err := x.known()
	if err != nil {
		return err
	}
	res, err := snapshot.Rebuild(x.ctx, snapshot.RebuildConfig{
		DB: e, Objects: reader, Domain: domain, Now: now, Back: x.back, Lost: x.lost, Known: known,
		Tree: func(last uint64) snapshot.RebuiltTree {
			return livetree.Rebuilder{Rebuilder: stage.NewRebuilder(e, last, domain, uint32(os.Geteuid()), uint32(os.Getegid()), now.UnixNano())}
		},
	})
	if errors.Is(err, chunkstore.ErrUnreachable) { // it is not lost
		return fmt.Errorf("%w; %d packs are only in the bucket, and some of what says which steps there are lies in them: nothing was changed, repair again when it answers (docs/REPAIR.md)", err, reader.Away())
	}
	if err != nil {
		return err
	}
	return x.rebuilt(e, res)
}

// known gives the records of snapshots that still read back in the index that is
// damaged: packs do not know of barriers, nor of steps that were not stored.
func (x *repairer) known() (map[uint64]*schema.Snapshot, error) {
	all := map[uint64]*schema.Snapshot{}
	holes, err := state.Remains(x.state(x.dir.Path()), schema.PrefixSnapshot, func(seq uint64, v []byte) {
		if s, err := schema.DecodeSnapshot(slices.Clone(v)); err == nil {
			all[seq] = s
		}
	})
	if err == nil && holes > 0 {
		x.sum.Unknown++
		x.did("records-unreadable", storedir.IndexDir, "records of %d numbers of snapshots don't read back", holes)
	}
	return all, err
}

// hasPacksAside says whether a repair has moved packs out of the way.
func (x *repairer) hasPacksAside() (bool, error) {
	names, err := os.ReadDir(x.dir.Path())
	for _, e := range names {
		if storedir.IsAside(e.Name()) {
			if packs, err := os.ReadDir(x.dir.Join(filepath.Join(e.Name(), storedir.PacksDir))); err == nil && len(packs) > 0 {
				return true, nil
			}
		}
	}
	return false, err
}

// rebuilt counts what is dead, and says what came of the rebuild.
func (x *repairer) rebuilt(e *state.Engine, res *snapshot.Rebuilt) error {
	for _, path := range res.Twice {
		x.sum.Lost++
		x.did("step-number-twice", path, "another, later step has its number: it does not come back")
	}
	if res.Unreadable > 0 {
		x.did("objects-unreadable", storedir.PacksDir, "%d directory objects don't read back", res.Unreadable)
	}
	if res.Barriers > 0 {
		x.did("barriers-lost", storedir.IndexDir, "%d barriers are gone: packs know nothing of them", res.Barriers)
	}
	for _, i := range res.Live {
		x.did("live-tree", orDash(i.Scope), "the live tree is what step %s was", i.ID())
	}
	// A pack of which not all was saved, by this repair or one before, may have held
	// the whole tree of a step.
	holey, err := x.hasPacksAside()
	if err != nil {
		return err
	}
	var from uint64
	n, err := chunkstore.CountDead(x.ctx, e, x.dir.Config().Domain, func(n chunkstore.Dead) (uint64, error) {
		// Objects of no step that was found may be those of one whose root is in a
		// pack that is gone.
		if from = 1; res.Whole() && n.Objects == 0 && !holey && !x.holey || x.req.Free {
			return from, nil
		}
		var err error
		from, err = chunkstore.NextPack(e)
		return from, err
	})
	switch {
	case err != nil:
		return err
	case n.Chunks > 0 && from == 1:
		x.did("chunks-unneeded", storedir.PacksDir, "%d chunks (%s) are in no step: prune frees them", n.Chunks, humanBytes(int64(n.Bytes)))
	case from > 1 && n.Chunks > 0:
		x.did("chunks-kept", storedir.PacksDir, "%d chunks (%s) are in no step that was found, %d of them are parts of steps: something may be missing, and so nothing that is there now is ever freed (--rebuild --free allows it)",
			n.Chunks, humanBytes(int64(n.Bytes)), n.Objects)
	}
	return nil
}
