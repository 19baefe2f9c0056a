package chunkstore

// While a chunk is encoded over its base, the base of the one behind it is
// fetched, on the guess that this one changed too. So no more than one base is
// fetched in vain where a run of changed chunks ends, and none where nothing
// changed.

// ahead fetches bases for a worker, one at a time. Its goroutine begins with the
// first chunk of a content that needs it, and ends with the content.
type ahead struct {
	want  chan Piece // nil: there is no goroutine
	got   chan *base
	asked Piece // what is being fetched; Len 0: nothing
}

// baseFor gives what a chunk may be made from that lies where piece does, or nil.
func (w *worker) baseFor(piece Piece) *base {
	if w.ahead.asked == piece {
		return w.ahead.take()
	}
	w.s.releaseBase(w.ahead.take())
	return w.s.baseFor(piece)
}

// fetch begins to fetch the base for the next piece, if that will be tried.
func (w *worker) fetch(next Piece) {
	if next.ID == (ID{}) || next.Len == 0 || next.Len > w.s.cfg.MaxSize || next.End() > w.limit {
		return
	}
	a := &w.ahead
	if a.want == nil {
		a.want, a.got = make(chan Piece, 1), make(chan *base, 1)
		go w.s.fetchBases(a.want, a.got)
	}
	a.asked = next
	a.want <- next
}

func (s *Store) fetchBases(want <-chan Piece, got chan<- *base) {
	if s.cfg.Background != nil {
		s.cfg.Background()
	}
	for piece := range want {
		got <- s.baseFor(piece)
	}
}

// take gives what was fetched, if anything was.
func (a *ahead) take() *base {
	if a.asked.Len == 0 {
		return nil
	}
	a.asked = Piece{}
	return <-a.got
}

// stopFetching ends the goroutine.
func (w *worker) stopFetching() {
	w.s.releaseBase(w.ahead.take())
	if w.ahead.want != nil {
		close(w.ahead.want)
	}
	w.ahead = ahead{}
}
