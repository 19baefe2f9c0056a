package chunkstore

import (
	"context"
	"fmt"

	"stepfs/chunkstore/pack"
)

// Ingest splits the content of src and stores what is new. prior are the refs
// of an earlier version at the same offsets, in order; they only save work and
// may be nil, or of anything else.
func (s *Store) Ingest(ctx context.Context, src Source, prior []Ref) (*Pending, error) {
	return s.IngestOver(ctx, src, Unmoved(prior, src.Segments()))
}

// IngestOver is Ingest of a content of which more is known. It runs in the
// caller's goroutine; at most Config.Workers calls run at a time, the others wait.
//
// No more than one chunk per worker is in memory, with its base, its encoding and
// the base of the next: what Ingest needs does not grow with the content, but for
// its refs.
func (s *Store) IngestOver(ctx context.Context, src Source, plan Plan) (*Pending, error) {
	segs, err := coalesce(src.Segments())
	if err != nil {
		return nil, err
	}
	var w *worker
	select {
	case w = <-s.workers:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.closing:
		return nil, ErrClosed
	}
	if w == nil {
		w = s.newWorker()
	}
	defer func() { s.workers <- w }()
	older, err := s.plansOlder(plan)
	if err != nil {
		return nil, err
	}
	if older {
		plan = Plan{}
	}
	p := s.newPending()
	w.begin(src, plan)
	defer w.release()
	for _, seg := range segs {
		if err := w.segment(ctx, seg, p); err != nil {
			p.Release()
			return nil, fmt.Errorf("ingest: %w", err)
		}
	}
	return p, nil
}

// Again gives a content that was ingested before, by its refs, without reading it. nil:
// not all of it is there for new content to refer to.
func (s *Store) Again(refs []Ref) (*Pending, error) {
	p := s.newPending()
	p.refs = refs
	for _, r := range refs {
		if ok, err := p.again(r.ID); !ok || err != nil {
			p.Release()
			return nil, err
		}
	}
	return p, nil
}

func (p *Pending) again(id ID) (bool, error) {
	s := p.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return false, ErrClosed
	}
	info, err := s.usableLocked(id)
	if err != nil {
		return false, err
	}
	ok, err := s.fitsLocked(id, info, s.naming())
	if ok {
		p.pinLocked(info)
	}
	return ok, err
}

// segment stores one data range, chunk by chunk.
func (w *worker) segment(ctx context.Context, seg Segment, p *Pending) error {
	w.seek(seg)
	for w.pos < w.limit {
		if err := ctx.Err(); err != nil {
			return err
		}
		c, err := w.next()
		if err != nil {
			return err
		}
		c.naming = w.s.naming()
		off, n := w.pos, len(c.part)-pack.PartHeaderSize
		p.refs = append(p.refs, Ref{Off: off, Len: uint32(n), ID: c.id})
		w.pos += int64(n)
		if c.inherited {
			p.reused += int64(n)
			p.s.counters.inherited.Add(uint64(n))
		}
		err = p.add(w.coder, c, off, pack.TypeData)
		w.s.releaseBase(c.base)
		if err != nil {
			return err
		}
	}
	return nil
}

// Put stores one object as a single chunk of its own type; its ref is
// Refs()[0]. Objects are at most pack.MaxRaw bytes.
func (s *Store) Put(ctx context.Context, data []byte) (*Pending, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(data) > pack.MaxRaw {
		return nil, fmt.Errorf("%w: object of %d bytes", ErrSource, len(data))
	}
	b := s.buffers.get(pack.PartHeaderSize + len(data))
	defer s.buffers.put(b)
	copy(b.bytes[pack.PartHeaderSize:], data)
	p := s.newPending()
	id := s.name(data)
	p.refs = []Ref{{Len: uint32(len(data)), ID: id}}
	coder := s.coders.get()
	defer s.coders.put(coder)
	if err := p.add(coder, chunk{part: b.bytes, id: id, naming: s.naming()}, 0, pack.TypeTree); err != nil {
		p.Release()
		return nil, fmt.Errorf("put: %w", err)
	}
	return p, nil
}

// coalesce joins segments that touch: a cut between two of them would be one
// that no content asked for.
func coalesce(in []Segment) ([]Segment, error) {
	var out []Segment
	end := int64(0)
	for _, s := range in {
		if s.Len <= 0 || s.Off < end || s.Off+s.Len < s.Off {
			return nil, fmt.Errorf("%w: segment of %d bytes at %d, after %d", ErrSource, s.Len, s.Off, end)
		}
		if len(out) > 0 && s.Off == end {
			out[len(out)-1].Len += s.Len
		} else {
			out = append(out, s)
		}
		end = s.Off + s.Len
	}
	return out, nil
}
