package chunkstore

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// ledger is what one transaction does to references, dead chunks and the
// counts of packs. Reads inside a transaction see the state before it, so what
// it has changed already is remembered here; thus any number of Holds and
// Drops in one transaction add up.
//
// What the keys say, once the transaction is applied:
//   - A chunk that is indexed has a reference or a dead key, never both.
//   - A chunk that is a delta where the index finds it has the key (base, chunk),
//     and there are no other such keys. While there is one, the base is not
//     swept, though it may be dead.
//   - A pack's dead count is that of its chunks with a dead key, plus that of
//     its copies of chunks that the index finds in another pack.
//
// The exception to both are packs from before references (Store.collectable).
//
// It is used only inside Engine.Update, whose ordering lock guards it.
type ledger struct {
	s       *Store
	tx      *state.Tx
	refs    map[ref]bool                  // put (true) or deleted (false)
	puts    map[ID]int                    // how many references to a chunk were put
	graves  map[ID]*schema.DeadChunk      // dead keys put, or deleted (nil)
	made    map[made]bool                 // base keys put (true) or deleted (false)
	packs   map[uint64]*schema.PackRecord // that were looked at; nil: there is none
	changed map[uint64]struct{}           // of packs; not put yet
}

// made says that a chunk is made from a base.
type made struct{ base, id ID }

type ref struct {
	id     ID
	holder uint64
}

// ledger gives that of tx. The one of the transaction before is kept until
// then: its pointer to that transaction is what keeps the two apart.
func (s *Store) ledger(tx *state.Tx) *ledger {
	if s.book == nil || s.book.tx != tx {
		s.book = &ledger{
			s: s, tx: tx,
			refs: make(map[ref]bool), puts: make(map[ID]int), graves: make(map[ID]*schema.DeadChunk),
			made: make(map[made]bool), packs: make(map[uint64]*schema.PackRecord), changed: make(map[uint64]struct{}),
		}
	}
	return s.book
}

// flush puts the records of packs that changed: one put each, however many
// chunks. Every use of a ledger ends with it.
func (l *ledger) flush() {
	for number := range l.changed {
		l.tx.Put(schema.PackKey(number), l.packs[number].Encode())
		l.s.stale[number] = struct{}{}
		delete(l.changed, number)
	}
}

// pack gives a pack's record for changing it, or nil if there is none. Whoever
// changes it says so in changed.
func (l *ledger) pack(number uint64) (*schema.PackRecord, error) {
	if rec, ok := l.packs[number]; ok {
		return rec, nil
	}
	rec, err := getPack(l.tx, number)
	if errors.Is(err, state.ErrNotFound) {
		l.packs[number] = nil
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	l.packs[number] = &rec
	return &rec, nil
}

// addDead counts chunks of a pack as dead, or as needed again when negative.
func (l *ledger) addDead(number uint64, chunks int64, stored uint32) error {
	rec, err := l.pack(number)
	if err != nil || rec == nil {
		return err
	}
	if chunks < 0 {
		l.s.unkeep(number)
	}
	rec.AddDead(chunks, chunks*int64(stored))
	l.changed[number] = struct{}{}
	return nil
}

// dead gives a chunk's dead key.
func (l *ledger) dead(id ID) (*schema.DeadChunk, error) {
	if d, ok := l.graves[id]; ok {
		return d, nil
	}
	v, err := l.tx.Get(schema.ChunkDeadKey(l.s.cfg.Domain, id))
	if errors.Is(err, state.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	d, err := schema.DecodeDeadChunk(v)
	return &d, err
}

// bury marks a chunk dead where it lies.
func (l *ledger) bury(id ID, d schema.DeadChunk) error {
	l.graves[id] = &d
	l.tx.Put(schema.ChunkDeadKey(l.s.cfg.Domain, id), d.Encode())
	return l.addDead(d.Pack, 1, d.Stored)
}

// unmark removes a dead key and counts nothing.
func (l *ledger) unmark(id ID) {
	l.graves[id] = nil
	l.tx.Delete(schema.ChunkDeadKey(l.s.cfg.Domain, id))
}

// hold puts one reference.
func (l *ledger) hold(it *pebble.Iterator, r ref) error {
	if l.refs[r] {
		return nil
	}
	d, err := l.dead(r.id)
	if err != nil {
		return err
	}
	if d != nil {
		l.unmark(r.id)
		err = l.addDead(d.Pack, -1, d.Stored)
	} else if _, err = l.s.getChunk(l.tx, r.id); errors.Is(err, state.ErrNotFound) {
		err = fmt.Errorf("%w: it is not in the index", ErrMissing)
	} else if err == nil {
		err = l.touchedOther(it, r.id, r.holder)
	}
	if err != nil {
		return err
	}
	l.refs[r] = true
	l.puts[r.id]++
	l.tx.Put(schema.ChunkRefKey(l.s.cfg.Domain, r.id, r.holder), nil)
	return nil
}

// drop deletes one reference. A chunk that is not in the index (its pack is
// beyond repair) has nothing to mark dead.
func (l *ledger) drop(it *pebble.Iterator, r ref) error {
	own, others, err := l.holders(it, r)
	if err != nil || !own {
		return err
	}
	if l.refs[r] {
		l.puts[r.id]--
	}
	l.refs[r] = false
	l.tx.Delete(schema.ChunkRefKey(l.s.cfg.Domain, r.id, r.holder))
	if others {
		return l.touchedOther(it, r.id, r.holder)
	}
	loc, err := l.s.getChunk(l.tx, r.id)
	if errors.Is(err, state.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return l.bury(r.id, schema.DeadChunk{Pack: loc.Pack, Stored: loc.Stored})
}

// link says what a chunk is made from where it lies from now on, and no more
// what it was made from. old may be of no chunk.
func (l *ledger) link(id ID, old, loc schema.ChunkLoc) error {
	was, err := linkOf(old)
	if err != nil {
		was.Depth = 0 // a record that can't be read: nothing is known of it
	}
	is, err := linkOf(loc)
	if err != nil {
		return err
	}
	if was.Depth > 0 && (is.Depth == 0 || is.ID != was.ID) {
		l.unlink(was.ID, id)
	}
	if is.Depth > 0 {
		l.made[made{is.ID, id}] = true
		l.tx.Put(schema.ChunkBaseKey(l.s.cfg.Domain, is.ID, id), nil)
	}
	return nil
}

func (l *ledger) unlink(base, id ID) {
	l.made[made{base, id}] = false
	if loc, err := l.s.getChunk(l.tx, base); err == nil {
		l.s.unkeep(loc.Pack)
	}
	l.tx.Delete(schema.ChunkBaseKey(l.s.cfg.Domain, base, id))
}

// isBase says whether anything is made from a chunk.
func (l *ledger) isBase(id ID) (bool, error) {
	for m, is := range l.made {
		if is && m.base == id {
			return true, nil
		}
	}
	prefix := schema.ChunkBasePrefix(l.s.cfg.Domain, id)
	it, err := l.tx.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return false, err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		_, base, id, err := schema.ParseChunkBaseKey(it.Key())
		if err != nil {
			return false, err
		}
		if is, changed := l.made[made{base, id}]; is || !changed {
			return true, nil
		}
	}
	return false, it.Error()
}

// references iterates over all references to chunks as they were before the
// transaction, for holders.
func (l *ledger) references() (*pebble.Iterator, error) {
	return l.tx.NewIter(schema.ChunkRefBounds())
}

// holders says whether r is there, and whether somebody else holds its chunk.
// It stops looking as soon as others is known, and then own may say more than
// is known: true.
func (l *ledger) holders(it *pebble.Iterator, r ref) (own, others bool, err error) {
	puts := l.puts[r.id]
	put, known := l.refs[r]
	if put {
		own, puts = true, puts-1
	}
	if puts > 0 {
		return own || !known, true, nil
	}
	prefix := schema.ChunkRefPrefix(l.s.cfg.Domain, r.id)
	for ok := it.SeekGE(prefix); ok; ok = it.Next() {
		domain, id, holder, err := schema.ParseChunkRefKey(it.Key())
		if err != nil {
			return false, false, err
		}
		if domain != l.s.cfg.Domain || id != r.id {
			break
		}
		there, changed := l.refs[ref{id, holder}]
		switch {
		case holder == r.holder && !known:
			own = true
		case holder != r.holder && (there || !changed):
			return own || !known, true, it.Error()
		}
	}
	return own, false, it.Error()
}

// held says whether anybody holds a chunk. No holder is number 0.
func (l *ledger) held(it *pebble.Iterator, id ID) (bool, error) {
	_, others, err := l.holders(it, ref{id: id})
	return others, err
}
