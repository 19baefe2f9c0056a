package stage

import (
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"stepfs/internal/schema"
)

// Read fills dst with the live content of a file from offset off, and gives
// how many bytes that was: fewer than len(dst) only at the end of the file.
func (t *Tree) Read(ino, fh uint64, dst []byte, off int64) (int, error) {
	n, err := t.get(ino)
	if err != nil {
		return 0, ErrStale
	}
	defer t.put(n)
	n.mu.RLock()
	defer n.mu.RUnlock()
	return t.readContent(ino, &n.rec.Live, dst, off)
}

// Lseek is lseek(2) with SEEK_DATA or SEEK_HOLE.
func (t *Tree) Lseek(ino uint64, off int64, whence uint32) (int64, error) {
	n, err := t.get(ino)
	if err != nil {
		return 0, err
	}
	defer t.put(n)
	n.mu.RLock()
	defer n.mu.RUnlock()
	return t.lseek(ino, &n.rec.Live, off, whence)
}

func (t *Tree) lseek(ino uint64, c *schema.Content, off int64, whence uint32) (int64, error) {
	switch whence {
	case unix.SEEK_DATA:
		return t.seekContent(ino, c, off, true)
	case unix.SEEK_HOLE:
		return t.seekContent(ino, c, off, false)
	}
	return 0, ErrInvalid
}

// View is the tree as of one cut. It never changes.
type View struct {
	t   *Tree
	seq uint64
}

// At gives the view of a snapshot.
func (t *Tree) At(seq uint64) *View { return &View{t, seq} }

// Now is what a snapshot taken now would show. It changes while it is read.
func (t *Tree) Now() *View { return &View{t, newest} }

// Seq is the snapshot's number.
func (v *View) Seq() uint64 { return v.seq }

// inode gives the version that the view shows. A file whose content was never
// committed does not exist in it.
func (v *View) inode(ino uint64) (*schema.Inode, error) {
	old, age := v.t.views.get(viewKey{v.seq, ino})
	if old != nil {
		return old, nil
	}
	if v.seq == newest {
		age = -1 // nothing to keep
	}
	rec, _, err := v.t.readInode(ino, v.seq)
	if err != nil {
		return nil, err
	}
	if rec.Deleted || isReg(rec) && rec.Committed == nil {
		return nil, ErrNotExist
	}
	v.t.views.put(viewKey{v.seq, ino}, rec, age)
	return rec, nil
}

// shown is the content of a view's inode.
func shown(rec *schema.Inode) *schema.Content {
	if isReg(rec) {
		return rec.Committed
	}
	return &rec.Live
}

// Lookup finds an entry.
func (v *View) Lookup(parent uint64, name string) (Attr, error) {
	if len(name) > MaxName {
		return Attr{}, ErrNameTooLong
	}
	d, err := v.t.findDentry(parent, name, v.seq)
	if err != nil {
		return Attr{}, err
	}
	if !d.seen() {
		return Attr{}, ErrNotExist
	}
	return v.GetAttr(d.Ino)
}

// Find resolves a path below the root of the view, as Tree.Find.
func (v *View) Find(path string) (Attr, error) {
	a, err := v.GetAttr(RootIno)
	for _, name := range strings.Split(path, "/") {
		if name == "" {
			continue
		}
		if err != nil {
			return Attr{}, err
		}
		a, err = v.Lookup(a.Ino, name)
	}
	return a, err
}

// GetAttr gives what stat(2) shows; Ino is the live inode's number.
func (v *View) GetAttr(ino uint64) (Attr, error) {
	rec, err := v.inode(ino)
	if err != nil {
		return Attr{}, err
	}
	return attrOf(ino, rec, shown(rec)), nil
}

// Marks says how the view's file differs from the live one of that moment:
// "open" (an append-only file taken while it was written), "reverted" (its
// content was not durable), or "".
func (v *View) Marks(ino uint64) (string, error) {
	rec, err := v.inode(ino)
	switch {
	case err != nil:
		return "", err
	case rec.Reverted:
		return "reverted", nil
	case rec.Marked:
		return "open", nil
	}
	return "", nil
}

// Unwritten says whether a range of the file that a change of its size added
// was never written. A hole that was left by writing behind the end, or
// punched, is one on purpose.
func (v *View) Unwritten(ino uint64) (bool, error) {
	rec, err := v.inode(ino)
	if err != nil || !isReg(rec) || !rec.Grown || shown(rec).Len == 0 {
		return false, err
	}
	c := shown(rec)
	segs, err := v.t.segments(ino, c, 0, 1)
	return err == nil && (len(segs) == 0 || segs[0] != Segment{0, c.Len}), err
}

// Parent gives the directory that holds dir in this view.
func (v *View) Parent(dir uint64) (uint64, error) {
	rec, err := v.inode(dir)
	if err != nil {
		return 0, err
	}
	return rec.Parent, nil
}

// ReadDir gives up to max entries whose names come after `after`, in byte
// order.
func (v *View) ReadDir(dir uint64, after string, max int) ([]Dirent, error) {
	for {
		es, err := v.t.readDir(dir, v.seq, after, max)
		if err != nil || len(es) == 0 {
			return nil, err
		}
		full := len(es) == max
		after = es[len(es)-1].Name
		shown := es[:0]
		for _, e := range es {
			if e.Hidden {
				continue
			}
			if e.Type == ModeReg {
				if _, err := v.inode(e.Ino); err == ErrNotExist {
					continue
				} else if err != nil {
					return nil, err
				}
			}
			shown = append(shown, e)
		}
		if len(shown) > 0 || !full {
			return shown, nil
		}
	}
}

// Readlink gives a symbolic link's target.
func (v *View) Readlink(ino uint64) (string, error) {
	if _, err := v.inode(ino); err != nil {
		return "", err
	}
	return v.t.Readlink(ino)
}

// Read fills dst from offset off, as Tree.Read.
func (v *View) Read(ino uint64, dst []byte, off int64) (int, error) {
	rec, err := v.inode(ino)
	if err != nil {
		return 0, err
	}
	return v.t.readContent(ino, shown(rec), dst, off)
}

// Lseek is lseek(2) with SEEK_DATA or SEEK_HOLE.
func (v *View) Lseek(ino uint64, off int64, whence uint32) (int64, error) {
	rec, err := v.inode(ino)
	if err != nil {
		return 0, err
	}
	return v.t.lseek(ino, shown(rec), off, whence)
}

// GetXattr gives the value of an extended attribute.
func (v *View) GetXattr(ino uint64, name string) ([]byte, error) {
	return v.t.getXattr(ino, name, v.seq)
}

// ListXattr gives the names of the extended attributes.
func (v *View) ListXattr(ino uint64) ([]string, error) { return v.t.listXattr(ino, v.seq) }

type viewKey struct{ seq, ino uint64 }

// viewCache keeps inodes of snapshots that were looked at. They never change,
// but when a sync fails (revert): then it is dropped.
type viewCache struct {
	mu  sync.Mutex
	all map[viewKey]*schema.Inode
	age int // how often it was dropped: what was read before is not put in after
}

const maxViews = 8 << 10

func (c *viewCache) init() { c.all = map[viewKey]*schema.Inode{} }

func (c *viewCache) get(k viewKey) (rec *schema.Inode, age int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all[k], c.age
}

func (c *viewCache) put(k viewKey, rec *schema.Inode, age int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if age != c.age {
		return
	}
	for old := range c.all {
		if len(c.all) < maxViews {
			break
		}
		delete(c.all, old)
	}
	c.all[k] = rec
}

func (c *viewCache) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.all)
	c.age++
}
