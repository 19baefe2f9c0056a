package stage

import (
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"sync"
)

const diskPage = 4096

// memDisk is a staging disk in memory that remembers, page by page, what was
// synced, so that a power cut can be taken of it. before, if set, runs before
// each operation, and its error is the operation's. Its methods take no lock
// of the test's, so before may stop the world.
type memDisk struct {
	before func(op string, gen uint64) error
	after  func()

	mu    sync.Mutex
	files map[uint64]*memFile
	gone  map[uint64]*memFile // removed: until a sync of the directory it may come back
	space Space
}

// memFile is one staging file. A page's versions are what it held since its
// last sync, oldest first; versions[0] is the durable one, nil for a hole.
type memFile struct {
	named      bool // the name is durable
	size       int64
	syncedSize int64
	pages      map[int64][]*[diskPage]byte
}

func newMemDisk() *memDisk {
	return &memDisk{files: map[uint64]*memFile{}, gone: map[uint64]*memFile{}, space: Space{Total: 1 << 40, Free: 1 << 40}}
}

// do runs one operation on the disk.
func (d *memDisk) do(op string, gen uint64, fn func() error) error {
	if d.before != nil {
		if err := d.before(op, gen); err != nil {
			return err
		}
	}
	if d.after != nil {
		defer d.after()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return fn()
}

func (d *memDisk) Create(gen uint64) (f File, err error) {
	err = d.do("create", gen, func() error {
		if d.files[gen] == nil {
			d.files[gen] = &memFile{pages: map[int64][]*[diskPage]byte{}}
		}
		f = &memHandle{d, gen, d.files[gen]}
		return nil
	})
	return f, err
}

func (d *memDisk) Open(gen uint64) (f File, err error) {
	err = d.do("open", gen, func() error {
		if d.files[gen] == nil {
			return fmt.Errorf("open %d: %w", gen, fs.ErrNotExist)
		}
		f = &memHandle{d, gen, d.files[gen]}
		return nil
	})
	return f, err
}

func (d *memDisk) Remove(gen uint64) error {
	return d.do("remove", gen, func() error {
		if f := d.files[gen]; f != nil && f.named {
			d.gone[gen] = f
		}
		delete(d.files, gen)
		return nil
	})
}

func (d *memDisk) SyncDir(gen uint64) error {
	return d.do("syncdir", gen, func() error {
		for _, f := range d.files {
			f.named = true
		}
		clear(d.gone)
		return nil
	})
}

func (d *memDisk) List(fn func(gen uint64) error) error {
	d.mu.Lock()
	var gens []uint64
	for gen := range d.files {
		gens = append(gens, gen)
	}
	d.mu.Unlock()
	for _, gen := range gens {
		if err := fn(gen); err != nil {
			return err
		}
	}
	return nil
}

func (d *memDisk) Space() (Space, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.space, nil
}

func (d *memDisk) Allocated(gen uint64) (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.files[gen]; f != nil {
		return int64(len(f.pages)) * diskPage, nil
	}
	return 0, nil
}

// bytes is what the staging files hold.
func (d *memDisk) bytes() (n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range d.files {
		n += int64(len(f.pages)) * diskPage
	}
	return n
}

// crash gives what a power cut leaves: of what was not synced, each name, page
// and version of a page survives by chance. With keep, all of it.
func (d *memDisk) crash(rng *rand.Rand, keep bool) *memDisk {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := newMemDisk()
	for gen, f := range d.files {
		if keep || f.named || rng.IntN(2) == 0 {
			out.files[gen] = f.crash(rng, keep)
		}
	}
	for gen, f := range d.gone {
		if !keep && rng.IntN(2) == 0 {
			out.files[gen] = f.crash(rng, keep)
		}
	}
	return out
}

func (f *memFile) crash(rng *rand.Rand, keep bool) *memFile {
	out := &memFile{named: true, size: f.syncedSize, pages: map[int64][]*[diskPage]byte{}}
	luck := rng.IntN(101)
	for p, versions := range f.pages {
		v := versions[0]
		if keep || rng.IntN(100) < luck {
			v = versions[len(versions)-1]
			if !keep {
				v = versions[rng.IntN(len(versions))]
			}
		}
		if v == nil {
			continue
		}
		out.pages[p] = []*[diskPage]byte{v}
		out.size = max(out.size, min(f.size, (p+1)*diskPage))
	}
	if keep {
		out.size = f.size
	}
	out.syncedSize = out.size
	return out
}

type memHandle struct {
	d   *memDisk
	gen uint64
	f   *memFile
}

func (h *memHandle) ReadAt(dst []byte, off int64) (n int, err error) {
	err = h.d.do("read", h.gen, func() error {
		n = int(max(0, min(int64(len(dst)), h.f.size-off)))
		for i := 0; i < n; {
			p, in := (off+int64(i))/diskPage, int((off+int64(i))%diskPage)
			k := min(n-i, diskPage-in)
			if v := h.f.pages[p]; v != nil && v[len(v)-1] != nil {
				copy(dst[i:i+k], v[len(v)-1][in:])
			} else {
				clear(dst[i : i+k])
			}
			i += k
		}
		if n < len(dst) {
			return io.EOF
		}
		return nil
	})
	return n, err
}

// shortWrite is an error of before that lets a part of a write through.
type shortWrite struct {
	n   int
	err error
}

func (s shortWrite) Error() string { return s.err.Error() }
func (s shortWrite) Unwrap() error { return s.err }

func (h *memHandle) WriteAt(src []byte, off int64) (int, error) {
	err := h.d.do("write", h.gen, func() error { h.f.write(src, off); return nil })
	if s, ok := err.(shortWrite); ok {
		n := min(s.n, len(src))
		h.d.mu.Lock()
		defer h.d.mu.Unlock()
		h.f.write(src[:n], off)
		return n, s.err
	}
	if err != nil {
		return 0, err
	}
	return len(src), nil
}

func (f *memFile) write(src []byte, off int64) {
	for len(src) > 0 {
		p, in := off/diskPage, int(off%diskPage)
		n := min(len(src), diskPage-in)
		v := f.pages[p]
		if v == nil {
			v = []*[diskPage]byte{nil}
		}
		next := new([diskPage]byte)
		if last := v[len(v)-1]; last != nil {
			*next = *last
		}
		copy(next[in:], src[:n])
		f.pages[p] = append(v, next)
		src, off = src[n:], off+int64(n)
	}
	f.size = max(f.size, off)
}

func (h *memHandle) Sync() error {
	return h.d.do("sync", h.gen, func() error {
		for p, v := range h.f.pages {
			h.f.pages[p] = v[len(v)-1:]
		}
		h.f.syncedSize = h.f.size
		return nil
	})
}

func (h *memHandle) Data(off int64) (start, end int64, err error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	var ps []int64
	for p, v := range h.f.pages {
		if v[len(v)-1] != nil && (p+1)*diskPage > off && p*diskPage < h.f.size {
			ps = append(ps, p)
		}
	}
	if len(ps) == 0 || off >= h.f.size {
		return 0, 0, io.EOF
	}
	slices.Sort(ps)
	start, end = max(off, ps[0]*diskPage), (ps[0]+1)*diskPage
	for _, p := range ps[1:] {
		if p*diskPage != end {
			break
		}
		end += diskPage
	}
	return start, min(end, h.f.size), nil
}

func (h *memHandle) Allocated() (int64, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	return int64(len(h.f.pages)) * diskPage, nil
}

func (h *memHandle) Close() error { return nil }
func (h *memHandle) Fd() uintptr  { return ^uintptr(0) }
