package fs

import (
	"crypto/rand"
	"encoding/binary"
	"sync"
)

// handles keeps what belongs to open handles, by the number that the kernel
// knows them by. A number begins at a random one in each process: after a
// takeover a handle of the predecessor is unknown, never mistaken for another.
type handles[T any] struct {
	mu   sync.Mutex
	next uint64
	open map[uint64]T
}

func (h *handles[T]) init() {
	var seed [8]byte
	_, _ = rand.Read(seed[:]) // it never fails
	h.next = binary.NativeEndian.Uint64(seed[:])>>1 | 1
	h.open = map[uint64]T{}
}

func (h *handles[T]) add(v T) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next++
	h.open[h.next] = v
	return h.next
}

func (h *handles[T]) get(fh uint64) (T, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, ok := h.open[fh]
	return v, ok
}

// adopt gives a handle of a predecessor the value v, unless another request
// did so at the same time.
func (h *handles[T]) adopt(fh uint64, v T) T {
	h.mu.Lock()
	defer h.mu.Unlock()
	if old, ok := h.open[fh]; ok {
		return old
	}
	h.open[fh] = v
	return v
}

func (h *handles[T]) remove(fh uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.open, fh)
}
