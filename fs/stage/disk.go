package stage

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Disk holds staging files, one a generation. It is the seam at which tests
// put a disk that fails or loses power. Errors keep their errno (%w).
type Disk interface {
	// Create makes the empty file of a generation, or opens the one there.
	Create(gen uint64) (File, error)
	// Open opens it for reading and writing; fs.ErrNotExist if it is gone.
	Open(gen uint64) (File, error)
	// Remove deletes it; one that is not there is no error.
	Remove(gen uint64) error
	// SyncDir makes the name of a generation's file durable.
	SyncDir(gen uint64) error
	// List calls fn for each file that is there.
	List(fn func(gen uint64) error) error
	// Allocated gives the bytes that the disk has set aside for a generation's
	// file: less than its length where it is sparse, 0 if it is not there.
	Allocated(gen uint64) (int64, error)
	// Space gives the size and what is free to stepfs of the disk below.
	Space() (Space, error)
}

// Space is the state of a disk, in bytes and inodes.
type Space struct{ Total, Free, Files, FilesFree uint64 }

// File is an open staging file.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error // data and what is needed to read it (fdatasync)
	// Data gives the first range at or behind off that holds data, from the
	// disk's own map; io.EOF if there is none.
	Data(off int64) (start, end int64, err error)
	// Allocated gives the bytes that the disk has set aside for it.
	Allocated() (int64, error)
	Fd() uintptr
}

// genFanout is how many generations share a directory.
const genFanout = 4096

// osDisk keeps staging files below a directory of a real filesystem.
type osDisk struct{ dir string }

// NewDisk gives the staging directory dir, which exists.
func NewDisk(dir string) Disk { return osDisk{dir} }

func (d osDisk) sub(gen uint64) string {
	return filepath.Join(d.dir, fmt.Sprintf("%06x", gen/genFanout))
}

func (d osDisk) path(gen uint64) string {
	return filepath.Join(d.sub(gen), fmt.Sprintf("%016x", gen))
}

func (d osDisk) Create(gen uint64) (File, error) {
	f, err := os.OpenFile(d.path(gen), os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(d.sub(gen), 0o700); err != nil {
			return nil, err
		}
		f, err = os.OpenFile(d.path(gen), os.O_RDWR|os.O_CREATE, 0o600)
	}
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (d osDisk) Open(gen uint64) (File, error) {
	f, err := os.OpenFile(d.path(gen), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (d osDisk) Remove(gen uint64) error {
	if err := os.Remove(d.path(gen)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// SyncDir syncs the fan-out directory and, since it may be new, the one above.
func (d osDisk) SyncDir(gen uint64) error {
	for _, p := range [...]string{d.sub(gen), d.dir} {
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return fmt.Errorf("sync %s: %w", p, err)
		}
	}
	return nil
}

func (d osDisk) List(fn func(gen uint64) error) error {
	return filepath.WalkDir(d.dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		gen, err := strconv.ParseUint(e.Name(), 16, 64)
		if err != nil {
			return nil // not ours: left alone
		}
		return fn(gen)
	})
}

func (d osDisk) Allocated(gen uint64) (int64, error) {
	n, err := allocated(unix.AT_FDCWD, d.path(gen), 0)
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	return n, err
}

// allocated asks for nothing but the blocks. They count what the page cache
// holds and the disk has no place for yet (delayed allocation).
func allocated(fd int, path string, flags int) (int64, error) {
	var st unix.Statx_t
	if err := unix.Statx(fd, path, flags, unix.STATX_BLOCKS, &st); err != nil {
		return 0, fmt.Errorf("statx: %w", err)
	}
	return int64(st.Blocks) * 512, nil
}

func (d osDisk) Space() (Space, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(d.dir, &s); err != nil {
		return Space{}, fmt.Errorf("statfs %s: %w", d.dir, err)
	}
	b := uint64(s.Bsize)
	return Space{Total: s.Blocks * b, Free: s.Bavail * b, Files: s.Files, FilesFree: s.Ffree}, nil
}

type osFile struct{ *os.File }

// raw runs fn on the descriptor, which can't be closed meanwhile;
// fs.ErrClosed when it was before.
func (f osFile) raw(fn func(fd int) error) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var err2 error
	if err := c.Control(func(fd uintptr) {
		for err2 = fn(int(fd)); err2 == unix.EINTR; {
			err2 = fn(int(fd))
		}
	}); err != nil {
		return fmt.Errorf("%w: %w", fs.ErrClosed, err) // Control fails for no other reason, and does not say so
	}
	return err2
}

func (f osFile) Sync() error { return f.raw(unix.Fdatasync) }

// Allocated asks nobody else: a network filesystem would first write out all
// that it holds.
func (f osFile) Allocated() (n int64, err error) {
	err = f.raw(func(fd int) (err error) {
		n, err = allocated(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC)
		return err
	})
	return n, err
}

// Size is the file's length.
func (f osFile) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// WriteOut has the disk write [off, off+n), and waits for that. It makes
// nothing durable: no metadata is written and no cache flushed.
func (f osFile) WriteOut(off, n int64) error {
	const flags = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	return f.raw(func(fd int) error { return unix.SyncFileRange(fd, off, n, flags) })
}

func (f osFile) Data(off int64) (start, end int64, err error) {
	err = f.raw(func(fd int) error {
		if start, err = unix.Seek(fd, off, unix.SEEK_DATA); err == nil {
			end, err = unix.Seek(fd, start, unix.SEEK_HOLE)
		}
		return err
	})
	if err == unix.ENXIO {
		return 0, 0, io.EOF
	}
	if err != nil {
		return 0, 0, fmt.Errorf("seek data: %w", err)
	}
	return start, end, nil
}
