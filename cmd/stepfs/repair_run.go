package main

import (
	"context"
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
	"stepfs/internal/check"
	"stepfs/internal/journal"
	"stepfs/internal/livetree"
	"stepfs/internal/schema"
	"stepfs/internal/state"
	"stepfs/internal/storedir"
	"stepfs/snapshot"
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
	packs, err := x.packs()
	if err != nil {
		return err
	}
	switch {
	case c.Fits() && !(c.Empty() && packs > 0) && !x.req.Rebuild:
		return x.references()
	case c.Empty() && packs == 0:
		return nil // a new store
	case c.Replays() && !x.req.Rebuild:
		err = x.replay(c)
	case c.Index == nil && !x.req.Rebuild && (c.Tables > 0 || c.Applied > 0) && c.Journal != nil:
		err = x.newJournal(c)
	default:
		err = x.namespace(c)
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
	return chunkstore.Config{Polynomial: cfg.Polynomial, Key: cfg.Key, Domain: cfg.Domain, Workers: 1}
}

func (x *repairer) packs() (int, error) { return countPacks(x.dir) }

// countPacks counts the packs of a store.
func countPacks(dir *storedir.Dir) (n int, err error) {
	names, err := os.ReadDir(dir.Join(storedir.PacksDir))
	for _, e := range names {
		if filepath.Ext(e.Name()) == ".pack" {
			n++
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return n, err
}

// countStaged counts what is in the staging directory.
func (x *repairer) countStaged() (n int, err error) {
	err = filepath.WalkDir(x.dir.Join(storedir.StagingDir), func(_ string, e fs.DirEntry, err error) error {
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

// namespace rebuilds everything from packs.
func (x *repairer) namespace(c state.Condition) (err error) {
	base, err := x.begin()
	if err != nil {
		return err
	}
	defer x.drop(base)
	staged, err := x.countStaged()
	if err != nil {
		return err
	}
	x.did("namespace-rebuilt", "index, journal", "%s; the namespace is made again from the steps that are found in packs", x.whyRebuild(c))
	if staged > 0 {
		x.sum.Unknown++
		x.did("staging-moved", storedir.StagingDir, "%d files hold what was not stored yet: without records nobody knows whose bytes they are, they are moved aside", staged)
	}
	if err := x.rebuild(base); err != nil {
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
	if _, err := chunkstore.IndexPacks(x.ctx, e, vfs.Default, packs, domain, nil); err != nil {
		return err
	}
	reader, err := chunkstore.NewReader(e, vfs.Default, packs, x.chunks())
	if err != nil {
		return err
	}
	defer reader.Close()
	x.bar.note("steps")
	now := time.Now()
	res, err := snapshot.Rebuild(x.ctx, snapshot.RebuildConfig{
		DB: e, Objects: reader, Domain: domain, Now: now, Back: x.back, Lost: x.lost,
		Tree: func(last uint64) snapshot.RebuiltTree {
			return livetree.Rebuilder{Rebuilder: stage.NewRebuilder(e, last, domain, uint32(os.Geteuid()), uint32(os.Getegid()), now.UnixNano())}
		},
	})
	if err != nil {
		return err
	}
	return x.rebuilt(e, res)
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
	for _, i := range res.Live {
		x.did("live-tree", orDash(i.Scope), "the live tree is what step %s was", i.ID())
	}
	var from uint64
	n, err := chunkstore.CountDead(x.ctx, e, x.dir.Config().Domain, func(n chunkstore.Dead) (uint64, error) {
		// Objects of no step that was found may be those of one whose root is in a
		// pack that is gone.
		if from = 1; res.Whole() && n.Objects == 0 || x.req.Free {
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
	case from > 1:
		x.did("chunks-kept", storedir.PacksDir, "%d chunks (%s) are in no step that was found, %d of them are parts of steps: something may be missing, and so nothing that is there now is ever freed (--rebuild --free allows it)",
			n.Chunks, humanBytes(int64(n.Bytes)), n.Objects)
	}
	return nil
}

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
