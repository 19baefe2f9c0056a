package sim

import (
	"fmt"

	"golang.org/x/sys/unix"

	"stepfs/fs/stage"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// synchronous is the barrier of a change through a handle that was opened with
// O_SYNC or O_DSYNC; the caller is told of the change only after it.
func (k *worker) synchronous(id int) {
	if k.err != nil || k.how[id]&unix.O_DSYNC == 0 {
		return
	}
	if !k.s.tree.Synchronous(k.inos[id], k.fhs[id]) {
		k.err = fmt.Errorf("w%d: a handle of O_DSYNC is none", k.w)
		return
	}
	k.sync(fmt.Sprintf("O_SYNC of %d", id), id)
	k.did.synced.Add(1)
}

// placed gives a file that is open and takes bytes at any offset.
func (k *worker) placed() (id int, ok bool) {
	id, ok = k.opened()
	return id, ok && k.err == nil && k.how[id]&unix.O_APPEND == 0
}

// copyRange copies a range of a file, or of one in a snapshot, into another: to
// the same offset, where it is shared, or elsewhere.
func (k *worker) copyRange() {
	c := stage.Copy{SrcOff: []int64{0, 0, 100, 4096}[k.rng.IntN(4)], Len: []int64{1, 4096, 9000, 1 << 30}[k.rng.IntN(4)]}
	if c.DstOff = c.SrcOff; k.rng.IntN(3) == 0 {
		c.DstOff = []int64{0, 4096, 5000}[k.rng.IntN(3)]
	}
	src, ok := k.source(&c)
	if !ok || int64(len(src)) <= c.SrcOff {
		return
	}
	src = src[c.SrcOff:min(int64(len(src)), c.SrcOff+c.Len)]
	dst, ok := k.placed()
	if !ok || c.From == nil && k.inos[dst] == c.Src {
		return
	}
	c.Dst, c.Fh = k.inos[dst], k.fhs[dst]
	k.do(fmt.Sprintf("copy of inode %d [%d+%d] to %d at %d", c.Src, c.SrcOff, len(src), dst, c.DstOff), func(s *treeState) {
		n := s.nodes[dst]
		old := k.content(n)
		b := make([]byte, max(len(old), int(c.DstOff)+len(src)))
		copy(b, old)
		copy(b[c.DstOff:], src)
		n.live = k.m.version(n.f, string(b))
		s.nodes[dst], s.pieces = n, true
	}, func() error {
		n, err := k.s.tree.CopyRange(c)
		if err == nil && n != int64(len(src)) {
			err = fmt.Errorf("%d of %d bytes copied", n, len(src))
		}
		return err
	})
	if k.synchronous(dst); c.SrcOff == c.DstOff {
		k.did.shared.Add(1)
	} else {
		k.did.moved.Add(1)
	}
}

// source chooses what is copied, and gives what is in it.
func (k *worker) source(c *stage.Copy) (data string, ok bool) {
	if k.rng.IntN(3) > 0 {
		_, id, ok := k.pick(plain)
		if !ok {
			return "", false
		}
		c.Src = k.inos[id]
		return k.content(k.m.last(k.w).nodes[id]), true
	}
	seq, _, ok := k.anyNamed(kept)
	if !ok {
		return "", false
	}
	view, err := k.s.view(seq)
	if err != nil {
		k.err = err
		return "", false
	}
	for _, path := range []string{"w0/a", "w0/b", "w0/model", "w0/sub/a", "w1/a", "w1/c", "w1/model"} {
		if v := view[path]; v.isFile {
			c.From, c.Src = k.s.tree.At(seq), v.ino
			return v.data, true
		}
	}
	return "", false
}

// punch makes a hole in a file, or adds one.
func (k *worker) punch() {
	id, ok := k.placed()
	if !ok {
		return
	}
	off, size := []int64{0, 100, 4096}[k.rng.IntN(3)], []int64{10, 4096, 70000}[k.rng.IntN(3)]
	mode := []uint32{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE}[k.rng.IntN(4)]
	k.do(fmt.Sprintf("fallocate %d [%d+%d] %#x", id, off, size, mode), func(s *treeState) {
		n := s.nodes[id]
		b := []byte(k.content(n))
		if mode > unix.FALLOC_FL_KEEP_SIZE {
			clear(b[min(off, int64(len(b))):min(off+size, int64(len(b)))])
		}
		if mode&unix.FALLOC_FL_KEEP_SIZE == 0 && off+size > int64(len(b)) {
			b = append(b, make([]byte, off+size-int64(len(b)))...)
		}
		n.live = k.m.version(n.f, string(b))
		s.nodes[id] = n
	}, func() error { return k.s.tree.Fallocate(k.inos[id], k.fhs[id], off, size, mode) })
}

// exchange swaps two names.
func (k *worker) exchange() {
	one, id, ok := k.pick(shown)
	two, other, ok2 := k.pick(shown)
	if !ok || !ok2 || id == other {
		return
	}
	d1, n1 := k.where(one)
	d2, n2 := k.where(two)
	k.do("exchange "+one+" "+two, func(s *treeState) { s.names[one], s.names[two] = other, id }, func() error {
		return k.s.tree.Rename(d1, n1, d2, n2, unix.RENAME_EXCHANGE)
	})
}

// tmpfile writes a file that has no name, and then gives it one.
func (k *worker) tmpfile() {
	path, ok := k.free(true)
	if !ok {
		return
	}
	*k.next++
	data := noise(k.rng, []int{10, 9000, 70000}[k.rng.IntN(3)])
	id, f := *k.next, k.m.newFile("", string(data))
	dir, name := k.where(path)
	a, fh, err := k.s.tree.Tmpfile(dir, 0o644, unix.O_RDWR, stage.Cred{})
	if err == nil {
		_, err = k.s.tree.Write(a.Ino, fh, data, 0)
	}
	if err != nil {
		k.err = fmt.Errorf("w%d: a file without a name: %w", k.w, err)
		return
	}
	k.inos[id], k.fhs[id], k.how[id] = a.Ino, fh, 0
	k.do("name a file "+path, func(s *treeState) {
		s.names[path], s.nodes[id] = id, node{mode: fileMode(0o644), f: f, live: 1, commit: -1}
	}, func() error {
		_, err := k.s.tree.Link(a.Ino, dir, name)
		return err
	})
}

// outdated makes the store one of the first format, which did not say from which
// pack on references are known: the next start has to.
func (k *worker) outdated() {
	if k.rng.IntN(2) > 0 {
		return
	}
	k.do("an old format", func(*treeState) {}, func() error {
		_, err := k.s.eng.Update(schema.KindPackState, func(tx *state.Tx) error {
			tx.Delete(schema.MetaKey(schema.MetaRefsFrom))
			return nil
		})
		return err
	})
	k.did.outdated.Add(1)
}
