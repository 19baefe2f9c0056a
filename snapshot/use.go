package snapshot

import (
	"sync"
	"time"
)

// Readers keep a forgotten snapshot from being pruned below them: open files
// and directories pin it, and whoever looks something up in it has it for a
// minute more. All of that lives in memory: readers end with the mount.
//
// A snapshot is pruned only after it was claimed, which hides it, in the same
// critical section in which it was found unused. So whoever pins or uses it
// first and then still finds it (Get) has it for as long as the pin lasts.

// uses are the readers of snapshots. Registry.mu guards it.
type uses struct {
	of    map[uint64]use
	grace time.Duration
	ticks func() time.Duration // monotonic
}

type use struct {
	pins int
	last time.Duration // tick of the last use
}

func (u *uses) busy(seq uint64, grace time.Duration) bool {
	x, ok := u.of[seq]
	return ok && (x.pins > 0 || u.ticks()-x.last < grace)
}

// Use notes that somebody reads a snapshot.
func (r *Registry) Use(seq uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.uses.of[seq]
	x.last = r.uses.ticks()
	r.uses.of[seq] = x
}

// Pin keeps a snapshot from being pruned until release is called, once or more
// often. Whether the snapshot is still there is to be asked after Pin.
func (r *Registry) Pin(seq uint64) (release func()) {
	r.pin(seq, 1)
	return sync.OnceFunc(func() {
		r.pin(seq, -1)
		r.Use(seq) // until a moment ago: its reader may open another file
	})
}

// pin counts readers without saying that they are any: for our own work.
func (r *Registry) pin(seq uint64, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x, ok := r.uses.of[seq]
	if !ok {
		x.last = -r.uses.grace // long ago
	}
	x.pins += n
	r.uses.of[seq] = x
}

// InUse says whether somebody reads a snapshot, or did a moment ago.
func (r *Registry) InUse(seq uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.uses.busy(seq, r.uses.grace)
}

// pressedGrace is how long a snapshot that was looked into stays when room is
// scarce: a copy under way has something open, or had a moment ago.
const pressedGrace = 500 * time.Millisecond

// inUseNow is InUse when room is scarce.
func (r *Registry) inUseNow(seq uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.uses.busy(seq, min(pressedGrace, r.uses.grace))
}

// readers says whether a snapshot is in use when room is scarce, and how much is
// open in it.
func (r *Registry) readers(seq uint64) (open int, reads bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.uses.of[seq].pins, r.uses.busy(seq, min(pressedGrace, r.uses.grace))
}

// idleSoon says whether a snapshot is in use only for a moment more, since
// nobody has it open.
func (r *Registry) idleSoon(seq uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.uses.of[seq].pins == 0
}

// claim hides those of the snapshots that nobody reads and nobody else is
// recording or pruning, and gives them; unhide undoes it.
func (r *Registry) claim(seqs []uint64, pressed bool) (claimed []uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	grace := r.uses.grace
	if pressed {
		grace = min(grace, pressedGrace)
	}
	for _, seq := range seqs {
		if r.hidden[seq] || r.uses.busy(seq, grace) {
			continue
		}
		r.hidden[seq] = true
		claimed = append(claimed, seq)
	}
	return claimed
}

// idleUses forgets readers that are long gone.
func (r *Registry) idleUses() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for seq := range r.uses.of {
		if !r.uses.busy(seq, r.uses.grace) {
			delete(r.uses.of, seq)
		}
	}
}
