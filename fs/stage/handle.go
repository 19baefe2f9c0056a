package stage

import (
	"golang.org/x/sys/unix"

	"stepfs/internal/schema"
)

// handle is one open(2) of a file. Under its inode's mutex.
type handle struct {
	fh       uint64
	writable bool
	append   bool
	sync     bool // O_SYNC or O_DSYNC
	flushed  bool // a FLUSH came after the last write through it
}

func newHandle(fh uint64, flags uint32) *handle {
	acc := flags & unix.O_ACCMODE
	return &handle{fh: fh, writable: acc == unix.O_WRONLY || acc == unix.O_RDWR, append: flags&unix.O_APPEND != 0, sync: flags&unix.O_DSYNC != 0}
}

func (n *inode) addHandle(h *handle) {
	if n.handles == nil {
		n.handles = map[uint64]*handle{}
	}
	n.handles[h.fh] = h
	if h.writable {
		if n.writers++; n.writers == 1 {
			n.appendOnly = true
		}
	}
}

// Create makes a regular file and opens it. ErrExist if the name is taken.
func (t *Tree) Create(parent uint64, name string, mode, flags uint32, c Cred) (Attr, uint64, error) {
	h := newHandle(t.nextFh.Add(1), flags)
	a, err := t.make(parent, name, spec{mode: ModeReg | mode&modePerm, cred: c, open: h})
	if err != nil {
		return Attr{}, 0, err
	}
	return a, h.fh, nil
}

// Tmpfile makes a regular file without a name and opens it, as O_TMPFILE does.
// Link may give it one as long as it is open.
func (t *Tree) Tmpfile(parent uint64, mode, flags uint32, c Cred) (Attr, uint64, error) {
	if err := t.space.admit(0); err != nil {
		return Attr{}, 0, err
	}
	dir, err := t.getDir(parent)
	if err != nil {
		return Attr{}, 0, err
	}
	defer t.put(dir)
	dir.mu.RLock()
	defer dir.mu.RUnlock()
	if dir.dead || dir.rec.Nlink == 0 {
		return Attr{}, 0, ErrNotExist
	}
	h := newHandle(t.nextFh.Add(1), flags)
	var n *inode
	_, err = t.update(schema.KindNamespace, func(tx *txn) (err error) {
		n, err = t.newInode(tx, dir, "", spec{mode: ModeReg | mode&modePerm, cred: c, open: h, nameless: true})
		return err
	})
	if err != nil {
		return Attr{}, 0, err
	}
	t.adopt(n, h)
	return n.attr(), h.fh, nil
}

// Open opens a file, emptying it for O_TRUNC. Each Open is given back by one
// Release.
func (t *Tree) Open(ino uint64, flags uint32, c Cred) (uint64, error) {
	n, err := t.get(ino)
	if err != nil {
		return 0, err
	}
	h := newHandle(t.nextFh.Add(1), flags)
	n.mu.Lock()
	switch {
	case n.dir && h.writable:
		err = ErrIsDir
	case n.dead:
		err = ErrNotExist
	default:
		n.addHandle(h)
		if flags&unix.O_TRUNC != 0 && isReg(n.rec) {
			if err = t.truncate(n, 0, h.fh); err != nil {
				n.dropHandle(h)
			}
		}
	}
	n.mu.Unlock()
	if err != nil {
		t.put(n)
		return 0, err
	}
	return h.fh, nil
}

func (n *inode) dropHandle(h *handle) {
	delete(n.handles, h.fh)
	if h.writable {
		n.writers--
	}
}

// Flush is one close(2) of a descriptor: of the handle, or of a duplicate.
// Once every writable handle was flushed and nothing was written since, the
// file is closed and its content is what the next snapshot shows.
// dying says that the closing process is being killed by a signal: what it
// leaves is not a commit.
func (t *Tree) Flush(ino, fh uint64, dying bool) error {
	n, err := t.get(ino)
	if err != nil {
		return nil // deleted meanwhile: nothing to commit
	}
	defer t.put(n)
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.handles[fh]
	if h == nil || !h.writable || dying {
		return nil
	}
	h.flushed = true
	if !n.closed() {
		return nil
	}
	if err := t.commitClosed(n); err != nil {
		return err
	}
	t.clean(OpClose, n)
	return nil
}

// closed says whether nobody may still be writing n: every writable handle was
// flushed with no write through it since. Flushed handles count as closed
// though the kernel's RELEASE of them may come much later.
func (n *inode) closed() bool {
	for _, h := range n.handles {
		if h.writable && !h.flushed {
			return false
		}
	}
	return true
}

// unflush notes a change through a handle: it has to be flushed again. Pages
// of a shared mapping come through none (0); what they change is committed by
// msync, or once the mapping is gone, at RELEASE.
func (n *inode) unflush(fh uint64) {
	if h := n.handles[fh]; h != nil {
		h.flushed = false
	}
}

// Release ends a handle. The last one of an unlinked file ends the file. A
// close came as FLUSH and has committed; what a dying process left stays
// uncommitted.
func (t *Tree) Release(ino, fh uint64) {
	n, err := t.get(ino)
	if err != nil {
		return
	}
	defer t.put(n)
	n.mu.Lock()
	h := n.handles[fh]
	if h == nil {
		n.mu.Unlock()
		return
	}
	n.dropHandle(h)
	switch {
	case len(n.handles) == 0 && n.rec.Nlink == 0 && !n.dead:
		t.fault("free an unlinked file", t.freeOrphan(n))
	case h.writable && h.flushed && n.closed():
		t.fault("commit a file that was mapped", t.commitClosed(n))
		t.clean(OpClose, n)
	}
	if n.writers == 0 {
		t.clean(OpAbandon, n)
	}
	n.mu.Unlock()
	t.put(n) // the reference that Open took
}

// freeOrphan deletes an inode that lost its last link while it was open.
func (t *Tree) freeOrphan(n *inode) error {
	_, err := t.update(schema.KindSweep, func(tx *txn) error {
		rec := *n.rec
		tx.Delete(schema.Numbered(schema.PrefixOrphan, n.ino))
		t.deleteInode(tx, n, &rec)
		return nil
	})
	return err
}

// Synchronous says whether what comes through a handle is a barrier each time.
func (t *Tree) Synchronous(ino, fh uint64) bool {
	n, err := t.get(ino)
	if err != nil {
		return false
	}
	defer t.put(n)
	n.mu.RLock()
	defer n.mu.RUnlock()
	h := n.handles[fh]
	return h != nil && h.sync
}

// Writers counts the writable handles of a file.
func (t *Tree) Writers(ino uint64) int {
	t.inodes.mu.Lock()
	n := t.inodes.all[ino]
	t.inodes.mu.Unlock()
	if n == nil {
		return 0
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.writers
}

// OpenForWriting calls fn for each file that has a writable handle and is not
// excluded.
func (t *Tree) OpenForWriting(fn func(ino, parent uint64)) {
	for _, n := range t.inodes.open() {
		n.mu.RLock()
		wanted, parent := false, uint64(0)
		if n.rec != nil {
			wanted, parent = n.writers > 0 && !n.rec.Excluded, n.rec.Parent
		}
		n.mu.RUnlock()
		if wanted {
			fn(n.ino, parent)
		}
	}
}

// open gives the inodes that somebody holds a reference to.
func (it *inodeTable) open() []*inode {
	it.mu.Lock()
	defer it.mu.Unlock()
	out := make([]*inode, 0, it.busy)
	for _, n := range it.all {
		if n.refs > 0 {
			out = append(out, n)
		}
	}
	return out
}
