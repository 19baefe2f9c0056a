package journal

import (
	"errors"
	"fmt"
	"math"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Salvaged says what of a damaged journal can still be had.
type Salvaged struct {
	First, End Pos  // of the records before the damage
	Last       Pos  // behind the last change that reads back, wherever it is
	Clean      bool // the log was closed after that one: nothing follows
	Lost       []error
}

// Salvage copies the part of the journal in dir that comes before its first
// damage into another directory, which must not be there, as a journal of its
// own. It changes nothing in dir.
func Salvage(fs vfs.FS, dir, to string, o Options) (Salvaged, error) {
	s, err := salvage(fs, dir, to, o)
	if err != nil {
		return s, fmt.Errorf("journal: salvage %s: %w", dir, err)
	}
	return s, nil
}

func salvage(fs vfs.FS, dir, to string, o Options) (s Salvaged, err error) {
	if err := s.findLast(fs, dir); err != nil {
		return s, err
	}
	for from := dir; ; from = to {
		log, err := Open(fs, from, o)
		var bad *CorruptError
		switch {
		case errors.As(err, &bad) && len(s.Lost) < 64:
			s.Lost = append(s.Lost, bad)
			if err := cut(fs, from, to, fs.PathBase(bad.File), bad.Offset); err != nil {
				return s, err
			}
			continue
		case err != nil:
			return s, err
		}
		r := log.Recovered()
		s.First, s.End = r.First, r.End
		if from == dir { // nothing was wrong
			if err := cut(fs, dir, to, "", 0); err != nil {
				return s, errors.Join(err, log.Close(false))
			}
		}
		return s, log.Close(false)
	}
}

// findLast looks for the last record that reads back, damage or not.
func (s *Salvaged) findLast(fs vfs.FS, dir string) error {
	names, err := fs.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		number, tmp, ok := parseName(name)
		if !ok || tmp {
			continue
		}
		if err := s.lastOf(fs, fs.PathJoin(dir, name), number); err != nil {
			return err
		}
	}
	return nil
}

func (s *Salvaged) lastOf(fs vfs.FS, path string, number uint64) error {
	r, err := openSegmentReader(fs, path, number)
	if err != nil {
		return err
	}
	defer r.close()
	head, ok, err := r.segmentHeader()
	if err != nil || !ok || head.number != number {
		return err
	}
	for off := int64(segmentHeaderLen); off+recordHeaderLen <= r.size; {
		h, _, ok, err := r.record(off)
		if err != nil {
			return err
		}
		if !ok {
			off += recordAlign
			continue
		}
		begin := head.first + Pos(off-segmentHeaderLen)
		off += recordSize(int64(h.length))
		if end := head.first + Pos(off-segmentHeaderLen); h.kind == kindClean && begin >= s.Last {
			s.Last, s.Clean = begin, true
		} else if h.kind != kindClean && end > s.Last {
			s.Last, s.Clean = end, false
		}
	}
	return nil
}

// cut copies the segments before one into a directory, and that one up to an
// offset; no name: all. A cut within the directory itself drops the rest.
func cut(fs vfs.FS, from, to, name string, at int64) error {
	if err := fs.MkdirAll(to, 0o700); err != nil {
		return err
	}
	names, err := fs.List(from)
	if err != nil {
		return err
	}
	for _, n := range names {
		if _, tmp, ok := parseName(n); !ok || tmp {
			continue
		}
		keep := int64(-1) // all of it
		if n == name {
			keep = at
		}
		switch {
		case name != "" && n > name || keep >= 0 && keep < segmentHeaderLen:
			if from == to {
				err = fs.Remove(fs.PathJoin(to, n))
			}
		case from != to:
			if err = vfs.Copy(fs, fs.PathJoin(from, n), fs.PathJoin(to, n)); err == nil && keep < 0 {
				err = blank(fs, fs.PathJoin(to, n), math.MaxInt64)
			}
		}
		if err == nil && keep >= segmentHeaderLen {
			err = blank(fs, fs.PathJoin(to, n), keep)
		}
		if err != nil {
			return err
		}
	}
	d, err := fs.OpenDir(to)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// blank overwrites a segment with zeros from an offset on, and syncs it.
func blank(fs vfs.FS, path string, at int64) error {
	f, err := fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	zeros := make([]byte, scanWindow)
	for off := at; err == nil && off < st.Size(); off += int64(len(zeros)) {
		_, err = f.WriteAt(zeros[:min(int64(len(zeros)), st.Size()-off)], off)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// Fresh makes a journal in dir, which must not be there, that goes on from a
// position, with one record. It is for an applied state whose journal is lost.
func Fresh(fs vfs.FS, dir string, from Pos, o Options, payload []byte) error {
	log, err := Open(fs, dir, o)
	if err != nil {
		return err
	}
	err = log.Advance(from)
	if err == nil {
		_, err = log.Append(payload)
	}
	return errors.Join(err, log.Close(err == nil))
}
