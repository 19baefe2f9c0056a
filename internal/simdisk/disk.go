// Package simdisk is a disk in memory for tests: it counts, delays or fails
// every operation, and can lose power. One disk holds all of a store: FS shows
// it as what Pebble, journal and packs write to, Staging as the files of the
// live tree, which are sparse. So a power cut takes both at the same moment.
//
// What a cut leaves is decided for each page and each name by itself, as POSIX
// allows and no filesystem in use goes beyond: what was synced is there; of
// what was not, any part may be, in any order. That holds for removals as well,
// which may be durable at once. A rename is never half done. Syncing a file
// makes its content durable and not its name, which syncing the directory does.
//
// (Pebble's own crashable filesystem is not enough: in it an unsynced removal is
// always undone, a page has no version between the synced and the last one, and
// the same random numbers don't give the same crash.)
//
// Read disk.go first, then node.go, which says what survives.
package simdisk

import (
	"hash/maphash"
	"math/rand/v2"
	"sync"
	"sync/atomic"
)

// Kind is a kind of operation.
type Kind string

// The operations that change the disk, or say what of it is durable, ...
const (
	Create  Kind = "create"
	Write   Kind = "write"
	Sync    Kind = "sync"
	SyncDir Kind = "syncdir"
	Rename  Kind = "rename"
	Link    Kind = "link"
	Remove  Kind = "remove"
	Mkdir   Kind = "mkdir"
)

// ... and those that only look.
const (
	Open Kind = "open"
	Read Kind = "read"
	List Kind = "list"
	Stat Kind = "stat"
)

// Op is an operation that is about to be done.
type Op struct {
	Kind Kind
	Path string
	To   string // of a rename or link
	Off  int64  // of a read or write
	Len  int
}

// Changes says whether what a power cut may leave differs before and after.
func (o Op) Changes() bool {
	switch o.Kind {
	case Open, Read, List, Stat:
		return false
	}
	return true
}

// Short is an error of a hook that lets the first N bytes of a write through.
type Short struct {
	N   int
	Err error
}

func (s Short) Error() string { return s.Err.Error() }

// Unwrap gives the error that the writer is told.
func (s Short) Unwrap() error { return s.Err }

// Disk is a disk in memory. Its methods are safe for concurrent use.
type Disk struct {
	before atomic.Pointer[func(Op) error]

	mu      sync.Mutex
	root    *node
	pending []nameOp // changes of names that are not durable yet, in order
	locked  map[string]bool
}

// New gives an empty disk with some directories that are durable, parents first.
func New(dirs ...string) *Disk {
	d := &Disk{root: newDir(), locked: map[string]bool{}}
	for _, path := range dirs {
		dir, name, err := d.parent(path)
		if err != nil {
			panic(err) // a mistake of the test's
		}
		n := newDir()
		dir.names[name], dir.synced[name] = n, n
	}
	return d
}

// Before has fn called before each operation, on the goroutine that does it and
// without a lock of the disk held; its error is that of the operation, which
// then is not done. Nil: nobody is called.
func (d *Disk) Before(fn func(Op) error) {
	if fn == nil {
		d.before.Store(nil)
		return
	}
	d.before.Store(&fn)
}

// do runs one operation.
func (d *Disk) do(op Op, fn func() error) error {
	if before := d.before.Load(); before != nil {
		if err := (*before)(op); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return fn()
}

// Cut gives the disk that is found after a power cut at this moment. The same
// numbers give the same disk. This one goes on as if nothing had happened.
func (d *Disk) Cut(rng *rand.Rand) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := copier{rng: rng, made: map[*node]*node{}}
	out := &Disk{root: c.durable(d.root), locked: map[string]bool{}}
	luck := luck(rng)
	for _, op := range d.pending {
		if rng.IntN(100) < luck {
			c.op(op).apply(syncedNames)
		}
	}
	for _, n := range c.made {
		for name, child := range n.synced {
			n.names[name] = child
		}
	}
	return out
}

// Kill gives the disk as the next daemon finds it when this one dies: all is
// there, and what was not synced is as much in doubt as it was.
func (d *Disk) Kill() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := copier{made: map[*node]*node{}}
	out := &Disk{root: c.durable(d.root), locked: map[string]bool{}}
	for _, op := range d.pending {
		out.pending = append(out.pending, c.op(op))
	}
	c.names()
	return out
}

// Sums gives a number for each file of a directory that tells its name and what
// is in it from others, within this process.
func (d *Disk) Sums(dir string) (sums []uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.find(dir)
	if err != nil {
		return nil
	}
	for name, file := range n.names {
		var h maphash.Hash
		h.SetSeed(seed)
		_, _ = h.WriteString(name)
		for p := range (file.size + PageSize - 1) / PageSize {
			if v := file.pages[p]; v != nil && v[len(v)-1] != nil {
				_, _ = h.Write(v[len(v)-1][:])
			}
			_ = h.WriteByte(0)
		}
		sums = append(sums, h.Sum64())
	}
	return sums
}

var seed = maphash.MakeSeed()

// luck draws how many of a hundred things survive. Often it is all or nothing:
// so one file is behind another that was written before it.
func luck(rng *rand.Rand) int {
	switch rng.IntN(3) {
	case 0:
		return 0
	case 1:
		return 100
	}
	return rng.IntN(101)
}
