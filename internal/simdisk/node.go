package simdisk

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// PageSize is what survives as a whole or not at all.
const PageSize = 4096

type page [PageSize]byte

// node is a file or a directory.
type node struct {
	// Of a directory: its entries, and those of them that are durable.
	names, synced map[string]*node

	// Of a file. A page's versions are what it held since the last sync, oldest
	// first: the first is the durable one, the last the current one; nil is a
	// hole. What is in a version never changes, so copies of a disk share them.
	size, syncedSize int64
	pages            map[int64][]*page
	// lost are pages that a failed sync has left neither durable nor dirty: no
	// later sync writes them, unless they are written to again.
	lost map[int64]bool
}

func newDir() *node  { return &node{names: map[string]*node{}, synced: map[string]*node{}} }
func newFile() *node { return &node{pages: map[int64][]*page{}} }

func (n *node) isDir() bool { return n.names != nil }

func (n *node) read(dst []byte, off int64) int {
	dst = dst[:max(0, min(int64(len(dst)), n.size-off))]
	for i := 0; i < len(dst); {
		p, in := (off+int64(i))/PageSize, int((off+int64(i))%PageSize)
		k := min(len(dst)-i, PageSize-in)
		if v := n.pages[p]; v != nil && v[len(v)-1] != nil {
			copy(dst[i:i+k], v[len(v)-1][in:])
		} else {
			clear(dst[i : i+k])
		}
		i += k
	}
	return len(dst)
}

func (n *node) write(src []byte, off int64) {
	for len(src) > 0 {
		p, in := off/PageSize, int(off%PageSize)
		k := min(len(src), PageSize-in)
		v := n.pages[p]
		if v == nil {
			v = []*page{nil}
		}
		next := new(page)
		if last := v[len(v)-1]; last != nil {
			*next = *last
		}
		copy(next[in:], src[:k])
		n.pages[p] = append(v, next)
		delete(n.lost, p)
		src, off = src[k:], off+int64(k)
	}
	n.size = max(n.size, off)
}

func (n *node) sync() {
	for p, v := range n.pages {
		if len(v) > 1 && !n.lost[p] {
			n.pages[p] = v[len(v)-1:]
		}
	}
	n.syncedSize = n.size
}

// failSync is what the kernel does when it can't write pages: they count as
// clean from then on.
func (n *node) failSync() {
	for p, v := range n.pages {
		if len(v) > 1 {
			if n.lost == nil {
				n.lost = map[int64]bool{}
			}
			n.lost[p] = true
		}
	}
}

// data gives the first range at or behind off that is no hole.
func (n *node) data(off int64) (start, end int64, ok bool) {
	var ps []int64
	for p, v := range n.pages {
		if v[len(v)-1] != nil && (p+1)*PageSize > off && p*PageSize < n.size {
			ps = append(ps, p)
		}
	}
	if len(ps) == 0 || off >= n.size {
		return 0, 0, false
	}
	slices.Sort(ps)
	start, end = max(off, ps[0]*PageSize), (ps[0]+1)*PageSize
	for _, p := range ps[1:] {
		if p*PageSize != end {
			break
		}
		end += PageSize
	}
	return start, min(end, n.size), true
}

// copier copies nodes, each once.
type copier struct {
	rng  *rand.Rand // nil: everything survives, and stays in doubt
	made map[*node]*node
}

// durable copies a node with the names that are durable, without its current
// ones.
func (c *copier) durable(n *node) *node {
	if out := c.made[n]; out != nil {
		return out
	}
	if !n.isDir() {
		out := c.file(n)
		c.made[n] = out
		return out
	}
	out := newDir()
	c.made[n] = out
	for _, name := range slices.Sorted(maps.Keys(n.synced)) {
		out.synced[name] = c.durable(n.synced[name])
	}
	return out
}

// names gives all copies their current names, also to those that only current
// names lead to.
func (c *copier) names() {
	for todo := slices.Collect(maps.Keys(c.made)); len(todo) > 0; {
		n := todo[0]
		todo = todo[1:]
		for name, child := range n.names {
			if c.made[child] == nil {
				c.durable(child)
				todo = append(todo, child)
			}
			c.made[n].names[name] = c.made[child]
		}
	}
}

func (c *copier) file(n *node) *node {
	out := &node{size: n.size, syncedSize: n.syncedSize, pages: make(map[int64][]*page, len(n.pages))}
	if c.rng == nil {
		for p, v := range n.pages {
			out.pages[p] = slices.Clip(v)
		}
		out.lost = maps.Clone(n.lost)
		return out
	}
	luck := luck(c.rng)
	out.size = n.syncedSize
	for _, p := range slices.Sorted(maps.Keys(n.pages)) {
		v := n.pages[p]
		k := 0
		if len(v) > 1 && c.rng.IntN(100) < luck {
			// Mostly the last; else one that was written back before the next came.
			k = len(v) - 1
			if c.rng.IntN(3) == 0 {
				k = c.rng.IntN(len(v))
			}
		}
		if v[k] == nil {
			continue
		}
		out.pages[p] = v[k : k+1 : k+1]
		out.size = max(out.size, min(n.size, (p+1)*PageSize))
	}
	out.syncedSize = out.size
	return out
}

// nameOp is a change of names that is not durable: one name gets a node, or
// loses it, and another may lose it at the same moment.
type nameOp struct {
	dir      *node
	name     string
	node     *node // nil: the name goes
	fromDir  *node // nil: it is no rename
	fromName string
}

func currentNames(n *node) map[string]*node { return n.names }
func syncedNames(n *node) map[string]*node  { return n.synced }

func (o nameOp) apply(names func(*node) map[string]*node) {
	if o.fromDir != nil {
		delete(names(o.fromDir), o.fromName)
	}
	if o.node == nil {
		delete(names(o.dir), o.name)
		return
	}
	names(o.dir)[o.name] = o.node
}

// op is the same change in the copy.
func (c *copier) op(o nameOp) nameOp {
	o.dir = c.durable(o.dir)
	if o.node != nil {
		o.node = c.durable(o.node)
	}
	if o.fromDir != nil {
		o.fromDir = c.durable(o.fromDir)
	}
	return o
}
