package state

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"

	"stepfs/internal/journal"
	"stepfs/internal/schema"
)

// stopWrites is how many memtables may wait for a flush before Pebble would
// make writers wait; Update answers ErrIndexFull before that when the disk is
// full, since a writer that hangs is worse than one that is told.
const stopWrites = 6

func (e *Engine) openIndex() error {
	cache := pebble.NewCache(e.cfg.Cache)
	defer cache.Unref()
	opts := &pebble.Options{
		FS: indexFS{e.cfg.FS, e.want}, Cache: cache, DisableWAL: true,
		MemTableSize: e.cfg.MemTable, MemTableStopWritesThreshold: stopWrites,
		FormatMajorVersion:         pebble.FormatNewest,
		L0CompactionThreshold:      4,
		L0StopWritesThreshold:      64,
		MaxOpenFiles:               512,
		Logger:                     silent{e.want, e.cfg.Dying},
		CompactionConcurrencyRange: func() (int, int) { return 1, 1 },
		EventListener: &pebble.EventListener{
			FlushEnd: func(i pebble.FlushInfo) {
				e.want.full.Store(isNoSpace(i.Err))
				if i.Err == nil {
					e.want.failing.Store(false)
				}
				select {
				case e.flushed <- struct{}{}:
				default:
				}
			},
			CompactionEnd: func(i pebble.CompactionInfo) {
				if i.Err == nil {
					e.want.failing.Store(false)
				}
			},
			BackgroundError: func(err error) { // of a flush or compaction, which is tried again
				e.want.failing.Store(true)
				e.want.tell(err)
			},
			// By default Pebble ends the process. Whoever reads the damaged block
			// gets the error: it is theirs to say that what they want can't be had.
			DataCorruption: func(i pebble.DataCorruptionInfo) {
				if e.cfg.Damage != nil {
					e.cfg.Damage(fmt.Errorf("%s: %w", i.Path, i.Details))
				}
			},
		},
	}
	for i := range opts.Levels {
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		opts.Levels[i].BlockSize = 16 << 10
	}
	dir := e.cfg.FS.PathJoin(e.cfg.Dir, "index")
	if files, err := e.cfg.FS.List(dir); err == nil { // else there is none yet
		e.want.exists.Store(slices.ContainsFunc(files, func(name string) bool { return strings.HasPrefix(name, "MANIFEST-") }))
	}
	db, err := e.want.openPebble(dir, opts)
	if err != nil && e.unborn(dir) {
		if err = e.cfg.FS.RemoveAll(dir); err == nil {
			db, err = e.want.openPebble(dir, opts)
		}
	}
	if err != nil {
		return fmt.Errorf("open index %s: %w", dir, err)
	}
	e.db = db
	e.want.exists.Store(true)
	e.want.open.Store(true)
	return nil
}

// openPebble gives up when Pebble's own work can't go on for lack of room.
func (w *want) openPebble(dir string, opts *pebble.Options) (*pebble.DB, error) {
	type opened struct {
		db  *pebble.DB
		err error
	}
	done := make(chan opened, 1)
	go func() {
		db, err := pebble.Open(dir, opts)
		done <- opened{db, err}
	}()
	select {
	case o := <-done:
		return o.db, o.err
	case <-w.dead:
		return nil, ErrIndexFull
	}
}

// unborn says that power failed while the store was made: the journal never
// had a segment, which comes before the first record, and the index no table.
func (e *Engine) unborn(index string) bool {
	files, err := e.cfg.FS.List(index)
	tables := slices.ContainsFunc(files, func(name string) bool { return filepath.Ext(name) == ".sst" })
	return err == nil && !tables && !e.hadJournal
}

func (e *Engine) openJournal() error {
	dir := e.cfg.FS.PathJoin(e.cfg.Dir, "journal")
	log, err := journal.Open(e.cfg.FS, dir, journal.Options{SegmentSize: e.cfg.SegmentSize, BootID: e.cfg.BootID})
	if err != nil {
		return fmt.Errorf("open journal: %w", err)
	}
	files, err := e.cfg.FS.List(dir)
	if err != nil {
		return errors.Join(fmt.Errorf("list journal: %w", err), log.Close(false))
	}
	e.log, e.hadJournal = log, len(files) > 0
	return nil
}

func (e *Engine) replay() error {
	r := e.log.Recovered()
	from, err := e.counter(schema.PositionKey(), 0)
	if err != nil {
		return err
	}
	pos := journal.Pos(from)
	e.rec.Fresh = r.End == 0
	e.rec.Clean = r.Clean
	boot, err := e.boot()
	if err != nil {
		return err
	}
	rebooted := boot != e.cfg.BootID && r.LastBoot != e.cfg.BootID
	switch {
	case pos > r.End && rebooted && e.hadJournal:
		// A flush made the index durable before anyone synced the journal, and
		// power failed: the index holds what the journal lost.
		if err := e.log.Advance(pos); err != nil {
			return fmt.Errorf("advance journal: %w", err)
		}
		r.End = pos
	case pos > r.End || pos < r.First:
		return fmt.Errorf("%w: the index is at journal position %d, the journal holds %d to %d: one of them is missing or from another time",
			schema.ErrCorrupt, pos, r.First, r.End)
	}
	e.mu.pos = pos
	if pos < r.End {
		err = e.log.Replay(pos, func(end journal.Pos, payload []byte) error {
			e.rec.Replayed++
			return e.redo(end, payload)
		})
		if err != nil {
			return fmt.Errorf("replay journal: %w", err)
		}
		if boot, err = e.boot(); err != nil {
			return err
		}
	}
	e.rec.PowerCut = e.mu.pos > 0 && boot != e.cfg.BootID
	return e.loadCounters()
}

// boot is the boot that PutBoot noted last.
func (e *Engine) boot() (string, error) {
	v, err := e.Get(schema.MetaKey(schema.MetaBoot))
	if errors.Is(err, ErrNotFound) {
		err = nil
	}
	return string(v), err
}

func (e *Engine) redo(end journal.Pos, payload []byte) error {
	if len(payload) < 1 {
		return fmt.Errorf("%w: empty journal record", schema.ErrCorrupt)
	}
	if err := checkBatch(payload[1:]); err != nil {
		return err
	}
	b := e.db.NewBatch()
	defer b.Close()
	if err := b.SetRepr(append([]byte(nil), payload[1:]...)); err != nil {
		return fmt.Errorf("%w: journal record: %w", schema.ErrCorrupt, err)
	}
	return e.apply(b, end)
}

func (e *Engine) counter(key []byte, def uint64) (uint64, error) {
	v, err := e.Get(key)
	if errors.Is(err, ErrNotFound) {
		return def, nil
	}
	if err != nil {
		return 0, err
	}
	return schema.ParseCounter(v)
}

func (e *Engine) loadCounters() (err error) {
	get := func(name string, def uint64) uint64 {
		v, e2 := e.counter(schema.MetaKey(name), def)
		err = errors.Join(err, e2)
		return v
	}
	e.mu.epoch = get(schema.MetaEpoch, 1)
	e.mu.ino = get(schema.MetaNextIno, 1)
	e.mu.gen = get(schema.MetaNextGen, 1)
	e.mu.inoReserved, e.mu.genReserved = e.mu.ino, e.mu.gen
	return err
}

// backlog says whether so much waits for a flush that Pebble may soon stop
// its writers.
func (e *Engine) backlog() bool {
	return e.db.Metrics().MemTable.Size > (stopWrites-2)*e.cfg.MemTable
}

// trimLoop frees journal segments once the index holds them durably.
func (e *Engine) trimLoop() {
	defer e.wg.Done()
	for {
		select {
		case <-e.done:
			return
		case <-e.flushed:
		}
		if pos, err := e.durable(); err == nil && pos > 0 {
			// A failure keeps segments that are not needed: Append reports what
			// matters, and the next flush tries again.
			_ = e.log.Trim(pos)
		}
	}
}

// durable is the position that the index would open with after a power cut.
func (e *Engine) durable() (journal.Pos, error) {
	key := schema.PositionKey()
	it, err := e.db.NewIter(&pebble.IterOptions{LowerBound: key, UpperBound: schema.After(key), OnlyReadGuaranteedDurable: true})
	if err != nil {
		return 0, err
	}
	defer it.Close()
	if !it.First() {
		return 0, it.Error()
	}
	n, err := schema.ParseCounter(it.Value())
	return journal.Pos(n), err
}

// silent drops Pebble's own log lines: what matters reaches callers as errors.
type silent struct {
	want  *want
	dying func(error)
}

func (silent) Infof(string, ...any)  {}
func (silent) Errorf(string, ...any) {}
func (s silent) Fatalf(format string, args ...any) {
	s.want.abandon()
	err := fmt.Errorf("index: "+format, args...)
	if s.dying != nil {
		s.dying(err)
	}
	panic(err)
}
