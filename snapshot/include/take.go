package include

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// tries is how often a file that changes while it is copied is copied.
const tries = 3

// Fresh is the default of how old a change must be: clocks of filesystems have ticks.
// Those of Linux were seen to be 50 ms late on a virtual machine, Lustre counts
// seconds, and FAT every other one.
const Fresh = 2 * time.Second

var errTime = fmt.Errorf("it was not taken: the time for all included files, %v, was over", MaxTime)

// openIncluded opens a file or directory, and never waits for a pipe's writer.
func openIncluded(path string) (*os.File, error) {
	// No link is followed any more: the path was resolved, and allowed, before.
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() && !fi.IsDir() {
		err = errSpecial
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// tells says whether a file that is read now will have another key once it is
// changed.
func (k key) tells(now time.Time, fresh time.Duration) bool {
	return now.Sub(time.Unix(0, max(k.file.ctime, k.wal.mtime))) >= fresh
}

// take copies a file, or backs it up, into a directory of the tree. It gives the
// row of the manifest and the key by which an unchanged file is known: zero if
// it can't be.
func (s *Set) take(ctx context.Context, t Tree, dir uint64, name string, it item) (row Row, k key, err error) {
	row = Row{Source: it.path, Include: it.of, How: HowCopy}
	for try := 1; ; try++ {
		if ctx.Err() != nil {
			return row, k, errTime
		}
		again, err := s.takeOnce(ctx, t, dir, name, it, &row, &k)
		if err != nil || !again {
			return row, k, err
		}
		if try == tries {
			row.Note, k = NoteChanged, key{}
			return row, k, nil
		}
		if err := t.Remove(dir, name); err != nil {
			return row, k, err
		}
	}
}

// takeOnce is one try; again: the file changed meanwhile.
func (s *Set) takeOnce(ctx context.Context, t Tree, dir uint64, name string, it item, row *Row, k *key) (again bool, err error) {
	f, err := openIncluded(it.real)
	if err != nil {
		return false, err
	}
	defer f.Close()
	begin := time.Now()
	fi, err := f.Stat()
	if err != nil {
		return false, err
	}
	if !fi.Mode().IsRegular() {
		return false, errors.New("it is not a file any more")
	}
	before := keyOf(it.real, fi)
	if *k = before; !before.tells(begin, s.cfg.Fresh) {
		*k = key{}
	}
	var src io.Reader = f
	db := isSQLite(f)
	if db {
		path, err := s.backup(ctx, it.real)
		if err != nil {
			return false, err
		}
		defer os.RemoveAll(filepath.Dir(path))
		if now, err := os.Lstat(it.real); err != nil || !os.SameFile(fi, now) { // the program opened it by name
			return false, errors.New("it was replaced while it was backed up")
		}
		copied, err := os.Open(path)
		if err != nil {
			return false, err
		}
		defer copied.Close()
		src, row.How = copied, HowBackup
	}
	attr := attrOf(fi)
	err = t.File(dir, name, attr, func(w io.Writer) (err error) {
		row.Size, err = s.copy(ctx, w, src, before.file.size, db)
		return err
	})
	row.Mtime = time.Unix(0, attr.Mtime).UTC()
	if err != nil || db { // a backup is of one moment, whatever is written meanwhile
		return false, err
	}
	fi, err = f.Stat()
	return err != nil || stampOf(fi) != before.file, nil
}

// copy copies at most what was announced, but for a backup: that is bounded by
// the limit alone. A file that is shorter by now is found by its stamp.
func (s *Set) copy(ctx context.Context, w io.Writer, r io.Reader, size int64, db bool) (n int64, err error) {
	if db {
		size = s.cfg.MaxBytes + 1
	}
	r = io.LimitReader(r, size)
	buf := make([]byte, 1<<20)
	for ctx.Err() == nil {
		k, err := io.ReadFull(r, buf)
		if k > 0 {
			if _, err := w.Write(buf[:k]); err != nil {
				return n, err
			}
			n += int64(k)
		}
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			if n > s.cfg.MaxBytes {
				return n, fmt.Errorf("it is larger than %d bytes", s.cfg.MaxBytes)
			}
			return n, nil
		case err != nil:
			return n, err
		}
	}
	return n, errTime
}
