package chunkstore

import "sync/atomic"

// counters count since Open.
type counters struct {
	ingested, duplicate, inherited, stored atomic.Uint64
	hotBases, hurried                      atomic.Uint64
	read, loads, cacheHits                 atomic.Uint64
}

// Stats describes a store. Packs to Size are of what is durable and indexed;
// the rest counts since Open.
type Stats struct {
	Packs  uint64
	Chunks uint64 // entries of all packs
	Raw    uint64 // plain bytes of those
	Stored uint64 // payload bytes of those
	Size   uint64 // of the pack files that are here
	Away   uint64 // of those that are only in the bucket
	Dead   uint64 // of Stored, what nobody holds: Collect removes it, but for what live deltas need

	// What encoding saves: Raw less Stored, by how chunks are kept.
	SavedZstd, SavedPlanes, SavedDeltas uint64

	Ingested  uint64 // plain bytes handed to Ingest and Put
	Duplicate uint64 // of those, already there
	Inherited uint64 // of those, cut like the earlier version without scanning
	Written   uint64 // bytes put into packs for the rest
	HotBases  uint64 // plain bytes of bases that were taken from hot copies, not decoded
	Hurried   uint64 // plain bytes for which no base was looked for, since there was hurry

	Read      uint64 // bytes given to readers
	Loads     uint64 // chunks read from packs
	CacheHits uint64 // reads served from decoded chunks

	InFlight      int // packs that are not durable yet
	LostPacks     int // packs in the index whose file is gone
	BadPacks      int // pack files that can't be indexed
	AwayPacks     int // packs whose files are only in the bucket
	DamagedChunks int // chunks found damaged
}

// Stats says how the store is.
func (s *Store) Stats() Stats {
	c := &s.counters
	st := Stats{
		Ingested: c.ingested.Load(), Duplicate: c.duplicate.Load(), Inherited: c.inherited.Load(), Written: c.stored.Load(), HotBases: c.hotBases.Load(), Hurried: c.hurried.Load(),
		Read: c.read.Load(), Loads: c.loads.Load(), CacheHits: c.cacheHits.Load(),
	}
	st.LostPacks, st.DamagedChunks, st.BadPacks = s.damage.counts()
	t := s.settled()
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Packs, st.Chunks, st.Raw, st.Stored, st.Size, st.Dead = t.packs, t.chunks, t.raw, t.stored, t.size, t.dead
	st.Away, st.AwayPacks = t.away, int(t.awayPacks)
	st.SavedPlanes, st.SavedDeltas = t.planesRaw-t.planesStored, t.deltaRaw-t.deltaStored
	st.SavedZstd = t.raw - t.stored - st.SavedPlanes - st.SavedDeltas
	st.InFlight = len(s.mu.packs)
	return st
}

// Dead says how many payload bytes in packs nobody holds, and in how many packs
// they lie; but not what, as Collect found, has to stay for live deltas. Packs from before references do not count: of those it is
// not known.
func (s *Store) Dead() (bytes int64, packs int) {
	t := s.settled()
	s.mu.Lock()
	defer s.mu.Unlock()
	bytes, packs = int64(t.dead), int(t.deadPacks)
	for _, info := range s.mu.table {
		if info.kept.chunks > 0 && !info.away {
			bytes -= int64(min(info.kept.bytes, info.rec.Dead))
			if info.kept.chunks >= info.rec.DeadChunks {
				packs--
			}
		}
	}
	return bytes, packs
}

// settled gives the totals with all transactions in them that have come about.
func (s *Store) settled() totals {
	_ = s.refresh() // a store that can't be changed any more has told everybody
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.totals
}
