package simdisk

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// FS gives the disk as a filesystem of Pebble's.
func (d *Disk) FS() vfs.FS { return fileSystem{d} }

type fileSystem struct{ d *Disk }

func (d *Disk) open(p string) (f *File, err error) {
	err = d.do(Op{Kind: Open, Path: p}, func() error {
		n, err := d.find(p)
		f = &File{d: d, path: p, n: n}
		return err
	})
	return f, err
}

func (d *Disk) list(p string) (names []string, err error) {
	err = d.do(Op{Kind: List, Path: p}, func() error {
		dir, err := d.find(p)
		if err != nil {
			return err
		}
		names = slices.Sorted(maps.Keys(dir.names))
		return nil
	})
	return names, err
}

// given is what an interface is given: nil when there was an error.
func given(f *File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (s fileSystem) Create(p string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	f := &File{d: s.d, path: p}
	err := s.d.do(Op{Kind: Create, Path: p}, func() (err error) {
		f.n, err = s.d.create(p)
		return err
	})
	return given(f, err)
}

func (s fileSystem) Open(p string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := given(s.d.open(p))
	if err == nil {
		for _, o := range opts {
			o.Apply(f)
		}
	}
	return f, err
}

func (s fileSystem) OpenReadWrite(p string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := s.Open(p, opts...)
	if errors.Is(err, fs.ErrNotExist) {
		return s.Create(p, c)
	}
	return f, err
}

func (s fileSystem) OpenDir(p string) (vfs.File, error) { return given(s.d.open(p)) }

func (s fileSystem) ReuseForWrite(old, p string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	if err := s.Rename(old, p); err != nil {
		return nil, err
	}
	return given(s.d.open(p))
}

func (s fileSystem) Rename(from, to string) error {
	return s.d.do(Op{Kind: Rename, Path: from, To: to}, func() error { return s.d.move(from, to, false) })
}

func (s fileSystem) Link(from, to string) error {
	return s.d.do(Op{Kind: Link, Path: from, To: to}, func() error { return s.d.move(from, to, true) })
}

func (s fileSystem) Remove(p string) error {
	return s.d.do(Op{Kind: Remove, Path: p}, func() error { return s.d.remove(p, false) })
}

func (s fileSystem) RemoveAll(p string) error {
	return s.d.do(Op{Kind: Remove, Path: p}, func() error {
		if err := s.d.remove(p, true); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

func (s fileSystem) MkdirAll(p string, _ os.FileMode) error {
	return s.d.do(Op{Kind: Mkdir, Path: p}, func() error { return s.d.mkdirAll(p) })
}

func (s fileSystem) List(p string) ([]string, error) { return s.d.list(p) }

func (s fileSystem) Stat(p string) (i vfs.FileInfo, err error) {
	err = s.d.do(Op{Kind: Stat, Path: p}, func() error {
		n, err := s.d.find(p)
		if err == nil {
			i = info{path.Base(p), n.size, n.isDir()}
		}
		return err
	})
	return i, err
}

// Lock makes a lock file, and holds it against other openers of this disk.
func (s fileSystem) Lock(p string) (io.Closer, error) {
	s.d.mu.Lock()
	held := s.d.locked[p]
	s.d.locked[p] = true
	s.d.mu.Unlock()
	if held {
		return nil, syscall.EAGAIN
	}
	if _, err := s.Create(p, vfs.WriteCategoryUnspecified); err != nil {
		unlock{s.d, p}.Close()
		return nil, err
	}
	return unlock{s.d, p}, nil
}

type unlock struct {
	d *Disk
	p string
}

func (u unlock) Close() error {
	u.d.mu.Lock()
	defer u.d.mu.Unlock()
	delete(u.d.locked, u.p)
	return nil
}

func (fileSystem) PathBase(p string) string        { return path.Base(p) }
func (fileSystem) PathJoin(parts ...string) string { return path.Join(parts...) }
func (fileSystem) PathDir(p string) string         { return path.Dir(p) }
func (fileSystem) Unwrap() vfs.FS                  { return nil }

func (fileSystem) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{}, vfs.ErrUnsupported
}
