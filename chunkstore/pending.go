package chunkstore

import (
	"context"

	"stepfs/chunkstore/codec"
	"stepfs/chunkstore/pack"
)

// Pending is content that has been handed to the store. Its refs are final,
// but nothing may be told that they are stored before Wait has returned nil.
//
// Until Release it keeps its chunks from Collect: they may have no reference
// yet. So: Wait, then a transaction with Hold in it, then Release.
type Pending struct {
	s      *Store
	refs   []Ref
	packs  map[*packWriter]struct{} // not known to be done
	new    int64
	stored int64
	reused int64

	pinned   map[*packInfo]struct{} // under s.mu
	released bool                   // under s.mu
}

func (s *Store) newPending() *Pending {
	return &Pending{s: s, packs: make(map[*packWriter]struct{}), pinned: make(map[*packInfo]struct{})}
}

// pinLocked keeps a pack that the content depends on from Collect.
func (p *Pending) pinLocked(info *packInfo) {
	if _, ok := p.pinned[info]; !ok && !p.released {
		p.pinned[info] = struct{}{}
		info.pins++
	}
}

// Release says that the content is held now, or given up. It may be called
// more than once; a Pending that failed has released itself.
func (p *Pending) Release() {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	for info := range p.pinned {
		info.pins--
	}
	p.pinned, p.released = nil, true
}

// Refs gives the chunks of the content in order.
func (p *Pending) Refs() []Ref { return p.refs }

// NewBytes is how many plain bytes were new to the store.
func (p *Pending) NewBytes() int64 { return p.new }

// StoredBytes is what those bytes take in packs, part headers included.
func (p *Pending) StoredBytes() int64 { return p.stored }

// InheritedBytes is how many bytes were cut where the earlier version was,
// without scanning.
func (p *Pending) InheritedBytes() int64 { return p.reused }

// Wait returns once every chunk of the content is durable and indexed, or why
// one is not. After an error the content has to be ingested again; what of it
// was stored will be found.
func (p *Pending) Wait(ctx context.Context) error {
	for pw := range p.packs {
		p.s.expect(pw)
	}
	for pw := range p.packs {
		if err := pw.wait(ctx); err != nil {
			select {
			case <-pw.done:
				p.Release()
			default: // ctx ended: the pack may still come about
			}
			return err
		}
		delete(p.packs, pw)
	}
	return nil
}

// depend notes that the content needs pw. Now and then it forgets packs that
// are done, so that a huge content does not hold a record of each.
func (p *Pending) depend(pw *packWriter) {
	if _, ok := p.packs[pw]; ok {
		return
	}
	if len(p.packs) >= 16 {
		for old := range p.packs {
			select {
			case <-old.done:
				if old.err == nil {
					delete(p.packs, old)
				}
			default:
			}
		}
	}
	p.packs[pw] = struct{}{}
}

// add stores one chunk, which lies at off in its file, unless it is there. Its
// part may be overwritten. If it is made from its base, the pack keeps that.
func (p *Pending) add(coder *codec.Coder, c chunk, off int64, typ pack.Type) error {
	s, part, id := p.s, c.part, c.id
	n := len(part) - pack.PartHeaderSize
	pw, fresh, err := s.claim(p, id, n, s.lane(c.naming, typ))
	if err != nil {
		return err
	}
	s.counters.ingested.Add(uint64(n))
	if pw == nil {
		s.counters.duplicate.Add(uint64(n))
		return nil
	}
	p.depend(pw)
	if !fresh {
		s.counters.duplicate.Add(uint64(n))
		return nil
	}
	b := c.base
	if b != nil {
		if ok, err := s.mayHaveBase(id); !ok || err != nil {
			b = nil
		}
	}
	var e encoded
	if b != nil && !s.hurried(Unencoded) {
		e = s.encodePlan(coder, part, b, c.plan)
	} else {
		e = s.encode(coder, part, off, b)
	}
	defer s.buffers.put(e.scratch)
	if e.enc == pack.EncDelta {
		pw.keep(b)
	}
	if err := pw.append(e, pack.Entry{ID: id, Type: typ, Raw: uint32(n)}); err != nil {
		return err
	}
	p.new += int64(n)
	p.stored += int64(len(e.out))
	s.counters.stored.Add(uint64(len(e.out)))
	return nil
}
