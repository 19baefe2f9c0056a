package snapshot

import (
	"context"
	"io"
	"time"

	"stepfs/chunkstore"
	"stepfs/internal/schema"
	"stepfs/internal/state"
	"stepfs/snapshot/include"
)

// Tree is what the package needs of the live tree. fs/stage has one; fs makes
// the two fit.
type Tree interface {
	// Cut freezes the tree and commits the content of the given files; with
	// logs, also of open files that were only appended to. Without force, a
	// tree that did not change gives the earlier cut again (Same).
	Cut(inos []uint64, logs, force bool) (Cut, error)
	// Excluded says whether no snapshot will show what any of the inodes hold;
	// SyncLive makes durable, but for the journal, what one holds now.
	Excluded(inos ...uint64) bool
	SyncLive(ino uint64) error
	// CutWith is Cut of everything, with logs, that also shows the hidden directory
	// ino as name in dir; the live tree never does. What the job has there itself
	// under that name stays, if it is a directory; else that is an error. Without
	// such a dir it is a plain cut.
	CutWith(dir uint64, name string, ino uint64) (Cut, error)
	// Hidden directories are what is included.
	include.Tree
	// PathOf gives the path of a live inode; "" is the root.
	PathOf(ino uint64) (string, error)
	// Parent gives the directory of an inode's last known name.
	Parent(ino uint64) (uint64, error)
	// Find resolves a path below the root.
	Find(path string) (ino uint64, dir bool, err error)
	// OpenForWriting calls fn for each file that has a writable handle and is not
	// excluded.
	OpenForWriting(fn func(ino, parent uint64))
	// At gives the view of a snapshot.
	At(seq uint64) View
	// Now is what a snapshot taken now would show; it changes while it is read.
	Now() View

	// Pending calls fn for frozen contents that wait for ingest, oldest first.
	Pending(fn func(f Frozen) (more bool)) error
	// Prior gives the generation last stored under a key, and its chunks; PriorKeys
	// the first of the keys that begin with prefix.
	Prior(key string) (gen uint64, es []schema.ChunkExtent, err error)
	PriorKeys(prefix string, max int) (keys []string, err error)
	// Hot calls fn for generations that are stored and still have their own
	// copy, oldest first.
	Hot(fn func(gen uint64, bytes int64) (more bool)) error
	// HotAfter is Hot for the generations behind one.
	HotAfter(after uint64, fn func(gen uint64, bytes int64) (more bool)) error
	IsHot(gen uint64) (bool, error)
	// Evict leaves a copy where something in it is not stored, or stored in a chunk
	// that is known to be damaged.
	Evict(gen uint64) error
	UnlinkEvicted() error
	// CopyExtents gives the chunks of a stored generation that has its own copy
	// still, and ReadCopy reads that copy; see package stage.
	CopyExtents(gen uint64) ([]schema.ChunkExtent, error)
	ReadCopy(gen uint64, dst []byte, off int64) (ok bool, err error)
	// Distrust has what is stored of a generation read from its chunks, since its own
	// copy is wrong.
	Distrust(gen uint64)
	// Room gives the bytes that are free to writers, and how many should be:
	// the low-water mark.
	Room() (free, low uint64, err error)

	// Prune frees what only snapshots have shown whose numbers are listed under
	// schema.PrefixExpired; more: it did a part of it. Unless it is urgent it
	// takes its time.
	Prune(ctx context.Context, urgent bool) (more bool, err error)

	// ReapAll frees what else is known to be dead, without letting any of it
	// rest.
	ReapAll(ctx context.Context) error

	// Freeable gives the bytes that would come back if these snapshots, and no
	// others, were removed and pruned. FreeableOf does so for one, and knows
	// answers: one that may have changed is up to age old, or as many times as
	// long as it took.
	Freeable(ctx context.Context, seqs ...uint64) (int64, error)
	FreeableOf(ctx context.Context, seq uint64, age time.Duration) (int64, error)
	// Reaped gives how many bytes of staging files of dead content were removed
	// so far.
	Reaped() int64
	// Unlinked calls fn for each file that is only still there because somebody
	// has it open, with its last name and the bytes of its data.
	Unlinked(fn func(name string, bytes int64)) error

	// Rollback makes the directory dst of the live tree what src was in
	// snapshot seq, without copying data, but for the entry spare of both. It gives
	// the names in dst that changed.
	Rollback(dst, seq, src uint64, spare string) (names []string, err error)
}

// Cut is a frozen tree.
type Cut interface {
	Seq() uint64
	Same() bool
	// Marked gives files that were taken though they are open.
	Marked() []uint64
	// NeedsSync says whether Sync will touch the disk.
	NeedsSync() bool
	// Sync makes durable what the cut's own files hold, but for the journal.
	Sync(ctx context.Context) (failed map[uint64]error)
	// SyncAll makes durable every committed content that the cut names.
	SyncAll(ctx context.Context) error
	// Done ends the cut: it is in the registry, or never will be.
	Done()
}

// Node is what a view shows of an inode.
type Node struct {
	Ino                  uint64
	Mode, UID, GID, Rdev uint32
	Nlink                uint32
	Size, Alloc          int64 // bytes
	Mtime, Ctime         int64 // ns
	Mark                 string
}

// Entry is one name in a directory; Type is S_IFMT bits.
type Entry struct {
	Name string
	Ino  uint64
	Type uint32
}

// View is the tree of one snapshot.
type View interface {
	Lookup(parent uint64, name string) (Node, error)
	Node(ino uint64) (Node, error)
	// ReadDir gives up to max entries after a name, in byte order.
	ReadDir(dir uint64, after string, max int) ([]Entry, error)
	Readlink(ino uint64) (string, error)
	// Read fills dst with what a file holds from off on: less at its end.
	Read(ino uint64, dst []byte, off int64) (int, error)
	// Unwritten says whether a change of its size gave a file a range that
	// nobody has written.
	Unwritten(ino uint64) (bool, error)
	ListXattr(ino uint64) ([]string, error)
	GetXattr(ino uint64, name string) ([]byte, error)
	// Lseek is lseek(2) with SEEK_DATA or SEEK_HOLE.
	Lseek(ino uint64, off int64, whence uint32) (int64, error)
	// Copied says whether some of a file that is stored has a copy outside of packs.
	Copied(ino uint64) (bool, error)
	// Chunks gives the chunks of a file, in order; ok is false while some of
	// it is only staged.
	Chunks(ino uint64) (es []schema.ChunkExtent, ok bool, err error)
}

// Frozen is a committed content that waits for ingest.
type Frozen interface {
	io.ReaderAt
	Ino() uint64
	Epoch() uint64 // first snapshot that sees it
	Until() uint64 // first snapshot that sees it no more; 0: it is the file's
	Time() int64   // ns, when it was committed
	// Lasting says whether it is worth storing for the live tree or barriers alone.
	Lasting() bool
	Bytes() int64
	Segments() ([]chunkstore.Segment, error)
	Settle() error
	// Done takes it off what waits if it needs no storing: it shares what
	// others have stored.
	Done() (bool, error)
	Path() (path string, ok bool)
	// Store records that the content lies in chunks that are durable.
	Store(ctx context.Context, es []schema.ChunkExtent, key string) error
}

// Chunks is what the package needs of the chunk store.
type Chunks interface {
	IngestOver(ctx context.Context, src chunkstore.Source, plan chunkstore.Plan) (*chunkstore.Pending, error)
	// Again gives a content of which it is known in which chunks it lies; nil: not
	// all of them are there.
	Again(refs []chunkstore.Ref) (*chunkstore.Pending, error)
	// Limits gives the lengths between which chunks are kept.
	Limits() (min, max int64)
	// ReadAt reads of a chunk, whose length is raw, from off on.
	ReadAt(ctx context.Context, id chunkstore.ID, raw uint32, dst []byte, off int) error
	// Here says whether that needs no bucket.
	Here(id [32]byte) (bool, error)
	Put(ctx context.Context, data []byte) (*chunkstore.Pending, error)
	Flush(ctx context.Context) error
	// ReadBack reads a chunk from its pack, past every cache, and verifies it.
	ReadBack(ctx context.Context, id chunkstore.ID, buf []byte) ([]byte, error)
	// Hurry says how much work may go into what is ingested from now on, at the
	// cost of space, some of which Collect gets back later.
	Hurry(h chunkstore.Haste)
	// Hold notes in a transaction that holder needs chunks.
	Hold(tx *state.Tx, holder uint64, ids [][32]byte) error

	// Local is how many bytes the packs take that are here, Evict frees those of
	// some that are published as well.
	Local() int64
	Evict(ctx context.Context, need int64) (freed int64, err error)

	// Older says whether a chunk is named by an older key than the newest, OlderBytes
	// how many bytes are.
	Older(id [32]byte) (bool, error)
	OlderBytes() int64
	// Polite gives way to those who wait for the disk and the processors, between
	// one read and the next.
	Polite(r io.ReaderAt) io.ReaderAt

	// Needs begins a list of packs that a snapshot needs.
	Needs() *chunkstore.Needs

	// What the scrub uses.
	Stats() chunkstore.Stats
	NextPack(after uint64) (uint64, error)
	Scrub(ctx context.Context, number uint64, found func(error), rest func(bytes int64) error) error
	Damaged() ([]chunkstore.ID, error)
	IsDamaged(id chunkstore.ID) (bool, error)
	IsNamed(id chunkstore.ID, plain []byte) bool
	Holders(id chunkstore.ID, max int) ([]uint64, error)
	Heal(ctx context.Context, id chunkstore.ID, plain []byte) error
	// HealPacks fetches damaged packs again that the bucket has.
	HealPacks(ctx context.Context) (healed int, err error)
}

// Collector frees chunks and packs that nothing names any more.
type Collector interface {
	// Collect is gentle unless it is urgent. freed hears of bytes that came back.
	Collect(ctx context.Context, urgent bool, freed func(bytes int64)) error
}

var _ Chunks = (*chunkstore.Store)(nil)
