package journal

// Size is what the log takes on the disk, in bytes: segments and spares, which
// are written in full whatever they hold, one that is being prepared, and what
// an earlier run has left, as long as nothing was appended.
func (l *Log) Size() (n int64) {
	if !l.started.Load() {
		l.dirMu.Lock()
		for _, f := range l.leftovers {
			n += f.size
		}
		l.dirMu.Unlock()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.mu.live {
		n += s.size
	}
	for _, s := range l.mu.spares {
		n += s.size
	}
	if l.mu.preparing && len(l.mu.spares) == 0 {
		n += l.size
	}
	return n
}
