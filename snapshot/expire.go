package snapshot

import (
	"errors"
	"fmt"
	"slices"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// Expiry removes the records of snapshots in one transaction for a batch of
// them, so that after a crash each is whole or gone, and leaves a mark
// (PrefixExpired) for whoever frees what they alone saw. Only once that is
// durable is anything freed.

// expireBatch is how many snapshots share one transaction.
const expireBatch = 256

// victim is a snapshot that is to be removed, and why.
type victim struct {
	seq uint64
	why string
}

// expire removes the victims that nobody reads or holds: barriers, and
// snapshots that are forgotten. It gives those that are gone.
func (m *Manager) expire(vs []victim, pressed bool) (gone []Info, err error) {
	why := map[uint64]string{}
	var seqs []uint64
	for _, v := range vs {
		why[v.seq] = v.why
		seqs = append(seqs, v.seq)
	}
	claimed := m.claim(seqs, pressed)
	if len(claimed) == 0 {
		return nil, nil
	}
	defer m.unhide(claimed...)
	m.keeping.Lock()
	defer m.keeping.Unlock()
	var nameless []string
	pos, err := m.db.Update(schema.KindExpire, func(tx *state.Tx) (err error) {
		gone, nameless, err = m.expireTx(tx, claimed)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("remove expired snapshots: %w", err)
	}
	m.dropNames(nameless)
	m.keeper.expired(gone)
	// For those who are told: what they heard is gone does not come back with a
	// power cut. (What frees, fs/stage reap and chunkstore sweep, syncs the journal
	// itself before it unlinks anything.)
	if err := m.db.Sync(pos); err != nil {
		return gone, err
	}
	m.tellExpired(gone, why)
	return gone, m.forgottenInBucket(gone)
}

// tellExpired tells the owner of each snapshot, and of barriers of one batch
// together.
func (m *Manager) tellExpired(gone []Info, why map[uint64]string) {
	barriers := map[string]int{} // by reason
	for _, i := range gone {
		reason := why[i.Seq]
		if reason == "" && i.Forgotten != nil {
			reason = i.Forgotten.Reason
		}
		if i.Name == "" {
			barriers[reason]++
		}
		if m.cfg.Events.Expired != nil {
			m.cfg.Events.Expired(i, reason)
		}
	}
	if m.cfg.Events.BarriersExpired == nil {
		return
	}
	for reason, n := range barriers {
		m.cfg.Events.BarriersExpired(n, reason)
	}
}

// expireTx builds the transaction. nameless has the scope of each name that
// loses its last revision.
func (m *Manager) expireTx(tx *state.Tx, seqs []uint64) (gone []Info, nameless []string, err error) {
	names := map[[2]string][]uint64{}
	for _, seq := range seqs {
		s, err := readSnapshot(tx, seq)
		if errors.Is(err, ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if len(s.Holds) > 0 || s.Name != "" && s.Forgotten == nil {
			continue // held or brought back meanwhile
		}
		tx.Delete(schema.Numbered(schema.PrefixSnapshot, seq))
		if s.Name != "" {
			tx.Delete(schema.NameKey(s.Scope, s.Name, seq))
			key := [2]string{s.Scope, s.Name}
			names[key] = append(names[key], seq)
		}
		if err := m.dropSlot(tx, seq); err != nil {
			return nil, nil, err
		}
		if s.Forgotten != nil && s.Forgotten.Bucket {
			if err := m.forgetInBucket(tx, seq); err != nil {
				return nil, nil, err
			}
		}
		if s.Tree != [32]byte{} { // Prune gives up its objects
			tx.Put(schema.Numbered(schema.PrefixDeadHold, schema.TreeHolder(seq)), nil)
		}
		tx.Put(schema.Numbered(schema.PrefixExpired, seq), nil)
		gone = append(gone, infoOf(seq, s))
	}
	for key, dead := range names {
		last, err := m.lastOf(key[0], key[1], dead)
		if err != nil {
			return nil, nil, err
		}
		if last {
			nameless = append(nameless, key[0])
		}
	}
	return gone, nameless, nil
}

// lastOf says whether a name has no revisions but the dead ones.
func (m *Manager) lastOf(scope, name string, dead []uint64) (bool, error) {
	err := m.names(schema.NamePrefix(scope, name), func(_, _ string, seq uint64, _ []byte) error {
		if !slices.Contains(dead, seq) {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return false, nil
	}
	return err == nil, err
}

// Expire removes snapshots at once, whatever the policy says, to make room:
// steps, named snapshots and barriers, but none that is held or in
// use. It gives those that are gone.
func (m *Manager) Expire(reason string, seqs ...uint64) (gone []Info, err error) {
	for batch := range slices.Chunk(seqs, expireBatch) {
		var vs []victim
		var named []Info
		for _, seq := range batch {
			i, err := m.Get(seq)
			if errors.Is(err, ErrNotExist) || err == nil && (len(i.Holds) > 0 || m.inUseNow(seq)) {
				continue
			}
			if err != nil {
				return gone, err
			}
			if i.Name != "" && i.Forgotten == nil {
				named = append(named, i)
			}
			vs = append(vs, victim{seq, reason})
		}
		if err := m.forgetFor(reason, named); err != nil {
			return gone, err
		}
		some, err := m.expire(vs, true)
		if gone = append(gone, some...); err != nil {
			return gone, err
		}
	}
	return gone, nil
}

func (m *Manager) forgetFor(reason string, is []Info) error {
	m.keeping.Lock()
	defer m.keeping.Unlock()
	_, err := m.forget(is, func(s *schema.Snapshot, _ *Info) (*schema.Forgotten, error) {
		if s.Name == "" || len(s.Holds) > 0 {
			return nil, nil // meanwhile
		}
		return &schema.Forgotten{By: "stepfs", Reason: reason}, nil
	})
	return err
}
