package attach

import "sync"

// handles keeps what belongs to open handles, by the number that the kernel
// knows them by.
type handles[T any] struct {
	mu   sync.Mutex
	last uint64
	open map[uint64]T
}

func (h *handles[T]) init() { h.open = map[uint64]T{} }

func (h *handles[T]) add(v T) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last++
	h.open[h.last] = v
	return h.last
}

func (h *handles[T]) get(fh uint64) (T, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, ok := h.open[fh]
	return v, ok
}

func (h *handles[T]) take(fh uint64) (T, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, ok := h.open[fh]
	delete(h.open, fh)
	return v, ok
}
