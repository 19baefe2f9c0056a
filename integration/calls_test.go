package integration

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// open opens or creates a file.
func (w *worker) open(name string, flags int) (*handle, error) {
	h := &handle{append: flags&unix.O_APPEND != 0}
	if f := w.model.files[name]; f != nil && flags&unix.O_TRUNC != 0 {
		f.synced = false
	}
	err := w.do(op{
		what: fmt.Sprintf("open %s %#x", name, flags),
		call: func() (err error) {
			h.fd, err = unix.Open(w.path(name), flags|unix.O_CLOEXEC, 0o644)
			return err
		},
		ack: func() {
			f := w.model.files[name]
			if f == nil {
				f = newFile(0o644)
				w.model.files[name] = f
			}
			if flags&unix.O_TRUNC != 0 && len(f.live) > 0 {
				f.truncate(0)
			}
			h.f = f
			f.opened()
		},
	})
	if err != nil {
		return nil, err
	}
	w.handles = append(w.handles, h)
	return h, nil
}

// write writes data at off, or at the end if the handle appends.
func (w *worker) write(h *handle, off int64, data []byte) error {
	if h.append {
		off = int64(len(h.f.live))
	}
	h.f.synced = false // whatever becomes of the call
	err := w.do(op{
		what: fmt.Sprintf("write fd %d at %d, %d bytes", h.fd, off, len(data)),
		call: func() error {
			var n int
			var err error
			if h.append {
				n, err = unix.Write(h.fd, data)
			} else {
				n, err = unix.Pwrite(h.fd, data, off)
			}
			if err == nil && n != len(data) {
				err = fmt.Errorf("wrote %d bytes", n)
			}
			return err
		},
		ack:  func() { h.f.write(off, data) },
		torn: &tornWrite{h.f, off, data},
	})
	if err == nil {
		w.bytes += int64(len(data))
	}
	return err
}

func (w *worker) sync(h *handle) error {
	call, name := unix.Fsync, "fsync"
	if w.rnd.Intn(3) == 0 {
		call, name = unix.Fdatasync, "fdatasync"
	}
	return w.do(op{
		what: fmt.Sprintf("%s fd %d", name, h.fd),
		call: func() error { return call(h.fd) },
		ack:  h.f.barrier,
	})
}

func (w *worker) close(h *handle) error {
	for i, other := range w.handles {
		if other == h {
			w.handles = append(w.handles[:i], w.handles[i+1:]...)
			break
		}
	}
	return w.do(op{
		what: fmt.Sprintf("close fd %d", h.fd),
		call: func() error { return unix.Close(h.fd) },
		ack: func() {
			h.f.closed()
			h.f.open = false
		},
	})
}

// put writes data in pieces from the start of the file.
func (w *worker) put(h *handle, data []byte) error {
	for off := 0; off < len(data); {
		n := min(len(data)-off, 1+w.rnd.Intn(512<<10))
		if err := w.write(h, int64(off), data[off:off+n]); err != nil {
			return err
		}
		off += n
	}
	return nil
}
