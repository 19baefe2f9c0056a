package integration

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	maxFiles    = 12
	maxHandles  = 3
	maxFileSize = 3 << 20
)

// act does one thing that jobs do, of several calls.
func (w *worker) act() error {
	type action struct {
		weight int
		do     func() error
	}
	actions := []action{
		{10, w.saveWhole}, {6, w.saveAtomically}, {14, w.writeSome}, {8, w.appendSome},
		{6, w.syncOne}, {4, w.closeOne}, {3, w.resize}, {5, w.rename}, {3, w.renameDir},
		{4, w.remove}, {3, w.mkdir}, {2, w.rmdir}, {2, w.chmod}, {2, w.link}, {2, w.symlink},
	}
	if !w.native {
		actions = append(actions, action{2, w.explicitSnapshot}, action{3, w.seeBarrier})
	}
	total := 0
	for _, a := range actions {
		total += a.weight
	}
	for n := w.rnd.Intn(total); ; {
		if n -= actions[0].weight; n < 0 {
			return actions[0].do()
		}
		actions = actions[1:]
	}
}

// data is random content of one of the sizes that jobs write.
func (w *worker) data() []byte {
	// The largest fits one request of the kernel wherever it starts: a snapshot
	// may fall between two requests of one write.
	sizes := []int{200, 4096, 16 << 10, 100 << 10, 1<<20 - 8192}
	n := 1 + w.rnd.Intn(sizes[w.rnd.Intn(len(sizes))])
	if w.rnd.Intn(3) == 0 { // whole pages
		n = (n + 4095) &^ 4095
	}
	b := make([]byte, n)
	w.rnd.Read(b)
	return b
}

// fresh is a name that was never used, in a random directory.
func (w *worker) fresh() string {
	w.next++
	return filepath.Join(w.anyDir(), fmt.Sprintf("f%d", w.next))
}

func (w *worker) anyDir() string {
	dirs := append(slices.Sorted(maps.Keys(w.model.dirs)), "")
	return dirs[w.rnd.Intn(len(dirs))]
}

// anyFile picks a name that the filter likes.
func (w *worker) anyFile(like func(*file) bool) (string, *file) {
	names := slices.Sorted(maps.Keys(w.model.files)) // the seed alone decides
	w.rnd.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, name := range names {
		if f := w.model.files[name]; like(f) {
			return name, f
		}
	}
	return "", nil
}

func notOpen(f *file) bool { return !f.open }
func all(*file) bool       { return true }

// saveWhole writes a file as torch.save does: no fsync, no rename.
func (w *worker) saveWhole() error {
	name := w.fresh()
	if old, f := w.anyFile(notOpen); f != nil && (len(w.model.files) >= maxFiles || w.rnd.Intn(2) == 0) {
		name = old
	}
	access := []int{unix.O_WRONLY, unix.O_RDWR}[w.rnd.Intn(2)]
	h, err := w.open(name, access|unix.O_CREAT|unix.O_TRUNC)
	if err != nil {
		return err
	}
	if err := w.put(h, w.data()); err != nil {
		return err
	}
	return w.close(h)
}

// saveAtomically writes aside, syncs, and renames over.
func (w *worker) saveAtomically() error {
	tmp := w.fresh() + ".tmp"
	h, err := w.open(tmp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return err
	}
	if err := w.put(h, w.data()); err != nil {
		return err
	}
	if err := w.sync(h); err != nil {
		return err
	}
	if err := w.close(h); err != nil {
		return err
	}
	to, _ := w.anyFile(notOpen)
	if err := w.renameTo(tmp, to); err != nil || w.rnd.Intn(2) == 0 {
		return err
	}
	return w.syncDir(filepath.Dir(to))
}

func (w *worker) syncDir(dir string) error {
	return w.do(op{
		what: "fsyncdir " + dir,
		call: func() error {
			fd, err := unix.Open(w.path(dir), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Fsync(fd)
		},
		ack: func() {},
	})
}

// anyHandle gives an open file, opening one where there is none.
func (w *worker) anyHandle(flags int) (*handle, error) {
	for _, h := range w.handles {
		if h.append == (flags&unix.O_APPEND != 0) && w.rnd.Intn(2) == 0 {
			return h, nil
		}
	}
	if len(w.handles) >= maxHandles {
		if err := w.close(w.handles[0]); err != nil {
			return nil, err
		}
	}
	name, f := w.anyFile(notOpen)
	if f == nil || len(w.model.files) < maxFiles && w.rnd.Intn(4) == 0 {
		name = w.fresh()
	}
	return w.open(name, flags|unix.O_CREAT)
}

// writeSome writes here and there in a file, holes and partial blocks included.
func (w *worker) writeSome() error {
	h, err := w.anyHandle(unix.O_RDWR)
	if err != nil {
		return err
	}
	for range 1 + w.rnd.Intn(4) {
		off := w.rnd.Int63n(int64(len(h.f.live)) + 128<<10)
		if w.rnd.Intn(3) == 0 {
			off &^= 4095
		}
		if err := w.write(h, min(off, maxFileSize-1<<20), w.data()); err != nil {
			return err
		}
		if w.rnd.Intn(4) == 0 {
			if err := w.sync(h); err != nil {
				return err
			}
		}
	}
	return nil
}

// appendSome is a log.
func (w *worker) appendSome() error {
	h, err := w.anyHandle(unix.O_WRONLY | unix.O_APPEND)
	if err != nil {
		return err
	}
	if len(h.f.live) > maxFileSize {
		return w.close(h)
	}
	for range 1 + w.rnd.Intn(5) {
		if err := w.write(h, 0, w.data()[:1]); err != nil {
			return err
		}
		if err := w.write(h, 0, w.data()); err != nil {
			return err
		}
	}
	return nil
}

func (w *worker) syncOne() error {
	h, err := w.anyHandle(unix.O_RDWR)
	if err != nil {
		return err
	}
	return w.sync(h)
}

func (w *worker) closeOne() error {
	if len(w.handles) == 0 {
		return nil
	}
	return w.close(w.handles[w.rnd.Intn(len(w.handles))])
}

func (w *worker) resize() error {
	size := func(f *file) int64 { return w.rnd.Int63n(int64(len(f.live)) + 64<<10) }
	if w.rnd.Intn(2) == 0 {
		h, err := w.anyHandle(unix.O_RDWR)
		if err != nil {
			return err
		}
		n := size(h.f)
		h.f.synced = false
		return w.do(op{
			what: fmt.Sprintf("ftruncate fd %d to %d", h.fd, n),
			call: func() error { return unix.Ftruncate(h.fd, n) },
			ack:  func() { h.f.truncate(n) },
		})
	}
	name, f := w.anyFile(notOpen)
	if f == nil {
		return nil
	}
	n := size(f)
	f.synced = false
	return w.do(op{
		what: fmt.Sprintf("truncate %s to %d", name, n),
		call: func() error { return unix.Truncate(w.path(name), n) },
		ack: func() {
			f.truncate(n)
			f.unsure() // no close will come
		},
	})
}

func (w *worker) rename() error {
	from, f := w.anyFile(all)
	if f == nil {
		return nil
	}
	to := w.fresh()
	if over, g := w.anyFile(notOpen); g != nil && g != f && w.rnd.Intn(3) == 0 {
		to = over
	}
	return w.renameTo(from, to)
}

func (w *worker) renameTo(from, to string) error {
	// rename(2) of two names of one file does nothing; keep away from that.
	if to == "" || w.model.files[from] == w.model.files[to] {
		return nil
	}
	return w.do(op{
		what: "rename " + from + " to " + to,
		call: func() error { return unix.Rename(w.path(from), w.path(to)) },
		ack: func() {
			w.model.files[to] = w.model.files[from]
			delete(w.model.files, from)
		},
	})
}

func (w *worker) renameDir() error {
	from := w.anyDir()
	if from == "" {
		return nil
	}
	w.next++
	to := fmt.Sprintf("checkpoint-%d", w.next)
	return w.do(op{
		what: "renamedir " + from + " to " + to,
		call: func() error { return unix.Rename(w.path(from), w.path(to)) },
		ack: func() {
			delete(w.model.dirs, from)
			w.model.dirs[to] = true
			moveBelow(w.model.files, from, to)
			moveBelow(w.model.links, from, to)
		},
	})
}

func moveBelow[T any](names map[string]T, from, to string) {
	for name, v := range names {
		if rest, ok := strings.CutPrefix(name, from+"/"); ok {
			delete(names, name)
			names[to+"/"+rest] = v
		}
	}
}

func (w *worker) remove() error {
	name, f := w.anyFile(all) // open files too
	if f == nil {
		return nil
	}
	return w.do(op{
		what: "unlink " + name,
		call: func() error { return unix.Unlink(w.path(name)) },
		ack:  func() { delete(w.model.files, name) },
	})
}

func (w *worker) mkdir() error {
	if len(w.model.dirs) >= 3 {
		return w.rmdir()
	}
	w.next++
	name := fmt.Sprintf("checkpoint-%d", w.next)
	return w.do(op{
		what: "mkdir " + name,
		call: func() error { return unix.Mkdir(w.path(name), 0o755) },
		ack:  func() { w.model.dirs[name] = true },
	})
}

func (w *worker) rmdir() error {
	name := w.anyDir()
	for path := range w.model.files {
		if strings.HasPrefix(path, name+"/") {
			return nil
		}
	}
	for path := range w.model.links {
		if strings.HasPrefix(path, name+"/") {
			return nil
		}
	}
	if name == "" {
		return nil
	}
	return w.do(op{
		what: "rmdir " + name,
		call: func() error { return unix.Rmdir(w.path(name)) },
		ack:  func() { delete(w.model.dirs, name) },
	})
}

func (w *worker) chmod() error {
	name, f := w.anyFile(all)
	if f == nil {
		return nil
	}
	mode := uint32(0o600 + w.rnd.Intn(8))
	return w.do(op{
		what: fmt.Sprintf("chmod %s %o", name, mode),
		call: func() error { return unix.Chmod(w.path(name), mode) },
		ack:  func() { f.mode = modeOf(mode) },
	})
}

func (w *worker) link() error {
	name, f := w.anyFile(all)
	if f == nil || len(w.model.files) >= maxFiles {
		return nil
	}
	to := w.fresh()
	return w.do(op{
		what: "link " + name + " as " + to,
		call: func() error { return unix.Link(w.path(name), w.path(to)) },
		ack:  func() { w.model.files[to] = f },
	})
}

func (w *worker) symlink() error {
	if len(w.model.links) >= 4 {
		return nil
	}
	name := w.fresh() + ".ln"
	target := fmt.Sprintf("somewhere/%d", w.next)
	return w.do(op{
		what: "symlink " + name,
		call: func() error { return unix.Symlink(target, w.path(name)) },
		ack:  func() { w.model.links[name] = target },
	})
}

// explicitSnapshot asks for a snapshot by name and notes what it has to show.
func (w *worker) explicitSnapshot() error {
	w.next++
	name := fmt.Sprintf("%s-%d", w.name, w.next)
	r := w.model.record(name, w.name, false)
	w.maybe = r
	err := w.do(op{
		what: "snapshot " + name,
		call: func() error { return unix.Mkdir(filepath.Join(w.mnt, "snapshots", name), 0o755) },
		ack:  func() { w.records = append(w.records, r) },
	})
	if err == nil {
		w.maybe = nil
	}
	return err
}

// seeBarrier syncs a file and looks up which barrier that was. The barrier may
// be a later one of another worker: this directory is the same in both.
func (w *worker) seeBarrier() error {
	if w.steward != nil {
		w.steward.making.RLock()
		defer w.steward.making.RUnlock()
	}
	// So that the sync makes a barrier of its own.
	if err := w.do(op{what: "utimes", call: func() error { return unix.Utimes(w.path(""), nil) }, ack: func() {}}); err != nil {
		return err
	}
	if err := w.syncOne(); err != nil {
		return err
	}
	var seq string
	return w.do(op{
		what: "barrier",
		call: func() (err error) {
			seq, err = newestBarrier(w.mnt)
			return err
		},
		ack: func() { w.records = append(w.records, w.model.record(filepath.Join(".barriers", seq), w.name, true)) },
	})
}
