package journal

import (
	"errors"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// copyOnWrite is a filesystem on which a write into a file that is there needs
// room, and may find it for a part.
type copyOnWrite struct {
	vfs.FS
	full *atomic.Bool
	part float64
}

func (fs copyOnWrite) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	f, err := fs.FS.OpenReadWrite(name, c, o...)
	return cowFile{f, fs}, err
}

type cowFile struct {
	vfs.File
	fs copyOnWrite
}

func (f cowFile) WriteAt(b []byte, off int64) (int, error) {
	if !f.fs.full.Load() {
		return f.File.WriteAt(b, off)
	}
	if len(b) <= recordHeaderLen && f.fs.part > 0 { // over what has its room
		return f.File.WriteAt(b, off)
	}
	n, _ := f.File.WriteAt(b[:int(float64(len(b))*f.fs.part)], off)
	return n, syscall.ENOSPC
}

// TestNoSpaceForRecord: a record for which a copy on write finds no room is
// refused, whatever part of it is there, and the log goes on when there is room.
func TestNoSpaceForRecord(t *testing.T) {
	for _, part := range []float64{0, 0.1, 0.5, 0.99} {
		mem := vfs.NewMem()
		var full atomic.Bool
		l := mustOpen(t, copyOnWrite{mem, &full, part}, testOptions)
		var want []entry
		for i := range 10 {
			want = append(want, mustAppend(t, l, payload(i, 100)))
			full.Store(true)
			if _, err := l.Append(payload(100+i, 300)); !errors.Is(err, ErrNoSpace) {
				t.Fatalf("%v is no ErrNoSpace", err)
			}
			if i%3 == 0 {
				mustSync(t, l, l.End())
			}
			full.Store(false)
		}
		full.Store(true)
		_, _ = l.Append(payload(999, 300))
		full.Store(false)
		l = mustOpen(t, mem, testOptions) // as after kill -9
		checkReplay(t, l, 0, want)
		mustClose(t, l, true)
	}
}

// tight is a filesystem on which a whole segment does not fit any more.
type tight struct{ vfs.FS }

func (fs tight) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	f, err := fs.FS.OpenReadWrite(name, c, o...)
	return tightFile{f}, err
}

type tightFile struct{ vfs.File }

func (f tightFile) Preallocate(off, n int64) error {
	if n > smallSegment {
		return syscall.ENOSPC
	}
	return f.File.Preallocate(off, n)
}

// TestSmallSegments: what makes room can be recorded where a whole segment does
// not fit, for as long as small ones do.
func TestSmallSegments(t *testing.T) {
	mem := vfs.NewMem()
	l := mustOpen(t, tight{mem}, Options{SegmentSize: 4 * smallSegment})
	var want []entry
	for i := range 60 {
		want = append(want, mustAppend(t, l, payload(i, 100_000)))
	}
	mustSync(t, l, l.End())
	mustClose(t, l, true)
	l = mustOpen(t, mem, Options{SegmentSize: 4 * smallSegment})
	checkReplay(t, l, 0, want)
	mustClose(t, l, true)
}

// crowded is a filesystem that others fill: no new file gets a block.
type crowded struct {
	vfs.FS
	full *atomic.Bool
}

func (fs crowded) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	if _, err := fs.Stat(name); err != nil && fs.full.Load() {
		return nil, syscall.ENOSPC
	}
	return fs.FS.OpenReadWrite(name, c, o...)
}

// TestPrepare: what was free when the log was opened is taken at once, whatever
// becomes of the disk before the first record.
func TestPrepare(t *testing.T) {
	mem := vfs.NewMem()
	var full atomic.Bool
	full.Store(true)
	l := mustOpen(t, mem, testOptions)
	want := []entry{mustAppend(t, l, payload(1, 100))}
	mustClose(t, l, true)
	files, err := mem.List(testDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files { // no spare: there was no room for one
		if name != segmentName(1) {
			if err := mem.Remove(mem.PathJoin(testDir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	l = mustOpen(t, crowded{mem, &full}, testOptions)
	full.Store(false)
	if err := l.Prepare(); err != nil {
		t.Fatal(err)
	}
	full.Store(true)
	want = append(want, mustAppend(t, l, payload(2, 100)))
	mustClose(t, l, true)
	l = mustOpen(t, mem, testOptions)
	checkReplay(t, l, 0, want)
	mustClose(t, l, true)
}
