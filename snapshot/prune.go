package snapshot

import (
	"context"
	"time"

	"stepfs/internal/schema"
)

// What people ask of the keeper (keeper.go): to prune now, and what pruning has
// done.

// Pruned says how far a prune is. Bytes are those that came back meanwhile,
// also of what the job has deleted.
type Pruned struct {
	Done   int   // snapshots and barriers removed
	Left   int   // forgotten ones that are not removed yet
	Packs  int64 // bytes of packs, less those that were written for it
	Staged int64 // bytes of staging files
}

// PruneNow removes what is forgotten, without waiting for the time in which
// that can be undone, and what else is due, and returns once what only they saw
// is freed. What is in use stays: it is the last report's Left. fn, which may be nil,
// hears how far it is. An end of ctx leaves the rest to the keeper.
func (m *Manager) PruneNow(ctx context.Context, fn func(Pruned)) (p Pruned, err error) {
	k := m.keeper
	if err := k.load(); err != nil {
		return p, err
	}
	k.freeing()
	packs, staged := k.packsFreed(), m.tree.Reaped()
	count := func(n int) {
		p.Done += n
		p.Left, p.Packs, p.Staged = k.left(), k.packsFreed()-packs, m.tree.Reaped()-staged
	}
	_, err = k.once(ctx, true, func(n int) {
		if count(n); fn != nil {
			fn(p)
		}
	})
	count(0)
	return p, err
}

// StartPrune has the keeper do what PruneNow does, and gives how many are forgotten.
func (m *Manager) StartPrune() int {
	k := m.keeper
	k.mu.Lock()
	k.hurry, k.free = true, true
	k.mu.Unlock()
	k.wake()
	return k.left()
}

func (k *keeper) left() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.forgotten)
}

// PruneReport says what pruning has done since the manager was opened, and what
// it has to do.
type PruneReport struct {
	Last          time.Time // when a pass last ended that removed or freed something
	LastDone      Pruned    // what it did; Left is not set
	Packs, Staged int64     // bytes that came back since then

	Forgotten int // snapshots that are forgotten and not removed yet
	Queue     int // snapshots that are gone, and what they alone saw is not freed yet
}

// PruneReport looks.
func (m *Manager) PruneReport() (r PruneReport, err error) {
	k := m.keeper
	k.mu.Lock()
	r = PruneReport{Last: k.freed.at, LastDone: k.freed.last, Packs: k.freed.packs, Forgotten: len(k.forgotten)}
	k.mu.Unlock()
	r.Staged = m.tree.Reaped()
	it, err := m.db.NewIter([]byte{schema.PrefixExpired}, []byte{schema.PrefixExpired + 1})
	if err != nil {
		return r, err
	}
	for ok := it.First(); ok; ok = it.Next() {
		r.Queue++
	}
	return r, it.Close()
}

// freedBytes is the keeper's account of what came back. keeper.mu guards it.
type freedBytes struct {
	packs int64     // since the start
	last  Pruned    // what the last pass did that did anything
	at    time.Time // when that ended; zero: there was none
}

// gotBack counts bytes of packs.
func (k *keeper) gotBack(bytes int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.freed.packs += bytes
}

func (k *keeper) packsFreed() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.freed.packs
}

// ran notes what a pass did.
func (k *keeper) ran(p Pruned) {
	if p.Done == 0 && p.Packs == 0 {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.freed.at, k.freed.last = k.m.cfg.Now(), p
}
