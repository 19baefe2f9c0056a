package chunkstore

// While a chunk is encoded over its base, the base of the one behind it is
// fetched, on the guess that this one changed too. So no more than one base is
// fetched in vain where a run of changed chunks ends, and none where nothing
// changed.

// ahead fetches bases for a worker, one at a time. Its goroutine begins with the
// first chunk of a content that needs it, and ends with the content.
type ahead struct {
	want  chan Ref // nil: there is no goroutine
	got   chan *base
	asked Ref // what is being fetched; Len 0: nothing
}

// baseFor gives what a new version of the chunk prior may be made from, or nil.
func (w *worker) baseFor(prior Ref) *base {
	if w.ahead.asked == prior {
		return w.ahead.take()
	}
	w.s.releaseBase(w.ahead.take())
	return w.s.baseFor(prior)
}

// fetch begins to fetch the base for a new version of the chunk prior.
func (w *worker) fetch(prior Ref) {
	a := &w.ahead
	if a.want == nil {
		a.want, a.got = make(chan Ref, 1), make(chan *base, 1)
		go w.s.fetchBases(a.want, a.got)
	}
	a.asked = prior
	a.want <- prior
}

func (s *Store) fetchBases(want <-chan Ref, got chan<- *base) {
	if s.cfg.Background != nil {
		s.cfg.Background()
	}
	for prior := range want {
		got <- s.baseFor(prior)
	}
}

// take gives what was fetched, if anything was.
func (a *ahead) take() *base {
	if a.asked.Len == 0 {
		return nil
	}
	a.asked = Ref{}
	return <-a.got
}

// stop ends the goroutine.
func (w *worker) stopFetching() {
	w.s.releaseBase(w.ahead.take())
	if w.ahead.want != nil {
		close(w.ahead.want)
	}
	w.ahead = ahead{}
}
