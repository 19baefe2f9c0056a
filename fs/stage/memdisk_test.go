package stage

import (
	"math/rand/v2"
	"sync"

	"stepfs/internal/simdisk"
)

const diskPage = simdisk.PageSize

// memDisk is the staging directory of a simulated disk.
type memDisk struct {
	*simdisk.Staging
	on *simdisk.Disk

	mu    sync.Mutex
	space Space
}

const memStaging = "s/staging"

func newMemDisk() *memDisk { return memDiskOn(simdisk.New("s", memStaging)) }

func memDiskOn(on *simdisk.Disk) *memDisk {
	return &memDisk{Staging: on.Staging(memStaging), on: on, space: Space{Total: 1 << 40, Free: 1 << 40}}
}

// before has fn called before each operation; its error is the operation's.
func (d *memDisk) before(fn func(op string, gen uint64) error) {
	d.on.Before(func(op simdisk.Op) error {
		gen, _ := d.Gen(op.Path)
		return fn(string(op.Kind), gen)
	})
}

// well ends what before began.
func (d *memDisk) well() { d.on.Before(nil) }

func (d *memDisk) Create(gen uint64) (File, error) { return d.Staging.Create(gen) }
func (d *memDisk) Open(gen uint64) (File, error)   { return d.Staging.Open(gen) }

func (d *memDisk) Space() (Space, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.space, nil
}

// crash gives what a power cut leaves.
func (d *memDisk) crash(rng *rand.Rand) *memDisk { return memDiskOn(d.on.Cut(rng)) }
