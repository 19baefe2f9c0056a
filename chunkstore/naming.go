package chunkstore

import (
	"errors"

	"github.com/zeebo/blake3"

	"stepfs/chunkstore/pack"
	"stepfs/internal/state"
)

// A store that joins a bucket cuts and names chunks as the bucket does from then on.
// What it has stored keeps its names, which are of an older key. Namings are
// numbered, in the order in which the store had them; the last one is Config.Key, and
// all before it are Config.Older.
//
//   - A chunk is right if it has its name by any of the keys.
//   - A pack holds chunks of one naming, and its footer says which. So that can be
//     told when the index is lost, too.
//   - What is in a pack is made from chunks of the same naming alone.
//   - New content is a hit only in a pack of the newest naming. A name that an older
//     pack says is stored again: a pack that is wrongly taken for older costs space,
//     and nothing else.
//   - Nothing in a pack of an older naming leaves for a bucket: neither is it listed
//     as needed (Needs.Add), nor is it sent (Uploads.withPack), where the file itself
//     is asked.
//
// (Objects of trees that no ref leads to may name chunks by an older key, and leave
// with the pack that they lie in: nobody reads them there.)
//
// So what is published was stored anew before (Older, IngestOver).

// naming is the number of the newest naming.
func (s *Store) naming() uint8 { return uint8(len(s.cfg.Older)) }

// Renamed says whether the store has had other keys.
func (s *Store) Renamed() bool { return len(s.cfg.Older) > 0 }

// lane is what a pack that is open is for.
type lane struct {
	naming uint8
	// objects: of trees. Where what is stored anew is in the bucket already, of others,
	// the objects are not; in packs of their own they do not take that with them.
	objects bool
}

func (s *Store) lane(naming uint8, typ pack.Type) lane {
	return lane{naming, s.Renamed() && typ == pack.TypeTree && naming == s.naming()}
}

// lanes is how many there are.
func lanes(cfg Config) int {
	if len(cfg.Older) == 0 {
		return 1
	}
	return len(cfg.Older) + 2
}

// ErrOlder says that something would leave for the bucket that is not named by the
// bucket's key.
var ErrOlder = errors.New("it is named by an older key than the bucket's")

// Older says whether a chunk is named by an older key. One that the index does not
// know is not.
func (s *Store) Older(id [32]byte) (bool, error) {
	if !s.Renamed() {
		return false, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.olderLocked(id)
}

// olderLocked says whether a chunk, or anything that it is made from, lies in a pack
// of an older naming.
func (s *Store) olderLocked(id ID) (bool, error) {
	for below := uint8(pack.MaxDepth + 1); ; {
		loc, err := s.getChunk(s.db, id)
		if errors.Is(err, state.ErrNotFound) {
			return false, nil // whoever needs it is told
		}
		if err != nil {
			return false, err
		}
		if info := s.mu.table[loc.Pack]; info != nil && s.isOlder(info) {
			return true, nil
		}
		link, err := linkOf(loc)
		if err != nil || link.Depth == 0 || link.Depth >= below {
			return false, err
		}
		id, below = link.ID, link.Depth
	}
}

// fitsLocked says whether new content that is named by a key may refer to a chunk in
// a pack.
func (s *Store) fitsLocked(id ID, info *packInfo, naming uint8) (bool, error) {
	if info == nil || info.rec.Naming != naming || naming != s.naming() || !s.Renamed() {
		return info != nil && info.rec.Naming == naming, nil
	}
	older, err := s.olderLocked(id)
	return !older, err
}

func (s *Store) isOlder(info *packInfo) bool { return info.rec.Naming != s.naming() }

// OlderBytes is how many payload bytes are needed that are named by older keys.
func (s *Store) OlderBytes() (n int64) {
	if !s.Renamed() {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, info := range s.mu.table {
		if s.isOlder(info) {
			n += int64(info.rec.Stored - min(info.rec.Dead, info.rec.Stored))
		}
	}
	return n
}

// plansOlder says whether a plan knows chunks of an older key. Content is then cut as
// if it were new: only so it is found where others have stored the same.
func (s *Store) plansOlder(plan Plan) (bool, error) {
	if !s.Renamed() {
		return false, nil
	}
	for _, p := range plan.Pieces {
		if older, err := s.Older(p.ID); older || err != nil {
			return older, err
		}
	}
	return false, nil
}

// namings are the keys by which a chunk may have its name, the newest last.
type namings [][32]byte

func (c *Config) namings() namings { return append(append(namings{}, c.Older...), c.Key) }

// by gives the number of the key by which b is named id, the newest one that does.
func (n namings) by(newest *blake3.Hasher, id ID, b []byte) (number uint8, ok bool) {
	for k := len(n) - 1; k >= 0; k-- {
		h := newest
		if k < len(n)-1 {
			h = newHasher(n[k])
		}
		if nameWith(h, b) == id {
			return uint8(k), true
		}
	}
	return 0, false
}
