// Package chunkstore keeps content as deduplicated chunks in packs.
//
// It splits a content with a content-defined chunker, names each piece by its
// keyed BLAKE3-256, looks the name up, and writes what is new to a pack of
// about 64 MiB. Readers ask for a chunk by name and get bytes that were
// checked against that name, or an error.
//
// Invariants:
//   - A chunk is indexed only after its pack and the pack's directory entry
//     are durable. Nothing points at what is not durable.
//   - A chunk is in one of three places: in the durable index; in flight
//     (claimed by a pack that is not durable yet, Store.mu.inflight); unknown.
//     Whoever meets a chunk in flight depends on that pack and is told that it
//     is stored when, and only if, the pack is.
//   - Whoever claims a chunk appends it, or its pack fails for everybody.
//   - The index is a cache: packs rebuild it (RebuildIndex), and Open adopts a
//     pack that a crash kept out of it. References are no cache.
//   - A chunk lives while somebody holds it (Hold, Drop). Between its being
//     stored or found and its first Hold, a Pending pins its pack.
//   - A pack's file is unlinked only after the index has durably forgotten the
//     pack, which it does only when no chunk is read from it any more.
//   - A chunk that others are made from stays in the index as long as they do,
//     and is less deep than they are.
//   - No two packs have the same name.
//
// Lock order: a pack's write lock, then the engine's ordering lock (inside
// Update), then Store.mu, under which the engine is only read. The caches'
// locks are leaves.
//
// Read first: pending.go (what a caller holds), claim.go (the dedupe
// protocol), packwriter.go (how a pack becomes durable), then split.go
// (cut points), base.go (what a chunk is a delta from; hot.go and ahead.go: where that is got), encode.go and read.go.
// Garbage: refs.go, ledger.go (how it is counted), collect.go (how it goes). When
// the index is lost: rebuild.go. The byte format is in package pack.
package chunkstore

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/restic/chunker"

	"stepfs/chunkstore/pack"
)

var (
	// ErrCorrupt says that stored bytes are not what their name promises.
	ErrCorrupt = errors.New("stored data is damaged")
	// ErrMissing says that a chunk, or the pack that should hold it, is gone.
	ErrMissing = errors.New("stored data is missing")
	// ErrClosed is returned once the store was closed.
	ErrClosed = errors.New("chunk store is closed")
	// ErrSource says that a source did not yield what its segments promise.
	ErrSource = errors.New("source does not match its segments")
	// ErrConfig says that a Config cannot work.
	ErrConfig = errors.New("bad chunk store configuration")
	// ErrRange says that a read lies outside its chunk.
	ErrRange = errors.New("read outside the chunk")
)

// ID names a chunk: the keyed BLAKE3-256 of its plain bytes.
type ID = pack.ID

// Ref says that the file range [Off, Off+Len) is one chunk.
type Ref struct {
	Off int64
	Len uint32
	ID  ID
}

// End is where the ref's range ends.
func (r Ref) End() int64 { return r.Off + int64(r.Len) }

// Segment is a range of a source that holds data.
type Segment struct{ Off, Len int64 }

// Source is frozen content. Ranges outside its segments are holes and are
// never read.
type Source interface {
	io.ReaderAt
	// Segments gives the data ranges in ascending order, without overlap.
	Segments() []Segment
}

// Events tells the owner about things that no caller asked for. Functions may
// be nil; they are called without locks and must not block.
type Events struct {
	// Damage is called when stored data turns out to be damaged or missing.
	Damage func(err error)
	// Unreachable is called when somebody reads what is only in the bucket, and
	// that can't be reached.
	Unreachable func(err error)
	// Fetched is called when a pack that was away is here again.
	Fetched func()
}

// Config is what a store needs to know. The zero value of every field but
// Polynomial and Key means its default. Polynomial, Key, Domain and the chunk
// sizes are drawn when the store is made and must never change: other values
// find no duplicates (sizes, polynomial) or none of the chunks (key, domain). But a
// store that joins a bucket takes its polynomial and key, and keeps its key as Older.
type Config struct {
	Polynomial chunker.Pol
	Key        [32]byte
	Domain     uint32
	Older      [][32]byte // keys by which chunks were named before, the first first (naming.go)

	// MinSize, AverageBits, MaxSize steer the chunker: it skips MinSize bytes
	// after a cut, then cuts with a chance of 2^-AverageBits at each byte.
	// Defaults 768 KiB, 19, 8 MiB: chunks of 1.3 MiB on average. Skipping is
	// what makes splitting fast, and 2^19 what makes it find its feet again
	// soon after a change.
	MinSize, MaxSize uint32
	AverageBits      int

	PackSize   int64         // a pack is closed at this size; 64 MiB
	Workers    int           // Ingest calls that run at a time; a quarter of the cores
	Turns      int           // versions of a chunk from one that has no base to the next; 16, and 1 for no deltas
	Sealing    int           // packs that may be on their way to the disk at a time; 3
	CacheBytes int64         // decoded chunks kept for readers; 64 MiB
	OpenFiles  int           // pack files kept open for readers; 64
	IdleClose  time.Duration // an open pack that somebody waits for is closed after this; 2 s

	// Background, if not nil, is the first that a goroutine calls which Ingest
	// starts to work beside it: it may lower the priority of its thread.
	Background func()
	// Busy, if not nil, says whether somebody waits for the disk and the processors
	// now: uploads then take little of both. It is asked often.
	Busy func() bool

	Events Events
}

// maxOlder bounds the older keys: each new name is tried by all of them.
const maxOlder = 15

func (c Config) withDefaults() Config {
	def := func(v *uint32, d uint32) {
		if *v == 0 {
			*v = d
		}
	}
	def(&c.MinSize, 768<<10)
	def(&c.MaxSize, 8<<20)
	if c.AverageBits == 0 {
		c.AverageBits = 19
	}
	if c.PackSize == 0 {
		c.PackSize = 64 << 20
	}
	if c.Workers == 0 {
		c.Workers = max(1, runtime.NumCPU()/4)
	}
	if c.Turns == 0 {
		c.Turns = 16
	}
	if c.Sealing == 0 {
		c.Sealing = 3
	}
	if c.CacheBytes == 0 {
		c.CacheBytes = 64 << 20
	}
	if c.OpenFiles == 0 {
		c.OpenFiles = 64
	}
	if c.IdleClose == 0 {
		c.IdleClose = 2 * time.Second
	}
	return c
}

// Validate says what is wrong with the configuration.
func (c Config) Validate() error {
	c = c.withDefaults()
	switch {
	case c.Polynomial.Deg() != 53:
		return fmt.Errorf("%w: polynomial of degree %d, want 53", ErrConfig, c.Polynomial.Deg())
	case c.MinSize < chunkerWindow || c.MaxSize < c.MinSize || c.MaxSize > pack.MaxRaw:
		return fmt.Errorf("%w: chunk sizes %d to %d", ErrConfig, c.MinSize, c.MaxSize)
	case c.AverageBits < 6 || c.AverageBits > 23:
		return fmt.Errorf("%w: average of 2^%d bytes", ErrConfig, c.AverageBits)
	case c.PackSize < 1 || c.PackSize > 1<<30:
		return fmt.Errorf("%w: pack size %d", ErrConfig, c.PackSize)
	case len(c.Older) > maxOlder:
		return fmt.Errorf("%w: %d older keys", ErrConfig, len(c.Older))
	case c.Turns < 1 || c.Turns > 256:
		return fmt.Errorf("%w: %d turns", ErrConfig, c.Turns)
	case c.Workers < 1 || c.Sealing < 1 || c.OpenFiles < 1 || c.CacheBytes < 0 || c.IdleClose < 0:
		return fmt.Errorf("%w: negative limit", ErrConfig)
	}
	return nil
}
