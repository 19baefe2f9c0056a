package state

import (
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// indexFS is the filesystem as Pebble should have it.
//
// It makes the names in a directory durable before a marker is made in it or
// removed from it. Pebble's markers name another file of the directory (its
// MANIFEST), and Pebble syncs that file, but its name only together with the
// marker's, and it removes the old marker before the new one is durable. Where
// a filesystem does not keep the order of all that, a power cut could leave a
// marker alone, or none: an index that is empty.
//
// It waits for room where Pebble can't go on without: an error while Pebble
// notes what tables there are, at the end of a flush, would end the process, at
// the time when somebody has filled the disk. Tables may fail: Pebble makes
// them again. But it does so at once, all day; so it is made to pause.
type indexFS struct {
	vfs.FS
	want *want
}

// want is what Pebble's background work lacks. Pebble itself tells nobody but
// its listener.
type want struct {
	exists  atomic.Bool  // there is an index; while one is made, nothing waits: Pebble reports errors then
	open    atomic.Bool  // it is open: what waits for room waits for as long as it takes
	closing atomic.Bool  // nothing waits any more
	waits   atomic.Int32 // how often something has waited before it was open

	failing atomic.Bool // the last flush or compaction failed
	full    atomic.Bool // for lack of room
	failed  chan error  // a failure that nobody has taken

	once sync.Once
	dead chan struct{} // closed when work of Pebble's had to be abandoned
}

const (
	retryPause   = 100 * time.Millisecond
	openingWaits = 20
)

func newWant() *want { return &want{failed: make(chan error, 1), dead: make(chan struct{})} }

// tell notes that something failed, and will be tried again.
func (w *want) tell(err error) {
	if isNoSpace(err) {
		w.full.Store(true)
	}
	select {
	case w.failed <- err:
	default:
	}
}

// room says whether to try once more what failed with err: after a pause, if it
// was for lack of room.
func (w *want) room(err error) bool {
	if !isNoSpace(err) || !w.exists.Load() {
		return false
	}
	w.tell(err)
	if w.closing.Load() || !w.open.Load() && w.waits.Add(1) > openingWaits {
		return false
	}
	time.Sleep(retryPause)
	return true
}

// abandon ends the goroutine of Pebble's that can't go on for lack of room,
// while the index is opened or closed: the journal has everything.
func (w *want) abandon() {
	if w.exists.Load() && w.full.Load() && (w.closing.Load() || !w.open.Load()) {
		w.once.Do(func() { close(w.dead) })
		runtime.Goexit()
	}
}

// Create makes a file for writing.
func (fs indexFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	base := fs.PathBase(name)
	marker := isMarker(base)
	if !marker && !strings.HasPrefix(base, "MANIFEST-") {
		if fs.want.failing.Load() && strings.HasSuffix(base, ".sst") {
			time.Sleep(retryPause)
		}
		return fs.FS.Create(name, c)
	}
	if marker {
		if err := fs.syncDir(fs.PathDir(name)); err != nil {
			return nil, err
		}
	}
	for {
		f, err := fs.FS.Create(name, c)
		if err == nil {
			return patient{f, fs.want}, nil
		}
		if !fs.want.room(err) {
			return nil, err
		}
	}
}

// Remove removes a file.
func (fs indexFS) Remove(name string) error {
	if isMarker(fs.PathBase(name)) {
		if err := fs.syncDir(fs.PathDir(name)); err != nil {
			return err
		}
	}
	return fs.FS.Remove(name)
}

func isMarker(base string) bool { return strings.HasPrefix(base, "marker.") }

func (fs indexFS) syncDir(path string) error {
	dir, err := fs.OpenDir(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Unwrap gives the filesystem below.
func (fs indexFS) Unwrap() vfs.FS { return fs.FS }

// patient is a file whose writes wait for room.
type patient struct {
	vfs.File
	want *want
}

// Write appends.
func (f patient) Write(p []byte) (n int, err error) {
	for {
		k, err := f.File.Write(p[n:])
		if n += k; err == nil || !f.want.room(err) {
			return n, err
		}
	}
}

func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
