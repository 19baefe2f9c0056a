package snapshot_test

import (
	"sync"

	"stepfs/fs/stage"
)

// gatedDisk is a staging disk whose syncs can be made to wait or to fail.
type gatedDisk struct {
	stage.Disk
	mu      sync.Mutex
	changed *sync.Cond
	closed  bool                   // syncs wait ...
	freed   map[uint64]bool        // ... but for those of these generations
	waiting map[uint64]int         // by generation
	fail    func(gen uint64) error // of syncs
	lost    func(gen uint64) error // of reads
}

func newGatedDisk(d stage.Disk) *gatedDisk {
	g := &gatedDisk{Disk: d, freed: map[uint64]bool{}, waiting: map[uint64]int{}}
	g.changed = sync.NewCond(&g.mu)
	return g
}

// shut makes every later sync wait.
func (d *gatedDisk) shut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	clear(d.freed)
}

// openGate lets all syncs go on, openFor those of one generation.
func (d *gatedDisk) openGate() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = false
	d.changed.Broadcast()
}

func (d *gatedDisk) openFor(gen uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.freed[gen] = true
	d.changed.Broadcast()
}

// held counts the syncs that wait, heldOf those of one generation.
func (d *gatedDisk) held() (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, k := range d.waiting {
		n += k
	}
	return n
}

func (d *gatedDisk) heldOf(gen uint64) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.waiting[gen]
}

// failing makes syncs fail for which fn gives an error; nil: none.
func (d *gatedDisk) failing(fn func(gen uint64) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = fn
}

// unreadable makes reads fail for which fn gives an error; nil: none.
func (d *gatedDisk) unreadable(fn func(gen uint64) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lost = fn
}

func (d *gatedDisk) sync(gen uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.waiting[gen]++
	for d.closed && !d.freed[gen] {
		d.changed.Wait()
	}
	d.waiting[gen]--
	if d.fail != nil {
		return d.fail(gen)
	}
	return nil
}

type gatedFile struct {
	stage.File
	d   *gatedDisk
	gen uint64
}

func (f gatedFile) Sync() error {
	if err := f.d.sync(f.gen); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f gatedFile) ReadAt(b []byte, off int64) (int, error) {
	f.d.mu.Lock()
	lost := f.d.lost
	f.d.mu.Unlock()
	if lost != nil {
		if err := lost(f.gen); err != nil {
			return 0, err
		}
	}
	return f.File.ReadAt(b, off)
}

func (d *gatedDisk) Create(gen uint64) (stage.File, error) {
	f, err := d.Disk.Create(gen)
	if err != nil {
		return nil, err
	}
	return gatedFile{f, d, gen}, nil
}

func (d *gatedDisk) Open(gen uint64) (stage.File, error) {
	f, err := d.Disk.Open(gen)
	if err != nil {
		return nil, err
	}
	return gatedFile{f, d, gen}, nil
}
