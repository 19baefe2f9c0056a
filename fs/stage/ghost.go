package stage

import "sync"

// maxGhosts is how many removed inodes are remembered.
const maxGhosts = 1024

// ghosts remembers what the inodes removed last were. The kernel may still have
// one open without our being told: a FIFO, a device, a directory, whatever was
// opened with O_PATH or is somebody's working directory. fstat(2) of it is
// answered from here, for as long as it lasts.
type ghosts struct {
	mu    sync.Mutex
	attrs map[uint64]Attr
	order []uint64 // a ring, once it is full
	next  int
}

func (g *ghosts) add(a Attr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.attrs == nil {
		g.attrs = map[uint64]Attr{}
	}
	if len(g.order) < maxGhosts {
		g.order = append(g.order, a.Ino)
	} else {
		delete(g.attrs, g.order[g.next])
		g.order[g.next] = a.Ino
		g.next = (g.next + 1) % maxGhosts
	}
	g.attrs[a.Ino] = a
}

// Ghost gives the attributes of an inode that was removed lately.
func (t *Tree) Ghost(ino uint64) (Attr, bool) {
	t.ghosts.mu.Lock()
	defer t.ghosts.mu.Unlock()
	a, ok := t.ghosts.attrs[ino]
	return a, ok
}
