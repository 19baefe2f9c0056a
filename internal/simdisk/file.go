package simdisk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// File is an open file or directory. It is what Pebble asks of a file and what
// the live tree asks of a staging file.
type File struct {
	d    *Disk
	path string
	n    *node
	pos  int64
}

var _ vfs.File = (*File)(nil)

func (f *File) Read(p []byte) (n int, err error) {
	n, err = f.ReadAt(p, f.pos)
	f.pos += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

func (f *File) ReadAt(p []byte, off int64) (n int, err error) {
	err = f.d.do(Op{Kind: Read, Path: f.path, Off: off, Len: len(p)}, func() error {
		if f.n.isDir() {
			return &fs.PathError{Op: "read", Path: f.path, Err: syscall.EISDIR}
		}
		if n = f.n.read(p, off); n < len(p) {
			return io.EOF
		}
		return nil
	})
	return n, err
}

func (f *File) Write(p []byte) (n int, err error) {
	n, err = f.WriteAt(p, f.pos)
	f.pos += int64(n)
	return n, err
}

func (f *File) WriteAt(p []byte, off int64) (int, error) {
	err := f.d.do(Op{Kind: Write, Path: f.path, Off: off, Len: len(p)}, func() error {
		f.n.write(p, off)
		return nil
	})
	if s := (Short{}); errors.As(err, &s) {
		n := min(s.N, len(p))
		f.d.mu.Lock()
		defer f.d.mu.Unlock()
		f.n.write(p[:n], off)
		return n, &fs.PathError{Op: "write", Path: f.path, Err: s.Err}
	}
	if err != nil {
		return 0, &fs.PathError{Op: "write", Path: f.path, Err: err}
	}
	return len(p), nil
}

// Sync makes a file's content durable, or a directory's names.
func (f *File) Sync() error {
	kind := Sync
	if f.n.isDir() {
		kind = SyncDir
	}
	err := f.d.do(Op{Kind: kind, Path: f.path}, func() error {
		if f.n.isDir() {
			f.d.syncDir(f.n)
		} else {
			f.n.sync()
		}
		return nil
	})
	if err != nil {
		f.d.mu.Lock()
		defer f.d.mu.Unlock()
		f.n.failSync()
		return &fs.PathError{Op: "sync", Path: f.path, Err: err}
	}
	return nil
}

// SyncData is Sync.
func (f *File) SyncData() error { return f.Sync() }

// SyncTo begins to write out, which promises nothing.
func (f *File) SyncTo(int64) (fullSync bool, err error) { return false, nil }

// Data gives the first range at or behind off that is no hole; io.EOF when
// there is none.
func (f *File) Data(off int64) (start, end int64, err error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	start, end, ok := f.n.data(off)
	if !ok {
		return 0, 0, io.EOF
	}
	return start, end, nil
}

// Allocated is how many bytes the file takes.
func (f *File) Allocated() (int64, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return int64(len(f.n.pages)) * PageSize, nil
}

// Stat gives what is known of the file.
func (f *File) Stat() (vfs.FileInfo, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return info{path.Base(f.path), f.n.size, f.n.isDir()}, nil
}

func (f *File) Close() error                    { return nil }
func (f *File) Preallocate(_, _ int64) error    { return nil }
func (f *File) Prefetch(_ int64, _ int64) error { return nil }
func (f *File) Fd() uintptr                     { return vfs.InvalidFd }

// info is the answer to a stat.
type info struct {
	name string
	size int64
	dir  bool
}

func (i info) Name() string           { return i.name }
func (i info) Size() int64            { return i.size }
func (i info) IsDir() bool            { return i.dir }
func (i info) ModTime() time.Time     { return time.Time{} }
func (i info) Sys() any               { return nil }
func (i info) DeviceID() vfs.DeviceID { return vfs.DeviceID{} }
func (i info) Mode() os.FileMode {
	if i.dir {
		return os.ModeDir | 0o700
	}
	return 0o600
}

// Staging is the directory in which the live tree keeps its files, one for each
// generation. What a live tree wants to be given is its own type, so tests
// wrap Create and Open.
type Staging struct {
	d   *Disk
	dir string
}

// Staging gives a directory of the disk, which exists, as staging files.
func (d *Disk) Staging(dir string) *Staging { return &Staging{d, dir} }

func (s *Staging) path(gen uint64) string { return path.Join(s.dir, fmt.Sprintf("%016x", gen)) }

// Gen is the generation whose file is at a path, if it is one.
func (s *Staging) Gen(p string) (gen uint64, ok bool) {
	if path.Dir(p) != s.dir {
		return 0, false
	}
	_, err := fmt.Sscanf(path.Base(p), "%016x", &gen)
	return gen, err == nil
}

// Create makes the file of a generation, or opens the one there.
func (s *Staging) Create(gen uint64) (f *File, err error) {
	p := s.path(gen)
	err = s.d.do(Op{Kind: Create, Path: p}, func() error {
		n, err := s.d.find(p)
		if errors.Is(err, fs.ErrNotExist) {
			n, err = s.d.create(p)
		}
		f = &File{d: s.d, path: p, n: n}
		return err
	})
	return f, err
}

// Open opens the file of a generation.
func (s *Staging) Open(gen uint64) (*File, error) { return s.d.open(s.path(gen)) }

// Remove removes it; it need not be there.
func (s *Staging) Remove(gen uint64) error {
	return s.d.do(Op{Kind: Remove, Path: s.path(gen)}, func() error {
		if err := s.d.remove(s.path(gen), false); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

// SyncDir makes the names of staging files durable.
func (s *Staging) SyncDir(uint64) error {
	return s.d.do(Op{Kind: SyncDir, Path: s.dir}, func() error {
		dir, err := s.d.find(s.dir)
		if err == nil {
			s.d.syncDir(dir)
		}
		return err
	})
}

// List calls fn for each generation that has a file.
func (s *Staging) List(fn func(gen uint64) error) error {
	names, err := s.d.list(s.dir)
	for _, name := range names {
		if gen, ok := s.Gen(path.Join(s.dir, name)); ok && err == nil {
			err = fn(gen)
		}
	}
	return err
}

// Allocated is how many bytes the file of a generation takes.
func (s *Staging) Allocated(gen uint64) (int64, error) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	n, err := s.d.find(s.path(gen))
	if err != nil {
		return 0, nil
	}
	return int64(len(n.pages)) * PageSize, nil
}

// Bytes is what all staging files take.
func (s *Staging) Bytes() (total int64) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	if dir, err := s.d.find(s.dir); err == nil {
		for _, n := range dir.names {
			total += int64(len(n.pages)) * PageSize
		}
	}
	return total
}
