// Package stage is the live tree: names, inodes and the content of files,
// addressed by inode number. It knows nothing of FUSE and nothing of
// snapshots but their numbers.
//
// Read tree.go first, then namespace.go (names), content.go (how a file's bytes
// are found), write.go (how they get there), commit.go (what a close and a cut
// freeze), settle.go (how they become durable), excluded.go (what no snapshot
// shows), view.go (how a snapshot reads the same keys), clone.go (how files
// share content), prune.go and reap.go (how space comes back), freeable.go (how
// much of it would), revert.go (what snapshots show of content that was lost)
// and recover.go (what a crash leaves).
//
// Every change is one transaction of internal/state, so that what was
// answered is in the journal. The in-memory inode (type inode) only caches
// what the index holds, and open handles.
//
// Lock order: Tree.renameMu, then inode.mu of directories (one, or several
// under renameMu: parents in the order of their numbers, then what is moved or
// removed), then inode.mu of other inodes in
// the order of their numbers, then generation.mu, then the engine's ordering
// lock. An inode's mutex may be held over one bounded write to its staging
// file; the ordering lock never is.
package stage

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"stepfs/internal/journal"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// Chunks keeps stored content; chunkstore.Store is one.
type Chunks interface {
	// ReadChunk fills dst from offset off of the chunk id, which is raw bytes
	// long. Every byte was checked against the chunk's hash.
	ReadChunk(ctx context.Context, id [32]byte, raw uint32, dst []byte, off int) error
	// AnyDamaged says whether one of these chunks is known to be damaged or gone.
	AnyDamaged(ids [][32]byte) (bool, error)
	// Prefetch begins to make ready a chunk that is about to be read; false: there
	// is no room for that now.
	Prefetch(id [32]byte, raw uint32) bool
	// Hold notes, in the transaction that makes a generation consist of chunks,
	// that it needs them; Drop that it does no more. Chunks that nobody holds
	// may be taken away.
	Hold(tx *state.Tx, holder uint64, ids [][32]byte) error
	Drop(tx *state.Tx, holder uint64, ids [][32]byte) error
	// Sole adds up what those chunks of a holder take that would be dead if all
	// those holders ended that freed says yes to; each chunk once, at the first
	// of its holders.
	Sole(holder uint64, ids [][32]byte, freed func(holder uint64) bool) (bytes int64, err error)
	// Watch has fn told, within the transaction, of a holder whose Sole may
	// have changed.
	Watch(fn func(holder uint64))
}

// Events tells the owner of a tree what happens in it. Each func may be nil;
// none may block or call the tree. They run after the change was recorded.
type Events struct {
	// Happened: something changed, in the order in which it did for each inode
	// and for each directory. A write is told of once until the file is closed.
	Happened func(Event)
	// Pending: frozen content waits for ingest.
	Pending func()
	// Tight: less is free to writers than the low-water mark (Tree.Room).
	// Whoever can make room should do so now, before a writer has to wait.
	Tight func()
	// Fault: something in the background failed.
	Fault func(what string, err error)
}

// Config opens a tree. Engine, Disk are required.
type Config struct {
	Engine *state.Engine
	Disk   Disk
	Chunks Chunks // nil: nothing is stored
	Events Events
	// Limit is how many bytes the store may take; 0: all of the disk.
	Limit uint64
	// MaxOpen is how many staging files may be open at a time; 0: any number.
	MaxOpen int64
	// Reserve is how much of that stays free for deletes, barriers and the
	// journal, in bytes; default DefaultReserve.
	Reserve uint64
	// Rest gives the bytes that the store takes outside the staging directory,
	// but for packs that are not durable yet. It is asked often; nil: none.
	Rest func() int64
	// MakeRoom has others give up what can be given up until free bytes are
	// free to writers, or as much as can be had by the end of ctx. It says
	// whether it freed anything. nil: nothing can.
	MakeRoom func(ctx context.Context, free uint64) bool
	// Wanted says whether a content that cuts from first to until-1 see will be
	// stored though it is not Lasting; until 0: no end. nil: none is.
	Wanted func(first, until uint64) bool
	// Evictable gives the bytes that MakeRoom could free besides hot copies;
	// nil: none.
	Evictable func() int64

	Now      func() time.Time // default time.Now
	UID, GID uint32           // owner of the root of a new tree
}

// Tree is a live tree. Its methods are safe for concurrent use.
type Tree struct {
	cfg       Config
	db        *state.Engine
	inodes    inodeTable
	unsettled markTable
	gens      genTable
	usage     *meter
	space     spaceGauge
	hot       hotBytes
	watcher   watcher
	excludes  Excludes // changed before the tree is used alone
	halfway   bool     // the walk that puts them in force was cut short

	renameMu  sync.Mutex
	nextFh    atomic.Uint64
	settler   settler
	reaper    reaper
	views     viewCache
	cuts      cutSet
	freeables freeables
	ghosts    ghosts
	reaped    atomic.Int64 // bytes; see Reaped
	changes   uint64       // transactions that changed the tree; under the ordering lock
}

// Open opens the tree kept in cfg.Engine, making an empty one if there is
// none, and puts right what a crash has left.
func Open(cfg Config) (*Tree, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	usage := newMeter(cfg)
	cfg.Disk = usage
	t := &Tree{cfg: cfg, db: cfg.Engine, usage: usage}
	t.inodes.init()
	t.gens.init(t)
	usage.slots.relieve = t.relieve
	t.views.init()
	t.cuts.init()
	t.unsettled.init()
	t.settler.init()
	t.reaper.init()
	t.freeables.init()
	if cfg.Chunks != nil {
		cfg.Chunks.Watch(t.freeables.touch)
	}
	if err := t.space.init(t); err != nil {
		return nil, err
	}
	if err := t.mkfs(); err != nil {
		return nil, fmt.Errorf("make root: %w", err)
	}
	if err := t.loadExcludes(); err != nil {
		return nil, fmt.Errorf("read what is excluded: %w", err)
	}
	if err := t.recover(); err != nil {
		return nil, fmt.Errorf("recover the live tree: %w", err)
	}
	if err := usage.count(); err != nil {
		return nil, fmt.Errorf("count the staging files: %w", err)
	}
	t.watcher.start(t)
	t.settler.start(t)
	t.reaper.start(t)
	return t, nil
}

// Close stops the background work. What is staged stays staged.
func (t *Tree) Close() error {
	t.watcher.stop()
	t.settler.stop()
	t.reaper.stop()
	return t.gens.closeAll()
}

func (t *Tree) now() int64 { return t.cfg.Now().UnixNano() }

// mkfs makes the root directory of a new store.
func (t *Tree) mkfs() error {
	_, _, err := t.db.First(schema.InodePrefix(RootIno))
	if !errors.Is(err, state.ErrNotFound) {
		return err
	}
	_, err = t.db.Update(schema.KindMkfs, func(tx *state.Tx) error {
		ino, now := tx.NewIno(), t.now()
		if ino != RootIno {
			return fmt.Errorf("%w: the root is missing, inode numbers are at %d", schema.ErrCorrupt, ino)
		}
		root := schema.Inode{Mode: ModeDir | 0o755, Nlink: 2, UID: t.cfg.UID, GID: t.cfg.GID,
			Parent: RootIno, Atime: now, Ctime: now, Btime: now}
		root.Live.Mtime = now
		tx.Put(schema.MetaKey(schema.MetaEpoch), schema.Counter(tx.Epoch()))
		tx.PutBoot()
		tx.Put(schema.InodeKey(RootIno, tx.Epoch()), root.Encode())
		return nil
	})
	return wrapDisk(err)
}

// txn is one transaction of the tree: the engine's, plus what to do to the
// in-memory inodes once it is recorded.
type txn struct {
	*state.Tx
	after []func()
}

// then registers fn to run once the transaction is recorded. The locks that
// the caller of update holds protect what it touches.
func (tx *txn) then(fn func()) { tx.after = append(tx.after, fn) }

// update runs one transaction. Its errors are those of the package.
func (t *Tree) update(kind schema.Kind, fn func(tx *txn) error) (journal.Pos, error) {
	var tx txn
	pos, err := t.db.Update(kind, func(s *state.Tx) error {
		tx.Tx = s
		if changesTree(kind) {
			t.changes++
		}
		return fn(&tx)
	})
	if err != nil {
		return 0, wrapDisk(err)
	}
	for _, f := range tx.after {
		f()
	}
	return pos, nil
}

// changesTree says whether records of this kind change what a snapshot taken
// now would show.
func changesTree(kind schema.Kind) bool {
	switch kind {
	case schema.KindCut, schema.KindSettled, schema.KindStored, schema.KindEvict, schema.KindReap, schema.KindPrune:
		return false
	}
	return true
}

// wrapDisk says in the package's terms what the disk answered, keeping the
// cause in the chain.
func wrapDisk(err error) error {
	switch {
	case err == nil, errors.Is(err, ErrNoSpace), errors.Is(err, ErrTooManyFiles), errors.Is(err, ErrReadOnly), errors.Is(err, ErrIO):
		return err
	case errors.Is(err, state.ErrReadOnly):
		return fmt.Errorf("%w: %w", ErrReadOnly, err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, journal.ErrNoSpace):
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	case errors.Is(err, schema.ErrCorrupt), errors.As(err, new(syscall.Errno)):
		return fmt.Errorf("%w: %w", ErrIO, err)
	}
	return err
}

func (t *Tree) fault(what string, err error) {
	if err != nil && t.cfg.Events.Fault != nil {
		t.cfg.Events.Fault(what, err)
	}
}
