package chunkstore

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"stepfs/chunkstore/pack"
	"stepfs/chunkstore/remote"
)

const (
	spanSize   = 4 << 20 // what is merged into one request, unless one payload is larger
	spanWaste  = 8 << 20 // what may have been fetched in vain, beside a sixteenth
	spanGap    = 1 << 10 // bytes between payloads that are fetched with them: so many,
	staleAfter = 4       // times what may be kept, read by others: nobody comes for it any more
	gapShare   = 16      // and this part of what was wanted before them
	fewShare   = 8       // less than this part of what is announced is not asked for yet
)

// span is a range of a pack, fetched by one request.
type span struct {
	where *whereabouts // of what is in it
	pack  uint32
	off   int64
	size  int        // of the range; later what its buffer takes
	parts []*located // the payloads in it that are wanted, by offset

	ready chan struct{} // closed when buf or err is set
	buf   *buffer
	err   error

	pins int           // who reads it at the moment
	left int           // parts that nobody has read yet
	born int64         // spans.read when it was asked for
	elem *list.Element // in spans.order, once it is there
}

// payload gives the bytes of a part.
func (s *span) payload(l *located) []byte { return s.buf.bytes[l.off-s.off:][:l.stored] }

// spans keeps the payloads that were fetched and not needed yet, and some that
// were. What comes pushes out what has been read, or what nobody came for while
// others read much, and never what is still to be read: that would be fetched
// twice. When there is no room nothing is fetched ahead of readers; what a reader
// waits for is fetched all the same.
//
// Invariants:
//   - A part is in one span at most.
//   - bytes is the sizes of all spans, also of those under way. It exceeds max
//     only by what readers wait for.
//   - What was fetched in vain is a sixteenth of what was read, and spanWaste.
type spans struct {
	max   int64
	fetch func(ctx context.Context, s *span) error
	free  func(*buffer)
	ctx   context.Context // of all requests: nobody's leaving fails another reader
	stop  context.CancelFunc
	tasks sync.WaitGroup

	mu     sync.Mutex
	of     map[*located]*span
	order  list.List // of *span, the one fetched or read last at the end
	bytes  int64
	read   int64 // payload bytes that readers took
	wasted int64 // payload bytes that went unread
}

func newSpans(limit int64, fetch func(context.Context, *span) error, free func(*buffer)) *spans {
	s := &spans{max: limit, fetch: fetch, free: free, of: make(map[*located]*span)}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
}

func (s *spans) close() {
	s.stop()
	s.tasks.Wait()
}

// ahead begins to fetch parts that will be read soon, as far as there is room, and
// once they are enough: who reads in order announces a little more each time, and
// that makes few requests only together.
func (s *spans) ahead(where *whereabouts, parts []*located) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wasted > s.read/16+spanWaste {
		return // whoever reads does not read what he says
	}
	missing := s.newLocked(parts, true)
	if payloads(missing)*fewShare < payloads(parts) {
		return
	}
	for _, sp := range merge(missing) {
		if !s.makeRoomLocked(int64(sp.size)) {
			return
		}
		s.startLocked(where, sp)
	}
}

// payloads is the bytes of parts.
func payloads(parts []*located) (n int64) {
	for _, l := range parts {
		n += int64(l.stored)
	}
	return n
}

// demand begins to fetch what a reader is about to take.
func (s *spans) demand(where *whereabouts, parts []*located) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.demandLocked(where, parts)
}

func (s *spans) demandLocked(where *whereabouts, parts []*located) {
	for _, sp := range merge(s.newLocked(parts, false)) {
		s.makeRoomLocked(int64(sp.size)) // and if there is none: somebody waits
		s.startLocked(where, sp)
	}
}

// newLocked gives those parts that are in no span, each once. Ahead of readers
// not those that were read a moment ago: their chunks are decoded, in the cache or
// with another reader who is further.
func (s *spans) newLocked(parts []*located, ahead bool) []*located {
	var missing []*located
	seen := make(map[*located]bool, len(parts))
	for _, l := range parts {
		if s.of[l] != nil || seen[l] || ahead && l.taken > 0 && s.read-l.taken < staleAfter*s.max {
			continue
		}
		seen[l] = true
		missing = append(missing, l)
	}
	return missing
}

// merge makes requests of parts: those that lie near each other in a pack
// become one. The one with the part that is needed first comes first.
func merge(parts []*located) []*span {
	place := make(map[*located]int, len(parts))
	for k, l := range parts {
		place[l] = k
	}
	sorted := slices.Clone(parts)
	slices.SortFunc(sorted, func(a, b *located) int { return cmp.Or(cmp.Compare(a.pack, b.pack), cmp.Compare(a.off, b.off)) })
	var out []*span
	first := map[*span]int{}
	wanted := int64(0) // payload bytes of the last span
	for _, l := range sorted {
		end := l.off + int64(l.stored)
		if k := len(out) - 1; k >= 0 && out[k].pack == l.pack && end-out[k].off <= spanSize &&
			l.off-(out[k].off+int64(out[k].size)) <= spanGap+wanted/gapShare {
			out[k].size = int(end - out[k].off)
			out[k].parts = append(out[k].parts, l)
			first[out[k]] = min(first[out[k]], place[l])
			wanted += int64(l.stored)
			continue
		}
		sp := &span{pack: l.pack, off: l.off, size: int(l.stored), parts: []*located{l}}
		out, wanted, first[sp] = append(out, sp), int64(l.stored), place[l]
	}
	slices.SortFunc(out, func(a, b *span) int { return cmp.Compare(first[a], first[b]) })
	return out
}

// startLocked enters a span and has it fetched.
func (s *spans) startLocked(where *whereabouts, sp *span) {
	sp.where, sp.ready, sp.left, sp.born = where, make(chan struct{}), len(sp.parts), s.read
	for _, l := range sp.parts {
		s.of[l] = sp
	}
	s.bytes += int64(sp.size)
	s.tasks.Go(func() {
		err := s.fetch(s.ctx, sp)
		s.mu.Lock()
		defer s.mu.Unlock()
		if sp.err = err; err != nil {
			s.forgetLocked(sp)
		} else {
			sp.elem = s.order.PushBack(sp)
			s.bytes += int64(cap(sp.buf.bytes) - sp.size)
			sp.size = cap(sp.buf.bytes)
		}
		close(sp.ready)
	})
}

// take waits for a part. What it gives is there until it is released. If a
// request for several parts failed, this one is asked for alone: what is wrong may
// be with another.
func (s *spans) take(ctx context.Context, where *whereabouts, l *located) (*span, []byte, error) {
	for {
		sp := s.pin(where, l)
		var err error
		select {
		case <-sp.ready:
			err = sp.err
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err == nil {
			return sp, sp.payload(l), nil
		}
		s.unpin(sp)
		if len(sp.parts) == 1 || ctx.Err() != nil || s.ctx.Err() != nil || errors.Is(err, ErrUnreachable) {
			return nil, nil, err
		}
	}
}

// pin gives the span of a part, fetched or not, and keeps it.
func (s *spans) pin(where *whereabouts, l *located) *span {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of[l] == nil {
		s.demandLocked(where, []*located{l})
	}
	sp := s.of[l]
	sp.pins++
	return sp
}

func (s *spans) unpin(sp *span) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sp.pins--
}

// release gives a part back that was read.
func (s *spans) release(sp *span, l *located) { s.releasePiece(sp, l, int(l.stored)) }

// releasePiece gives a part back of which so many bytes were read. Who has read a
// piece comes back for the next: what was read last goes last.
func (s *spans) releasePiece(sp *span, l *located, read int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sp.pins--
	s.order.MoveToBack(sp.elem)
	s.read += int64(read)
	if l.taken <= sp.born {
		sp.left--
	}
	l.taken = s.read
}

// makeRoomLocked says whether n bytes more are within the limit, once what was
// read or is stale is gone, as far as it must.
func (s *spans) makeRoomLocked(n int64) bool {
	for el := s.order.Front(); el != nil && s.bytes+n > s.max; {
		sp := el.Value.(*span)
		el = el.Next()
		if sp.pins == 0 && (sp.left == 0 || s.read-sp.born > staleAfter*s.max) {
			s.dropLocked(sp)
		}
	}
	return s.bytes+n <= s.max
}

// forget drops all that is of a snapshot that nobody reads any more. What is
// under way goes when it is stale.
func (s *spans) forget(where *whereabouts) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for el := s.order.Front(); el != nil; {
		sp := el.Value.(*span)
		el = el.Next()
		if sp.where == where && sp.pins == 0 {
			s.dropLocked(sp)
		}
	}
}

func (s *spans) dropLocked(sp *span) {
	for _, l := range sp.parts {
		if l.taken <= sp.born {
			s.wasted += int64(l.stored)
		}
	}
	s.order.Remove(sp.elem)
	s.forgetLocked(sp)
	s.free(sp.buf)
}

// forgetLocked takes a span out.
func (s *spans) forgetLocked(sp *span) {
	for _, l := range sp.parts {
		delete(s.of, l)
	}
	s.bytes -= int64(sp.size)
}

// fetchSpan gets a range of a pack from a bucket.
func (d *decoder) fetchSpan(ctx context.Context, b remote.Bucket, key string, s *span) error {
	s.buf = d.buffers.get(roomy(s.size))
	s.buf.bytes = s.buf.bytes[:s.size]
	_, err := remote.GetVerified(ctx, b, key, s.buf.bytes, s.off, func([]byte) error { return d.verifyAll(s) })
	if err != nil {
		d.buffers.put(s.buf)
		s.buf = nil
	}
	return err
}

// copySpan is fetchSpan out of a pack that is at hand. It says whether all is right.
func (d *decoder) copySpan(whole []byte, s *span) bool {
	if s.off+int64(s.size) > int64(len(whole)) {
		return false
	}
	s.buf = d.buffers.get(s.size)
	copy(s.buf.bytes, whole[s.off:])
	if d.verifyAll(s) != nil {
		d.buffers.put(s.buf)
		s.buf = nil
	}
	return s.buf != nil
}

// verifyAll holds what has come against what is wanted of it.
func (d *decoder) verifyAll(s *span) error {
	for _, l := range s.parts {
		if err := d.verify(l, s.payload(l)); err != nil {
			return fmt.Errorf("chunk %x at %d: %w", l.id, l.off, err)
		}
	}
	return nil
}

// verify holds a payload against the chunk's name if it is the chunk itself. The
// name of others is known once they are decoded; until then their checksum does,
// which is that of a footer whose name is known to be right.
func (d *decoder) verify(l *located, payload []byte) error {
	switch {
	case l.enc == pack.EncRaw && !d.named(payload, l.id):
		return errWrongName
	case l.enc != pack.EncRaw && pack.Checksum(payload) != l.crc:
		return errors.New("its checksum is wrong")
	}
	return nil
}

func roomy(n int) int {
	if n > spanSize/2 && n < spanSize {
		return spanSize
	}
	return n
}
