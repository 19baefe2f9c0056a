package chunkstore

import (
	"errors"
	"fmt"

	"stepfs/chunkstore/pack"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// packInfo is what is kept in memory of a pack, from its first claim until it
// is removed. All of it is under Store.mu.
type packInfo struct {
	number uint64            // 0: not indexed yet
	rec    schema.PackRecord // as of the last refresh; only its counts of dead ever change
	// pins are the Pendings that depend on the pack and are not released: what
	// they found in it may have no reference yet.
	pins int
	// away: the file is not here, and the bucket has it (far.go). evicting: it is
	// about to go; Collect leaves it alone.
	away, evicting bool
	used           uint64 // when somebody last read it, by Store.mu.clock
	// retiring: Collect is about to remove it, a hit in it is a miss. It is set
	// only while there are no pins, and while it is set none are added.
	retiring bool
	// kept is what of its dead was found to be needed by what is made from it;
	// it is forgotten when that changes, which changes counts.
	changes uint64
	kept    deadCount
	unfit   bool // could not be rewritten; not tried again until the next Open
}

// deadCount counts dead chunks.
type deadCount struct {
	chunks uint64
	bytes  uint64
}

func (d *deadCount) add(stored uint32) {
	d.chunks++
	d.bytes += uint64(stored)
}

// totals is what the indexed packs come to.
type totals struct {
	packs, chunks, raw, stored, size, dead, deadPacks uint64 // the last three of files that are here
	away, awayPacks                                   uint64 // bytes and number of those that are not
	planesRaw, planesStored, deltaRaw, deltaStored    uint64
}

func (t *totals) add(r schema.PackRecord, collectable, away bool) {
	t.packs++
	t.chunks += r.Chunks
	t.raw += r.Raw
	t.stored += r.Stored
	t.planesRaw += r.PlanesRaw
	t.planesStored += r.PlanesStored
	t.deltaRaw += r.DeltaRaw
	t.deltaStored += r.DeltaStored
	if away {
		t.away += r.Size
		t.awayPacks++
		return
	}
	t.size += r.Size
	if collectable && r.DeadChunks > 0 {
		t.dead += r.Dead
		t.deadPacks++
	}
}

func (t *totals) sub(r schema.PackRecord, collectable, away bool) {
	t.packs--
	t.chunks -= r.Chunks
	t.raw -= r.Raw
	t.stored -= r.Stored
	t.planesRaw -= r.PlanesRaw
	t.planesStored -= r.PlanesStored
	t.deltaRaw -= r.DeltaRaw
	t.deltaStored -= r.DeltaStored
	if away {
		t.away -= r.Size
		t.awayPacks--
		return
	}
	t.size -= r.Size
	if collectable && r.DeadChunks > 0 {
		t.dead -= r.Dead
		t.deadPacks--
	}
}

// collectable says whether every reference to the pack's chunks is known.
func (s *Store) collectable(number uint64) bool { return number >= s.refsFrom.Load() }

// enter makes an indexed pack known in memory.
func (s *Store) enter(info *packInfo, number uint64, rec schema.PackRecord) {
	s.mu.Lock()
	defer s.mu.Unlock()
	info.number, info.rec = number, rec
	s.mu.table[number] = info
	s.mu.names[rec.Name] = struct{}{}
	s.mu.clock++
	info.used = s.mu.clock
	s.mu.totals.add(rec, s.collectable(number), info.away)
}

// touch notes that a pack is read.
func (s *Store) touch(number uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if info := s.mu.table[number]; info != nil {
		s.mu.clock++
		info.used = s.mu.clock
	}
}

// leave forgets a pack; its name stays taken until freeName.
func (s *Store) leave(info *packInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.table[info.number] == info {
		delete(s.mu.table, info.number)
		s.mu.totals.sub(info.rec, s.collectable(info.number), info.away)
	}
}

// takeName gives a footer for the entries whose hash is no other pack's name:
// not an indexed one's, not one's on its way, not one's that is being removed.
// Storing what a retiring pack holds would otherwise make the file that is
// about to be unlinked.
func (s *Store) takeName(naming uint8, body int64, entries []pack.Entry) (pack.Name, []byte) {
	for salt := uint32(0); ; salt++ {
		footer := pack.AppendFooter(nil, pack.Footer{Info: s.packInfo(), Body: body, Naming: naming, Entries: entries, Salt: salt})
		name := pack.NameOf(footer)
		s.mu.Lock()
		_, taken := s.mu.names[name]
		s.mu.names[name] = struct{}{}
		s.mu.Unlock()
		if !taken {
			return name, footer
		}
	}
}

func (s *Store) freeName(name pack.Name) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mu.names, name)
}

// refresh brings the counts in memory up to those of the records. Hold and
// Drop can't do it: they do not learn whether their transaction came about.
// Inside a transaction of our own all earlier ones have, or have failed.
func (s *Store) refresh() error {
	_, err := s.db.Update(schema.KindPackState, func(tx *state.Tx) error {
		s.book = nil
		for number := range s.stale {
			rec, err := getPack(tx, number)
			if err != nil && !errors.Is(err, state.ErrNotFound) {
				return err
			}
			if err == nil {
				s.update(number, rec)
			}
			delete(s.stale, number)
		}
		return nil
	})
	return err
}

func (s *Store) update(number uint64, rec schema.PackRecord) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if info := s.mu.table[number]; info != nil {
		s.mu.totals.sub(info.rec, s.collectable(number), info.away)
		info.rec = rec
		s.mu.totals.add(rec, s.collectable(number), info.away)
	}
}

// unkeep forgets what a pack has to keep: something of that has changed.
func (s *Store) unkeep(number uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if info := s.mu.table[number]; info != nil {
		info.kept = deadCount{}
		info.changes++
	}
}

// setRefsFrom says which packs may be collected.
func (s *Store) setRefsFrom(number uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refsFrom.Store(number)
	s.mu.totals = totals{}
	for _, info := range s.mu.table {
		s.mu.totals.add(info.rec, s.collectable(info.number), info.away)
	}
}

// getter is what Get needs: the state now, or before a transaction.
type getter interface {
	Get(key []byte) ([]byte, error)
}

// getPack reads a pack's record, or state.ErrNotFound.
func getPack(g getter, number uint64) (schema.PackRecord, error) {
	v, err := g.Get(schema.PackKey(number))
	if err != nil {
		return schema.PackRecord{}, err
	}
	rec, err := schema.DecodePackRecord(v)
	if err != nil {
		return schema.PackRecord{}, fmt.Errorf("pack %d: %w", number, err)
	}
	return rec, nil
}

// getChunk reads a chunk's location, or state.ErrNotFound.
func (s *Store) getChunk(g getter, id ID) (schema.ChunkLoc, error) {
	v, err := g.Get(schema.ChunkKey(s.cfg.Domain, id))
	if err != nil {
		return schema.ChunkLoc{}, err
	}
	loc, err := schema.DecodeChunkLoc(v)
	if err != nil {
		return schema.ChunkLoc{}, fmt.Errorf("chunk %x: %w", id, err)
	}
	return loc, nil
}
