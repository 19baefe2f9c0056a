// Package state is the store's metadata: the journal, which is the only log,
// and Pebble, which is the journal's applied state.
//
// Every change is one transaction (Engine.Update): the exact puts and deletes
// of keys that it results in. The transaction is handed to the kernel as one
// journal record by one write(2), and then applied to Pebble's memtable with
// the record's position in the same batch. Pebble has no log of its own: after
// a crash it holds the state as of its last flush, whose position it knows,
// and Open replays the journal from there. Replay is applying the same puts
// again, so it reads no clock, does no file I/O and cannot come out
// differently.
//
// Invariants:
//   - Records are applied in journal order, under Engine.mu, the ordering lock.
//   - A caller is answered only after its record is in the kernel's hands.
//   - A segment is trimmed only once Pebble holds it durably.
//   - After a failed append, sync or apply the engine refuses every change
//     until a restart (ErrReadOnly); reads go on.
package state

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/internal/journal"
	"stepfs/internal/schema"
)

var (
	// ErrNotFound is returned by Get for a key that does not exist.
	ErrNotFound = pebble.ErrNotFound
	// ErrReadOnly wraps the first failure of the log; it stays until a restart.
	ErrReadOnly = errors.New("the store is read-only since its journal failed; restart the daemon once the disk is well")
	// ErrIndexFull says that Pebble can't flush because the disk is full.
	ErrIndexFull = fmt.Errorf("index can't be flushed: %w", syscall.ENOSPC)
)

// Config says where a store's metadata lies. Dir and FS are required.
type Config struct {
	Dir    string
	FS     vfs.FS
	BootID string // identifies this boot of the machine
	// MemTable is the size of one Pebble memtable in bytes, Cache that of its
	// block cache. Zero means the default (16 MiB, 48 MiB).
	MemTable uint64
	Cache    int64
	// SegmentSize of the journal; zero means its default.
	SegmentSize int64
	// Bulk makes an index without a journal: for one that is built beside the
	// store's and takes its place once it is closed, with the journal that
	// JournalOfBulk makes. What a crash leaves of it is of no use.
	Bulk bool
	// Damage hears of tables of the index that don't read back; their readers
	// get the error besides. It must not block. May be nil.
	Damage func(error)
	// Dying hears why the process has to end: Pebble can't note any more what its
	// tables are. Nothing that was acknowledged is lost, the journal has it. It must
	// end the process, and not return; nil: a panic does it.
	Dying func(error)
}

// Recovery says what Open found.
type Recovery struct {
	Fresh bool // the store had no journal yet
	Clean bool // the last daemon closed it
	// PowerCut: the machine has been down since a transaction last said that
	// nothing unsynced is in doubt (Tx.PutBoot). A daemon that died while it
	// put that right has not said so, nor does a clean close say it.
	PowerCut bool
	Replayed int // records applied again
}

// Engine is open metadata. Its methods are safe for concurrent use.
type Engine struct {
	cfg Config
	db  *pebble.DB
	log *journal.Log
	rec Recovery
	// hadJournal: there were segments, so records may have been made.
	hadJournal bool

	failed  atomic.Pointer[error]
	flushed chan struct{}
	want    *want
	done    chan struct{}
	wg      sync.WaitGroup

	// mu is the ordering lock: it is held from building a record to its being
	// applied, and never across a sync.
	mu struct {
		sync.Mutex
		epoch            uint64 // number of the next cut
		ino, inoReserved uint64 // next inode number, and where the reservation in the index ends
		gen, genReserved uint64
		pos              journal.Pos // end of the last applied record
	}
}

// Open opens the metadata below cfg.Dir and replays what the index misses.
func Open(cfg Config) (*Engine, error) {
	if cfg.MemTable == 0 {
		cfg.MemTable = 16 << 20
	}
	if cfg.Cache == 0 {
		cfg.Cache = 48 << 20
	}
	e := &Engine{cfg: cfg, flushed: make(chan struct{}, 1), want: newWant(), done: make(chan struct{})}
	if err := e.openJournal(); err != nil {
		return nil, err
	}
	if err := e.openIndex(); err != nil {
		return nil, errors.Join(err, e.log.Close(false))
	}
	if err := e.replay(); err != nil {
		return nil, errors.Join(err, e.log.Close(false), e.closeIndex())
	}
	e.wg.Add(1)
	go e.trimLoop()
	return e, nil
}

// Prepare sets room aside for the next Update: on a disk that others fill, what
// is free when a store is opened is gone a moment later.
func (e *Engine) Prepare() error { return e.log.Prepare() }

// Recovery says what Open found.
func (e *Engine) Recovery() Recovery { return e.rec }

// Epoch is the number of the next cut.
func (e *Engine) Epoch() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.mu.epoch
}

// Pos is the position behind the last applied record.
func (e *Engine) Pos() journal.Pos {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.mu.pos
}

// Err is the failure that made the engine read-only, or nil.
func (e *Engine) Err() error {
	if p := e.failed.Load(); p != nil {
		return *p
	}
	return nil
}

func (e *Engine) fail(err error) error {
	err = fmt.Errorf("%w: %w", ErrReadOnly, err)
	e.failed.CompareAndSwap(nil, &err)
	return e.Err()
}

// Update runs fn to build one transaction, appends it to the journal and
// applies it. An error of fn means that nothing happened. A transaction
// without a change writes nothing. The returned position is what Sync takes.
func (e *Engine) Update(kind schema.Kind, fn func(tx *Tx) error) (journal.Pos, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.Err(); err != nil {
		return 0, err
	}
	if e.want.full.Load() && e.backlog() {
		return 0, ErrIndexFull
	}
	tx := &Tx{e: e, batch: e.db.NewBatch(), epoch: e.mu.epoch}
	defer tx.batch.Close()
	if err := fn(tx); err != nil {
		return 0, err
	}
	if tx.batch.Empty() {
		return e.mu.pos, nil
	}
	return e.commit(kind, tx)
}

func (e *Engine) commit(kind schema.Kind, tx *Tx) (end journal.Pos, err error) {
	end = bulkPos
	if !e.cfg.Bulk {
		end, err = e.log.Append([]byte{byte(kind)}, tx.batch.Repr())
	}
	if errors.Is(err, journal.ErrNoSpace) {
		return 0, err
	}
	if err != nil {
		return 0, e.fail(err)
	}
	if err := e.apply(tx.batch, end); err != nil {
		return 0, e.fail(err)
	}
	e.mu.epoch = tx.epoch
	e.mu.inoReserved = max(e.mu.inoReserved, tx.inoReserved)
	return end, nil
}

func (e *Engine) apply(b *pebble.Batch, end journal.Pos) error {
	if err := b.Set(schema.PositionKey(), schema.Counter(uint64(end)), nil); err != nil {
		return err
	}
	if err := e.db.Apply(b, pebble.NoSync); err != nil {
		return fmt.Errorf("apply to index: %w", err)
	}
	e.mu.pos = end
	return nil
}

// Sync returns once every record that ends at or before pos is durable.
func (e *Engine) Sync(pos journal.Pos) error {
	if err := e.Err(); err != nil || e.cfg.Bulk { // what is made in bulk is durable once it is closed
		return err
	}
	if err := e.log.Sync(pos); err != nil {
		return e.fail(err)
	}
	return nil
}

// Get gives a copy of the value of key, or ErrNotFound.
func (e *Engine) Get(key []byte) ([]byte, error) {
	v, c, err := e.db.Get(key)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return append([]byte(nil), v...), nil
}

// NewIter iterates over [lower, upper) as it is now.
func (e *Engine) NewIter(lower, upper []byte) (*pebble.Iterator, error) {
	return e.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
}

// First gives a copy of the first key and value that start with prefix, or
// ErrNotFound: with versioned keys, the newest version.
func (e *Engine) First(prefix []byte) (key, val []byte, err error) {
	return e.Seek(prefix, prefix)
}

// Seek gives a copy of the first key at or after from that starts with
// prefix, and its value, or ErrNotFound.
func (e *Engine) Seek(prefix, from []byte) (key, val []byte, err error) {
	it, err := e.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return nil, nil, err
	}
	if !it.SeekGE(from) {
		err := it.Error()
		if err == nil {
			err = ErrNotFound
		}
		return nil, nil, errors.Join(err, it.Close())
	}
	key, val = append([]byte(nil), it.Key()...), append([]byte(nil), it.Value()...)
	return key, val, it.Close()
}

// Metrics gives Pebble's own counters.
func (e *Engine) Metrics() *pebble.Metrics { return e.db.Metrics() }

// Flush makes the index hold durably all that was applied so far. On an error
// Pebble goes on trying.
func (e *Engine) Flush() error {
	select {
	case <-e.want.failed: // an old one
	default:
	}
	done, err := e.db.AsyncFlush()
	if err != nil {
		return err
	}
	select {
	case <-done:
		return nil
	case err := <-e.want.failed:
		return fmt.Errorf("flush the index: %w", err)
	case <-e.want.dead:
		return ErrIndexFull
	}
}

// Close flushes the index and closes the store; clean says that nothing is
// under way, so that the next Open need not look for torn work.
func (e *Engine) Close(clean bool) error {
	close(e.done)
	e.wg.Wait()
	e.want.closing.Store(true)
	var errs []error
	if clean && e.Err() == nil {
		// What a full disk keeps from the index, the journal has, and the next Open
		// replays it; but in bulk nothing else has it.
		if err := e.Flush(); err != nil && (e.cfg.Bulk || !isNoSpace(err) && !errors.Is(err, ErrIndexFull)) {
			errs = append(errs, err)
		}
	}
	errs = append(errs, e.log.Close(clean && e.Err() == nil && !e.cfg.Bulk))
	return errors.Join(append(errs, e.closeIndex())...)
}

// closeIndex closes Pebble, or leaves it where it is if its work can't end for
// lack of room: nothing of it is needed any more.
func (e *Engine) closeIndex() error {
	e.want.closing.Store(true)
	closed := make(chan error, 1)
	go func() { closed <- e.db.Close() }()
	select {
	case err := <-closed:
		if isNoSpace(err) { // its own log, which is empty
			err = nil
		}
		return err
	case <-e.want.dead:
		return nil
	}
}
