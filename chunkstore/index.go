package chunkstore

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"stepfs/chunkstore/pack"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// locate finds a chunk in the durable index, or state.ErrNotFound. A pack that
// is gone from the index while it is looked up was collected: then its chunks
// are elsewhere by now.
func (s *Store) locate(id ID) (schema.ChunkLoc, schema.PackRecord, error) {
	var last []byte
	for {
		v, err := s.db.Get(schema.ChunkKey(s.cfg.Domain, id))
		if err != nil {
			return schema.ChunkLoc{}, schema.PackRecord{}, err
		}
		loc, err := schema.DecodeChunkLoc(v)
		if err != nil {
			return schema.ChunkLoc{}, schema.PackRecord{}, fmt.Errorf("chunk %x: %w", id, err)
		}
		rec, err := getPack(s.db, loc.Pack)
		if errors.Is(err, state.ErrNotFound) && !bytes.Equal(v, last) {
			last = v
			continue
		}
		return loc, rec, err
	}
}

// chooser says whether a pack that is being indexed is to be the place of a
// chunk, or only holds a copy that nobody reads.
type chooser func(l *ledger, e pack.Entry) (bool, error)

// takeAll: a chunk that another pack also has is from now on read from this
// one: it was stored again because the other could not be relied on.
func takeAll(*ledger, pack.Entry) (bool, error) { return true, nil }

// index makes a durable pack known, with those of its chunks that want asks
// for, in one transaction, and makes that durable too. A chunk that is new to
// the index is dead until somebody holds it.
//
// What comes to rely on it is a later record of the same journal, of which a power
// cut leaves the beginning; but for one thing that alone would not do. A chunk that
// was stored again, since its place was found damaged, would be back at that place,
// the pack that healed it be one more copy when the next Open adopts it, and nobody
// know of the damage: new content would be a hit there, and lose its hot copy.
func (s *Store) index(info *packInfo, rec *schema.PackRecord, entries []pack.Entry, want chooser) error {
	pos, err := s.db.Update(schema.KindChunkIndex, func(tx *state.Tx) error {
		number, err := s.takeNumber(tx)
		if err != nil {
			return err
		}
		l := s.ledger(tx)
		if err := l.addPack(number, rec, entries, want); err != nil {
			return err
		}
		l.flush()
		// Here, and not after the transaction: a Hold in the next one must find
		// the pack's counts in memory to be refreshed.
		s.enter(info, number, *l.packs[number])
		return nil
	})
	if err != nil {
		s.leave(info)
	} else {
		err = s.db.Sync(pos)
	}
	if err != nil {
		return fmt.Errorf("index pack %s: %w", pack.Name(rec.Name).FileName(), err)
	}
	s.damage.healed(entries)
	return nil
}

func (s *Store) newRecord(name pack.Name, foot pack.Footer) *schema.PackRecord {
	return packRecord(s.cfg.Domain, name, foot)
}

func packRecord(domain uint32, name pack.Name, foot pack.Footer) *schema.PackRecord {
	rec := &schema.PackRecord{Name: name, State: schema.PackLive, Domain: domain, Size: packSize(foot.Body, foot.Entries), Naming: foot.Naming}
	for _, e := range foot.Entries {
		rec.Chunks++
		rec.Raw += uint64(e.Raw)
		rec.Stored += uint64(e.Stored)
		switch e.Enc {
		case pack.EncPlanes:
			rec.PlanesRaw += uint64(e.Raw)
			rec.PlanesStored += uint64(e.Stored)
		case pack.EncDelta:
			rec.DeltaRaw += uint64(e.Raw)
			rec.DeltaStored += uint64(e.Stored)
		}
	}
	return rec
}

func packSize(body int64, entries []pack.Entry) uint64 {
	return uint64(body) + uint64(pack.FooterSize(entries)) + pack.TrailerSize
}

func chunkLoc(number uint64, e pack.Entry) schema.ChunkLoc {
	return schema.ChunkLoc{
		Pack: number, Offset: e.PayloadOffset(), Stored: e.Stored, Raw: e.Raw,
		Type: uint8(e.Type), Enc: uint8(e.Enc), Ext: e.Ext,
	}
}

// addPack enters a new pack and its chunks.
func (l *ledger) addPack(number uint64, rec *schema.PackRecord, entries []pack.Entry, want chooser) error {
	it, err := l.references()
	if err != nil {
		return err
	}
	defer it.Close()
	l.packs[number] = rec
	l.changed[number] = struct{}{}
	seen := make(map[ID]struct{}, len(entries))
	for _, e := range entries {
		ok := false
		if _, again := seen[e.ID]; !again {
			seen[e.ID] = struct{}{}
			if ok, err = want(l, e); err != nil {
				return err
			}
		}
		if ok {
			err = l.place(it, e.ID, chunkLoc(number, e))
		} else {
			err = l.addDead(number, 1, e.Stored)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// place says where a chunk lies from now on. The copy that the index knew
// before, if any, is of no more use.
func (l *ledger) place(it *pebble.Iterator, id ID, loc schema.ChunkLoc) error {
	d, err := l.dead(id)
	if err != nil {
		return err
	}
	old, err := l.s.getChunk(l.tx, id)
	unknown := errors.Is(err, state.ErrNotFound) || errors.Is(err, schema.ErrCorrupt)
	if err != nil && !unknown {
		return err
	}
	if err := l.link(id, old, loc); err != nil {
		return err
	}
	l.tx.Put(schema.ChunkKey(l.s.cfg.Domain, id), loc.Encode())
	buried := schema.DeadChunk{Pack: loc.Pack, Stored: loc.Stored}
	switch {
	case unknown:
		// The index may have been lost: then references are older than it.
		held, err := l.held(it, id)
		if err != nil || held {
			return err
		}
		return l.bury(id, buried)
	case !l.s.collectable(old.Pack):
		// Of its references some may be missing, so it is not for us to say
		// that it is dead.
		if d != nil {
			l.unmark(id)
			return nil
		}
		return l.addDead(old.Pack, 1, old.Stored)
	case d != nil:
		l.s.unkeep(d.Pack)
		return l.bury(id, buried)
	default:
		if old.Stored != loc.Stored { // encoded anew: what its end would free is another number
			if err := l.touchedOther(it, id, 0); err != nil {
				return err
			}
		}
		return l.addDead(old.Pack, 1, old.Stored)
	}
}

// takeNumber gives the next pack number. Transactions run one at a time, so
// reading the counter and raising it here gives every number once.
func (s *Store) takeNumber(tx *state.Tx) (uint64, error) {
	n, err := s.nextNumber(tx)
	if err == nil {
		tx.Put(schema.PackCounterKey(), schema.Counter(n+1))
	}
	return n, err
}

func (s *Store) nextNumber(tx *state.Tx) (uint64, error) {
	n := uint64(1)
	v, err := tx.Get(schema.PackCounterKey())
	if err == nil {
		n, err = schema.ParseCounter(v)
	}
	if err != nil && !errors.Is(err, state.ErrNotFound) {
		return 0, fmt.Errorf("pack counter: %w", err)
	}
	return max(n, s.firstNew), nil
}
