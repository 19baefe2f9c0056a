package stage

import (
	"math/rand/v2"
	"sync"

	"stepfs/internal/simdisk"
)

// power is the mains of a machine: every change of its disk is counted, and the
// disk goes dark before the one that was chosen. What runs on sees the old
// disk; what the cut left is in left.
type power struct {
	disk *simdisk.Disk
	rng  *rand.Rand
	kill bool // the daemon dies, the machine stays: nothing is lost

	mu   sync.Mutex
	ops  int
	at   int // cut before this operation; 0: never
	left *simdisk.Disk
}

func newPower(disk *simdisk.Disk, rng *rand.Rand) *power {
	p := &power{disk: disk, rng: rand.New(rand.NewPCG(rng.Uint64(), 3))} // its own: any goroutine may cut
	disk.Before(func(op simdisk.Op) error {
		if op.Changes() {
			p.count()
		}
		return nil
	})
	return p
}

func (p *power) count() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ops++; p.at != 0 && p.ops >= p.at {
		p.cutLocked()
	}
}

// arm chooses the operation, counted from now, before which the power goes.
func (p *power) arm(in int, kill bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at, p.kill = p.ops+in, kill
}

// cut takes the power away now, unless it is gone already.
func (p *power) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cutLocked()
}

func (p *power) cutLocked() {
	switch {
	case p.left != nil:
	case p.kill:
		p.left = p.disk.Kill()
	default:
		p.left = p.disk.Cut(p.rng)
	}
}

// out says whether the power is gone.
func (p *power) out() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.left != nil
}
