// Package handles keeps what a filesystem knows of the handles that the kernel has
// open.
package handles

import (
	"crypto/rand"
	"encoding/binary"
	"sync"
)

// Table keeps what belongs to open handles, by the number that the kernel knows
// them by. A number begins at a random one in each process: after a takeover a
// handle of the predecessor is unknown, never mistaken for another.
type Table[T any] struct {
	mu   sync.Mutex
	next uint64
	open map[uint64]T
}

// Init comes first.
func (t *Table[T]) Init() {
	var seed [8]byte
	_, _ = rand.Read(seed[:]) // it never fails
	t.next = binary.NativeEndian.Uint64(seed[:])>>1 | 1
	t.open = map[uint64]T{}
}

// Add opens a handle.
func (t *Table[T]) Add(v T) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next++
	t.open[t.next] = v
	return t.next
}

// Get gives what belongs to a handle.
func (t *Table[T]) Get(fh uint64) (T, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v, ok := t.open[fh]
	return v, ok
}

// Adopt gives a handle of a predecessor the value v, unless another request
// did so at the same time.
func (t *Table[T]) Adopt(fh uint64, v T) T {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old, ok := t.open[fh]; ok {
		return old
	}
	t.open[fh] = v
	return v
}

// Take closes a handle, and gives what belonged to it.
func (t *Table[T]) Take(fh uint64) (T, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v, ok := t.open[fh]
	delete(t.open, fh)
	return v, ok
}
