package stage

import (
	"sync"

	"stepfs/internal/schema"
)

// maxGhosts is how many removed inodes are remembered.
const maxGhosts = 1024

// ghosts remembers what the inodes removed last were. The kernel may still have
// one open without our being told: a FIFO, a device, a directory, whatever was
// opened with O_PATH or is somebody's working directory. fstat(2) and the like
// are answered from here, for as long as it lasts.
type ghosts struct {
	mu    sync.Mutex
	recs  map[uint64]schema.Inode
	order []uint64 // a ring, once it is full
	next  int
}

func (g *ghosts) add(ino uint64, rec schema.Inode) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.recs == nil {
		g.recs = map[uint64]schema.Inode{}
	}
	if len(g.order) < maxGhosts {
		g.order = append(g.order, ino)
	} else {
		delete(g.recs, g.order[g.next])
		g.order[g.next] = ino
		g.next = (g.next + 1) % maxGhosts
	}
	g.recs[ino] = rec
}

// Ghost gives the attributes of an inode that was removed lately.
func (t *Tree) Ghost(ino uint64) (Attr, bool) {
	return t.ghosts.change(ino, func(*schema.Inode) {})
}

// change changes one, which nobody but its opener will see.
func (g *ghosts) change(ino uint64, fn func(rec *schema.Inode)) (Attr, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	rec, ok := g.recs[ino]
	if !ok {
		return Attr{}, false
	}
	fn(&rec)
	g.recs[ino] = rec
	return attrOf(ino, &rec, &rec.Live), true
}
