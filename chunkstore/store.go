package chunkstore

import (
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/chunkstore/pack"
	"stepfs/internal/journal"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// DB is what the chunk index needs of the store's metadata: *state.Engine.
// It is an interface so that tests can make single calls fail.
type DB interface {
	Get(key []byte) ([]byte, error)
	NewIter(lower, upper []byte) (*pebble.Iterator, error)
	Update(kind schema.Kind, fn func(tx *state.Tx) error) (journal.Pos, error)
	Sync(pos journal.Pos) error
	Err() error
}

// Store is an open chunk store. Its methods are safe for concurrent use.
type Store struct {
	decoder
	cfg Config
	db  DB
	fs  vfs.FS
	dir string

	dirMu   sync.Mutex // vfs.File.Sync may not run twice at a time
	dirFile vfs.File   // of dir, for syncing

	workers chan *worker  // free ingest workers; nil ones are not built yet
	slots   chan struct{} // held by each pack that has a file and is not finished
	closing chan struct{} // closed by Close

	files *fileCache
	far   far
	up    atomic.Pointer[Uploads] // the last that were asked for
	cache *chunkCache
	loads chan struct{} // chunks being read and decoded at a time

	prefetches chan struct{} // of those, that nobody waits for yet

	damage   damage
	counters counters
	tmpSeq   atomic.Uint64
	firstNew uint64        // no pack found at Open has this number or a greater one
	refsFrom atomic.Uint64 // packs below it are older than references: never collected

	haste atomic.Int32 // see Hurry

	copies atomic.Pointer[func(holder uint64, id [32]byte, off int64, dst []byte) bool] // see Copies

	collecting chan struct{} // held by the one Collect that runs, and by Close for good

	watch atomic.Pointer[func(holder uint64)] // see Watch

	// Under the engine's ordering lock, that is, inside its Update:
	book  *ledger             // of the last transaction that had one
	stale map[uint64]struct{} // packs whose record may differ from what is in memory

	mu struct {
		sync.Mutex
		closed   bool
		inflight map[ID]*packWriter       // claimed chunks that are not indexed yet
		cur      map[lane]*packWriter     // take new claims
		packs    map[*packWriter]struct{} // all that are not finished, cur included
		table    map[uint64]*packInfo     // the indexed packs
		names    map[pack.Name]struct{}   // file names in use: of table, of packs being finished or removed
		totals   totals                   // of the indexed packs
		clock    uint64                   // counts uses of packs
	}
}

// Open opens the chunk store in dir, which is made if it is not there; its
// parent must be there, and durable.
// Temporary files of an earlier run are removed; packs that a crash kept out
// of the index are adopted; packs whose file is gone are remembered, so that
// nothing new refers to them; packs that were about to be collected are live.
func Open(db DB, fs vfs.FS, dir string, cfg Config) (*Store, error) {
	s, err := newStore(db, fs, dir, cfg)
	if err != nil {
		return nil, err
	}
	if err := s.openDir(); err != nil {
		s.coders.close()
		return nil, fmt.Errorf("open chunk store %s: %w", dir, err)
	}
	return s, nil
}

// newStore makes a store that has not looked at its directory yet.
func newStore(db DB, fs vfs.FS, dir string, cfg Config) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	if len(cfg.Older) > 0 {
		cfg.Workers++ // what is stored anew keeps nobody from storing what is new
	}
	s := &Store{
		decoder: newDecoder(cfg.namings(), 32<<20),
		cfg:     cfg,
		db:      db,
		fs:      fs,
		dir:     dir,
		workers: make(chan *worker, cfg.Workers),
		slots:   make(chan struct{}, cfg.Sealing+lanes(cfg)),
		closing: make(chan struct{}),
		loads:   make(chan struct{}, maxLoads()),

		prefetches: make(chan struct{}, min(runtime.GOMAXPROCS(0), maxLoads()-1)),

		collecting: make(chan struct{}, 1),
		stale:      make(map[uint64]struct{}),
	}
	for range cfg.Workers {
		s.workers <- nil
	}
	s.files = newFileCache(fs, cfg.OpenFiles)
	s.far.init(s)
	s.cache = newChunkCache(cfg.CacheBytes, s.buffers)
	s.mu.cur = make(map[lane]*packWriter)
	s.mu.inflight = make(map[ID]*packWriter)
	s.mu.packs = make(map[*packWriter]struct{})
	s.mu.table = make(map[uint64]*packInfo)
	s.mu.names = make(map[pack.Name]struct{})
	return s, nil
}

func (s *Store) openDir() error {
	if err := s.fs.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	// A pack is only as durable as the directory that it is in.
	parent, err := s.fs.OpenDir(s.fs.PathDir(s.dir))
	if err != nil {
		return err
	}
	if err := errors.Join(parent.Sync(), parent.Close()); err != nil {
		return err
	}
	d, err := s.fs.OpenDir(s.dir)
	if err != nil {
		return err
	}
	s.dirFile = d
	if err := s.recover(); err != nil {
		_ = d.Close() // the first error is the one to report
		return err
	}
	return nil
}

func (s *Store) syncDir() error {
	s.dirMu.Lock()
	defer s.dirMu.Unlock()
	return s.dirFile.Sync()
}

// Close abandons the open pack, waits for those on their way to the disk, and
// releases everything. What was abandoned fails with ErrClosed; call Flush
// first to keep it.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.mu.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	s.mu.closed = true
	close(s.closing)
	for _, cur := range s.mu.cur {
		s.failLocked(cur, ErrClosed)
	}
	s.mu.Unlock()
	for range s.cfg.Workers { // running Ingest calls end at their next claim
		if w := <-s.workers; w != nil {
			w.coder.Close()
		}
	}
	s.mu.Lock()
	packs := slices.Collect(maps.Keys(s.mu.packs))
	s.mu.Unlock()
	for _, pw := range packs {
		<-pw.done
	}
	s.collecting <- struct{}{} // a running Collect ends at its next step
	s.far.spans.stop()         // a prefetch may wait for the bucket
	for range cap(s.prefetches) {
		s.prefetches <- struct{}{}
	}
	s.far.close()
	s.cache.drop()
	s.files.drop()
	s.coders.close()
	return s.dirFile.Close()
}
