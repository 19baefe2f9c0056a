package journal

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// zeros is what segments are filled with.
var zeros [256 << 10]byte

// smallSegment is what is made when there is no room for a whole one: what makes
// room on a full disk has to be recorded first.
const smallSegment = 1 << 20

// takeSpare returns a prepared segment of at least size bytes. It waits for one
// that is on its way, and makes one if there is none: only then can it fail.
func (l *Log) takeSpare(size int64) (*segment, error) {
	l.mu.Lock()
	for len(l.mu.spares) == 0 && l.mu.preparing {
		l.mu.changed.Wait()
	}
	if len(l.mu.spares) == 0 {
		l.mu.Unlock()
		if err := l.prepare(); err != nil {
			return nil, err
		}
		l.mu.Lock()
	}
	s := l.mu.spares[0]
	l.mu.spares = l.mu.spares[1:]
	l.mu.Unlock()
	if size <= s.size {
		return s, nil
	}
	// A record larger than a segment: make this one large enough.
	if err := l.extend(s, size); err != nil {
		_ = s.file.Close()
		_ = l.fs.Remove(l.path(segmentName(s.number))) // else the next start does it
		return nil, prepareError(s.number, err)
	}
	return s, nil
}

// Prepare has a segment ready for the next roll-over, so that it can't fail for
// lack of room. The first Append after Open is one.
func (l *Log) Prepare() error {
	if err := l.start(); err != nil {
		return err
	}
	return l.prepare()
}

// prepareInBackground sees to it that the next roll-over finds a spare. A
// failure is not kept: the roll-over that then finds none tries by itself, and
// its error is the one that counts.
func (l *Log) prepareInBackground() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.mu.spares) > 0 || l.mu.preparing || l.closed.Load() {
		return
	}
	l.mu.preparing = true
	l.background.Add(1)
	go func() {
		defer l.background.Done()
		_ = l.prepare()
		l.mu.Lock()
		defer l.mu.Unlock()
		l.mu.preparing = false
		l.mu.changed.Broadcast()
	}()
}

// prepare makes one spare, unless there is one by now. Nothing depends on a
// segment that is not in use yet, so no failure here is final.
func (l *Log) prepare() error {
	l.dirMu.Lock()
	defer l.dirMu.Unlock()
	l.mu.Lock()
	have := len(l.mu.spares) > 0
	l.mu.Unlock()
	if have || l.closed.Load() {
		return l.usable()
	}
	number := l.takeNumber()
	s, err := l.create(number, l.size)
	if isNoSpace(err) && l.size > smallSegment {
		s, err = l.create(number, smallSegment)
	}
	if err != nil {
		return prepareError(number, err)
	}
	l.addSpare(s)
	return nil
}

// create writes a segment file full of zeros. Under its final name it is whole
// and durable, and so is the name.
func (l *Log) create(number uint64, size int64) (*segment, error) {
	tmp, name := l.path(tmpName(number)), l.path(segmentName(number))
	f, err := l.fs.OpenReadWrite(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, err
	}
	s := &segment{file: f, number: number}
	if err = l.extend(s, size); err == nil {
		if err = l.fs.Rename(tmp, name); err == nil {
			tmp = name
			err = l.dirFile.Sync()
		}
	}
	if err != nil {
		_ = f.Close()
		_ = l.fs.Remove(tmp) // gives the space back; else the next start does
		return nil, err
	}
	return s, nil
}

// extend fills s with zeros up to size and syncs it, metadata and all. Asking for
// the space first makes a full disk say so at once.
func (l *Log) extend(s *segment, size int64) error {
	if err := s.file.Preallocate(s.size, size-s.size); isNoSpace(err) {
		return err // otherwise only a hint
	}
	for off := s.size; off < size; {
		n, err := s.file.WriteAt(zeros[:min(int64(len(zeros)), size-off)], off)
		if err != nil {
			return err
		}
		off += int64(n)
	}
	if err := s.file.Sync(); err != nil {
		return err
	}
	s.size = size
	return nil
}

// retire takes a file that holds nothing of the log any more, under the name it
// has, out of the directory, durably: as a spare if one is wanted and it is fit
// to be one. Caller holds dirMu.
func (l *Log) retire(name string, size int64, fit bool) error {
	l.mu.Lock()
	reuse := fit && size == l.size && len(l.mu.spares) < maxSpares && !l.closed.Load()
	l.mu.Unlock()
	if !reuse {
		if err := l.fs.Remove(l.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("journal: remove %s: %w", name, err)
		}
		return l.syncDir()
	}
	number := l.takeNumber()
	path := l.path(segmentName(number))
	err := l.fs.Rename(l.path(name), path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("journal: recycle %s: %w", name, err)
	}
	if serr := l.syncDir(); serr != nil || err != nil {
		return serr // a file that is gone already is as good, but no spare
	}
	f, err := l.fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("journal: open recycled segment %d: %w", number, err)
	}
	l.addSpare(&segment{file: f, number: number, size: size})
	return nil
}

func (l *Log) addSpare(s *segment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.spares = append(l.mu.spares, s)
	l.mu.changed.Broadcast()
}

func (l *Log) takeNumber() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.mu.nextNumber
	l.mu.nextNumber++
	return n
}

func (l *Log) syncDir() error {
	if err := l.dirFile.Sync(); err != nil {
		return fmt.Errorf("journal: sync directory %s: %w", l.dir, err)
	}
	return nil
}

func prepareError(number uint64, err error) error {
	return noSpace(fmt.Errorf("journal: prepare segment %d: %w", number, err))
}
