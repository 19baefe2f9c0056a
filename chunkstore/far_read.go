package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"stepfs/chunkstore/pack"
	"stepfs/internal/schema"
)

// payload is the stored bytes of one chunk, where they lie in a pack.
type payload struct {
	off   int64
	bytes []byte
}

func (p payload) ReadAt(b []byte, off int64) (int, error) {
	if off < p.off || off+int64(len(b)) > p.off+int64(len(p.bytes)) {
		return 0, io.EOF
	}
	return copy(b, p.bytes[off-p.off:]), nil
}

// take waits for a chunk's payload, which is there until it is given back.
func (f *far) take(ctx context.Context, id ID, loc schema.ChunkLoc) (r io.ReaderAt, release func(), err error) {
	p, err := f.pack(ctx, loc.Pack)
	if err != nil {
		return nil, nil, err
	}
	k, err := p.find(id, loc)
	if err != nil {
		return nil, nil, err
	}
	l := &p.parts[k]
	if kp := f.kept.find(loc.Pack, l.off); kp != nil {
		return kp.file, func() { f.kept.release(kp) }, nil
	}
	sp, b, err := f.await(ctx, l)
	if err != nil {
		return nil, nil, fmt.Errorf("chunk %x, in %s at %d: %w", id, p.at.Key(), loc.Offset, err)
	}
	return payload{l.off, b}, func() { f.spans.release(sp, l) }, nil
}

// bring has all that a chunk is made of fetched, as far as it is away, and what may
// be read next. So it is here that a reader waits for the bucket, with ctx and
// without holding what others need. Until release it stays.
func (s *Store) bring(ctx context.Context, id ID) (release func(), err error) {
	var pins []*span
	release = func() {
		for _, sp := range pins {
			s.far.spans.unpin(sp)
		}
	}
	if !s.far.some.Load() {
		return release, nil
	}
	chain, next, err := s.farChain(ctx, id)
	if err == nil && len(chain) > 0 {
		s.far.spans.demand(nil, chain)
		s.far.spans.ahead(nil, next)
	}
	for k := 0; k < len(chain) && err == nil; k++ {
		var sp *span
		if sp, _, err = s.far.await(ctx, chain[k]); err == nil {
			pins = append(pins, sp)
		}
	}
	if errors.Is(err, ErrUnreachable) || ctx.Err() != nil {
		release()
		return nil, s.farError(id, err)
	}
	return release, nil // what else is wrong, the one who reads it finds out
}

// farChain gives what of a chunk, and of all that it is made from, is away, and
// what lies behind the chunk if that is read in its order.
func (s *Store) farChain(ctx context.Context, id ID) (chain, next []*located, err error) {
	for below := uint8(pack.MaxDepth + 1); ; {
		loc, err := s.getChunk(s.db, id)
		if err != nil {
			return nil, nil, err
		}
		if s.isAway(loc.Pack) {
			p, err := s.far.pack(ctx, loc.Pack)
			if err != nil {
				return nil, nil, err
			}
			k, err := p.find(id, loc)
			if err != nil {
				return nil, nil, err
			}
			if below == pack.MaxDepth+1 {
				next = s.far.behind(p, k)
			}
			if !s.far.kept.has(loc.Pack, loc.Offset) {
				chain = append(chain, &p.parts[k])
			}
		}
		link, err := linkOf(loc)
		if err != nil || link.Depth == 0 || link.Depth >= below {
			return chain, next, err
		}
		id, below = link.ID, link.Depth
	}
}

// behind gives the parts behind one that are worth reading ahead: the more, the
// more of those before it were read. What is written together lies together.
func (f *far) behind(p *farPack, k int) (next []*located) {
	run := 0
	f.spans.mu.Lock()
	for run < farRun && run < k && p.parts[k-run-1].taken > 0 {
		run++
	}
	f.spans.mu.Unlock()
	if run == 0 && k > 0 {
		return nil
	}
	reach := int64(farReach) * int64(run+1) / (farRun + 1)
	for k++; k < len(p.parts) && reach > 0; k++ {
		reach -= int64(p.parts[k].stored)
		if f.kept.has(p.number, p.parts[k].off) {
			continue
		}
		next = append(next, &p.parts[k])
	}
	return next
}

// await waits for a part, but not for ever. The request goes on.
func (f *far) await(ctx context.Context, l *located) (*span, []byte, error) {
	limit, cancel := context.WithTimeout(ctx, f.wait)
	defer cancel()
	sp, b, err := f.spans.take(limit, nil, l)
	if err != nil && limit.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w: no answer for %v", ErrUnreachable, f.wait)
		f.giveUp(err)
	}
	return sp, b, err
}

func (f *far) giveUp(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down, f.since = err, time.Now()
}

// isDown gives the error of a bucket that was just given up: it was tried for long
// enough, and those who come now need not wait as long again.
func (f *far) isDown() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.since) > f.pause {
		f.down = nil
	}
	return f.down
}

// farError names the chunk in an error of the bucket, and tells the owner.
func (s *Store) farError(id ID, err error) error {
	err = fmt.Errorf("read chunk %x: %w", id, err)
	switch {
	case errors.Is(err, ErrUnreachable):
		if s.cfg.Events.Unreachable != nil && s.far.sayNow() {
			s.cfg.Events.Unreachable(err)
		}
	case errors.Is(err, ErrCorrupt):
		s.damage.badChunk(id)
		return s.report(err)
	}
	return err
}

// sayNow says whether it is time to tell the owner again.
func (f *far) sayNow() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.said) < farSilence {
		return false
	}
	f.said = time.Now()
	return true
}
