package chunkstore

import "sync/atomic"

// counters count since Open.
type counters struct {
	ingested, duplicate, inherited, stored atomic.Uint64
	read, loads, cacheHits                 atomic.Uint64
}

// Stats describes a store. Packs to Size are of what is durable and indexed;
// the rest counts since Open.
type Stats struct {
	Packs  uint64
	Chunks uint64 // entries of all packs
	Raw    uint64 // plain bytes of those
	Stored uint64 // payload bytes of those
	Size   uint64 // of the pack files

	Ingested  uint64 // plain bytes handed to Ingest and Put
	Duplicate uint64 // of those, already there
	Inherited uint64 // of those, cut like the earlier version without scanning
	Written   uint64 // bytes put into packs for the rest

	Read      uint64 // bytes given to readers
	Loads     uint64 // chunks read from packs
	CacheHits uint64 // reads served from decoded chunks

	InFlight      int // packs that are not durable yet
	LostPacks     int // packs in the index whose file is gone
	BadPacks      int // pack files that can't be indexed
	DamagedChunks int // chunks found damaged
}

// Stats says how the store is.
func (s *Store) Stats() Stats {
	c := &s.counters
	st := Stats{
		Ingested: c.ingested.Load(), Duplicate: c.duplicate.Load(), Inherited: c.inherited.Load(), Written: c.stored.Load(),
		Read: c.read.Load(), Loads: c.loads.Load(), CacheHits: c.cacheHits.Load(),
	}
	st.LostPacks, st.DamagedChunks, st.BadPacks = s.damage.counts()
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.mu.totals
	st.Packs, st.Chunks, st.Raw, st.Stored, st.Size = t.packs, t.chunks, t.raw, t.stored, t.size
	st.InFlight = len(s.mu.packs)
	return st
}
