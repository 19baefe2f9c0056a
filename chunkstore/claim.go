package chunkstore

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/pack"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// maxEntries bounds the chunks of one pack, so that neither its footer nor its
// index transaction grows without limit when directory objects are small.
const maxEntries = 2048

// claim decides what becomes of a chunk of n plain bytes. pw == nil: it is
// durable already. Otherwise the caller's content depends on pw, and when
// fresh the caller must append the chunk to it (pw.append). Either way p pins
// the pack that has the chunk, or is to have it.
//
// The index is asked under s.mu: between "not in flight" and "claimed" no
// other pack may become durable with the chunk in it, or it would be stored
// twice; and between "a durable hit" and its pin no pack may begin to retire.
func (s *Store) claim(p *Pending, id ID, n int, l lane) (pw *packWriter, fresh bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return nil, false, ErrClosed
	}
	if pw := s.mu.inflight[id]; pw != nil && pw.lane.naming == l.naming {
		p.pinLocked(pw.info)
		return pw, false, nil
	}
	info, err := s.usableLocked(id)
	if err != nil {
		return nil, false, err
	}
	if ok, err := s.fitsLocked(id, info, l.naming); err != nil {
		return nil, false, err
	} else if ok {
		p.pinLocked(info)
		return nil, false, nil
	}
	pw = s.mu.cur[l]
	if pw == nil {
		pw = s.newPackWriter(l, takeAll)
		s.mu.cur[l] = pw
		s.mu.packs[pw] = struct{}{}
	}
	p.pinLocked(pw.info)
	s.mu.inflight[id] = pw
	pw.claimed = append(pw.claimed, id)
	pw.pending++
	pw.size += int64(n) + pack.PartHeaderSize
	pw.used = time.Now()
	if pw.size >= s.cfg.PackSize || len(pw.claimed) >= maxEntries {
		s.closeLocked(pw)
	}
	return pw, true, nil
}

// usableLocked gives the pack in which the durable index has the chunk, if new
// content may refer to it: not one that is retiring, and not one that we know
// to be damaged, itself or what it is made from (storing the chunk again is what
// heals it). nil: there is none.
func (s *Store) usableLocked(id ID) (*packInfo, error) {
	loc, rec, err := s.locate(id)
	if errors.Is(err, state.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	info := s.mu.table[loc.Pack]
	if info == nil || info.retiring || rec.State != schema.PackLive || s.damage.has(id, loc.Pack) {
		return nil, nil
	}
	if ok, err := s.readable(loc); !ok {
		return nil, err
	}
	if ok, err := s.reliableLocked(loc); !ok {
		return nil, err
	}
	return info, nil
}

// reliableLocked says whether a chunk, and all that it is made from, is here, or in
// packs that stay in the bucket, as far as is known: the last copy of new content
// is given up for it. So without the bucket, what is away is stored again.
func (s *Store) reliableLocked(loc schema.ChunkLoc) (bool, error) {
	if !s.far.some.Load() {
		return true, nil
	}
	for {
		info := s.mu.table[loc.Pack]
		if info == nil {
			return false, nil
		}
		if info.away {
			up, err := uploadOf(s.db, info.rec.Name)
			if err != nil || up == nil || up.State < schema.UploadNamed {
				return false, err
			}
			if !s.stays(bucket.Pack{Name: info.rec.Name, Writer: up.Writer, Seq: up.Seq, Size: int64(up.Size)}) {
				return false, nil
			}
		}
		link, err := linkOf(loc)
		if err != nil || link.Depth == 0 {
			return err == nil, nil
		}
		if loc, err = s.getChunk(s.db, link.ID); err != nil {
			return false, err
		}
	}
}

// closeLocked stops pw taking claims; it is finished once its last claimed
// chunk has been appended.
func (s *Store) closeLocked(pw *packWriter) {
	if pw.closed {
		return
	}
	pw.closed = true
	if s.mu.cur[pw.lane] == pw {
		delete(s.mu.cur, pw.lane)
	}
	s.finishLocked(pw)
}

// failLocked makes pw fail for everyone who depends on it, and forgets its
// claims at once, so that a later ingest of the same chunks starts afresh.
func (s *Store) failLocked(pw *packWriter, err error) {
	if pw.failure == nil {
		pw.failure = err
	}
	s.unclaimLocked(pw)
	s.closeLocked(pw)
}

func (s *Store) unclaimLocked(pw *packWriter) {
	for _, id := range pw.claimed {
		if s.mu.inflight[id] == pw {
			delete(s.mu.inflight, id)
		}
	}
	pw.claimed = nil
}

func (s *Store) finishLocked(pw *packWriter) {
	if pw.closed && pw.pending == 0 && !pw.finishing {
		pw.finishing = true
		go pw.finish()
	}
}

// appended gives back one claim of pw: its chunk is in the pack's file, with
// saved bytes less than was reserved, or err says why not.
func (s *Store) appended(pw *packWriter, saved int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pw.pending--
	pw.size -= saved
	pw.used = time.Now()
	if err != nil {
		s.failLocked(pw, err)
	}
	s.finishLocked(pw)
}

// expect is called when somebody starts to wait for pw. A pack closes when it
// is full; if nobody fills it, it closes by itself, so that a waiter never
// hangs: after IdleClose without a writer, or after ten times that in any case.
func (s *Store) expect(pw *packWriter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !pw.closed && !pw.expected {
		pw.expected = true
		time.AfterFunc(s.cfg.IdleClose, pw.idle)
	}
}

// idle is the timer that expect started.
func (pw *packWriter) idle() {
	s := pw.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if pw.closed {
		return
	}
	quiet := time.Since(pw.used)
	if quiet >= s.cfg.IdleClose || time.Since(pw.opened) >= 10*s.cfg.IdleClose {
		s.closeLocked(pw)
		return
	}
	time.AfterFunc(s.cfg.IdleClose-quiet, pw.idle)
}

// Flush closes the open pack and waits until every pack that was open or on
// its way is durable and indexed. It returns the first failure.
func (s *Store) Flush(ctx context.Context) error {
	s.mu.Lock()
	for _, cur := range s.mu.cur {
		s.closeLocked(cur)
	}
	packs := slices.Collect(maps.Keys(s.mu.packs))
	s.mu.Unlock()
	var first error
	for _, pw := range packs {
		if err := pw.wait(ctx); err != nil && first == nil {
			first = err
		}
	}
	return first
}
