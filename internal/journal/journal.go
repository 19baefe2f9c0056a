package journal

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// DefaultSegmentSize is the size of a segment file when Options names none.
const DefaultSegmentSize = 16 << 20

const (
	// minSegmentSize and segmentGrain keep segment files whole blocks.
	minSegmentSize = 4096
	segmentGrain   = 4096
	// maxSpares bounds the disk space that unused segments take.
	maxSpares = 2
)

// Options are the parameters of a Log; zero values mean the defaults.
type Options struct {
	SegmentSize int64  // rounded up to whole 4 KiB; default DefaultSegmentSize
	BootID      string // identifies this boot of the machine; at most 63 bytes
}

// Recovery is what Open found.
type Recovery struct {
	First     Pos    // of the oldest record kept
	End       Pos    // of the last whole record; the log goes on from here
	Synced    Pos    // greatest position that a record knew to be durable
	LastBoot  string // boot id of the newest segment; "" for an empty log
	Clean     bool   // the last record is that of a clean shutdown
	TornBytes int64  // size of records begun behind End, none of them acknowledged by Sync
	Segments  int
}

// Log is the journal. See the package comment for what it promises.
type Log struct {
	fs   vfs.FS
	dir  string
	size int64 // of a segment file
	boot string
	rec  Recovery

	// end is where the next record goes: everything below was handed to the
	// kernel. Written by Append alone. synced is the durable part of it.
	end    atomic.Uint64
	synced atomic.Uint64

	failure atomic.Pointer[error] // the first failed write or sync; never cleared
	started atomic.Bool           // start has run
	closed  atomic.Bool

	// Owned by Append, which its caller serialises.
	cur  *segment // nil until the first Append
	buf  []byte
	seal sealer
	// Advance skipped the positions from gap[0] to gap[1]; both 0 without it.
	gap [2]Pos

	// dirMu is held by whoever makes, renames or removes files. Before mu.
	dirMu     sync.Mutex
	dirFile   vfs.File
	leftovers []leftover // found by Open, to be cleared by start

	mu struct {
		sync.Mutex
		// changed is signalled when a sync ends and when a spare arrives or
		// its preparation ends.
		changed sync.Cond
		// live is every segment that holds records, oldest first; the last one
		// is cur once there is one.
		live []liveSegment
		// unsynced is every open segment that may have records behind synced,
		// oldest first; the last one is cur.
		unsynced []*segment
		// spares are prepared, in the order of their numbers.
		spares     []*segment
		preparing  bool // a goroutine is on its way to prepare one
		syncing    bool // someone is in SyncData
		nextNumber uint64
	}
	background sync.WaitGroup
}

// segment is an open segment file: a spare, the current one, or one that was
// rolled over and is not yet known durable.
type segment struct {
	file   vfs.File
	number uint64
	size   int64
	off    int64 // of the next record
}

// liveSegment is a segment with records, open or not.
type liveSegment struct {
	number  uint64
	prev    uint64
	prevEnd Pos
	first   Pos
	end     Pos // not kept up for the current segment
	size    int64
	found   bool // by Open, and made durable by start
}

// leftover is a segment file that holds nothing of the log.
type leftover struct {
	name string
	size int64
	tmp  bool
}

// Open finds out what the journal in dir holds, creating dir if need be. It
// changes no segment: that waits for the first Append, Sync or Trim.
func Open(fs vfs.FS, dir string, o Options) (*Log, error) {
	if len(o.BootID) > maxBootID {
		return nil, fmt.Errorf("journal: boot id of %d bytes, at most %d", len(o.BootID), maxBootID)
	}
	if o.SegmentSize == 0 {
		o.SegmentSize = DefaultSegmentSize
	}
	o.SegmentSize = roundUp(max(o.SegmentSize, minSegmentSize), segmentGrain)
	l := &Log{fs: fs, dir: dir, size: o.SegmentSize, boot: o.BootID}
	l.mu.changed.L = &l.mu
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("journal: create directory %s: %w", dir, err)
	}
	if err := l.recover(); err != nil {
		return nil, err
	}
	d, err := fs.OpenDir(dir)
	if err != nil {
		return nil, fmt.Errorf("journal: open directory %s: %w", dir, err)
	}
	l.dirFile = d
	l.end.Store(uint64(l.rec.End))
	l.synced.Store(uint64(l.rec.Synced))
	return l, nil
}

// syncParent makes the directory's own name durable, so that a synced record
// cannot vanish with it. Its parent is its creator's business.
func (l *Log) syncParent() error {
	parent, err := l.fs.OpenDir(l.fs.PathDir(l.dir))
	if err != nil {
		return fmt.Errorf("journal: open parent of %s: %w", l.dir, err)
	}
	err = parent.Sync()
	if cerr := parent.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("journal: sync parent of %s: %w", l.dir, err)
	}
	return nil
}

// Recovered is what Open found.
func (l *Log) Recovered() Recovery { return l.rec }

// End is the position behind the last record appended.
func (l *Log) End() Pos { return Pos(l.end.Load()) }

// Synced is the position up to which everything is known durable.
func (l *Log) Synced() Pos { return Pos(l.synced.Load()) }

// First is the position of the oldest record kept.
func (l *Log) First() Pos {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.mu.live) == 0 {
		return l.End()
	}
	return l.mu.live[0].first
}

// Advance moves the end of an opened log up to to, before the first Append. It
// is for an applied state that is ahead of the journal: the state was flushed,
// the records behind it were not synced, and power failed. Positions must not be
// used twice, or a later replay would take new records for applied ones.
func (l *Log) Advance(to Pos) error {
	if l.cur != nil {
		return ErrStarted
	}
	if to < l.End() || to > maxPos {
		return fmt.Errorf("journal: advance to %d: the log ends at %d", to, l.End())
	}
	if err := l.start(); err != nil {
		return err
	}
	l.gap = [2]Pos{l.rec.End, to}
	l.end.Store(uint64(to))
	return nil
}

// claim is the position that the next record may call durable. That positions
// were skipped is known to one segment's header alone, and that is durable only
// together with the first record behind it.
func (l *Log) claim() Pos {
	synced := l.Synced()
	if synced <= l.gap[1] {
		synced = min(synced, l.gap[0])
	}
	return synced
}

// Close ends the use of the log; it must not run together with Append. With
// clean, everything is synced first and a record says so; without, the log is
// left as a crash would leave it.
func (l *Log) Close(clean bool) error {
	if l.closed.Load() {
		return ErrClosed
	}
	var err error
	if clean {
		err = l.markClean()
	}
	l.closed.Store(true)
	l.background.Wait()

	l.dirMu.Lock()
	defer l.dirMu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.mu.syncing {
		l.mu.changed.Wait()
	}
	l.mu.changed.Broadcast()
	for _, s := range append(l.mu.unsynced, l.mu.spares...) {
		if cerr := s.file.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("journal: close segment %d: %w", s.number, cerr)
		}
	}
	l.mu.unsynced, l.mu.spares, l.cur = nil, nil, nil
	if cerr := l.dirFile.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("journal: close directory: %w", cerr)
	}
	return err
}

// markClean appends and syncs the record of a clean shutdown. It is a record,
// not a flag in a header, since a header rewritten in place could tear.
func (l *Log) markClean() error {
	if l.cur == nil && l.rec.Clean && l.End() == l.rec.End {
		return nil // nothing happened since the last one
	}
	if err := l.Sync(l.End()); err != nil {
		return err
	}
	end, err := l.append(kindClean)
	if err != nil {
		return err
	}
	return l.Sync(end)
}

// fail records the first failed write or sync and returns what every later call
// returns too.
func (l *Log) fail(err error) error {
	wrapped := fmt.Errorf("%w: %w", ErrFailed, err)
	l.failure.CompareAndSwap(nil, &wrapped)
	return *l.failure.Load()
}

// usable is nil unless the log has failed or was closed.
func (l *Log) usable() error {
	if err := l.failure.Load(); err != nil {
		return *err
	}
	if l.closed.Load() {
		return ErrClosed
	}
	return nil
}

func (l *Log) path(name string) string { return l.fs.PathJoin(l.dir, name) }

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }
