package snapshot

import (
	"errors"
	"fmt"
	"time"

	"stepfs/chunkstore/bucket"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// PublishReport says how far publishing is.
type PublishReport struct {
	On        bool // somebody uploads
	Publish   Publish
	Durable   bool // Config.DurableRemote
	Attached  bool
	Writer    bucket.Writer
	Published int       // steps that are kept here
	Queue     int       // steps that have yet to be
	Oldest    time.Time // when the oldest of them was sealed
	AtRisk    int64     // bytes that they brought to packs, as far as they are stored
	Packs     int64     // that were uploaded since the start
	Bytes     int64
	Forget    int       // snapshots that are gone here, and that the bucket has yet to forget
	ForgetErr error     // why it has not, if that is known
	Last      time.Time // when the last was published, since the start
	Err       error     // of the last attempt; nil: it went well
	ErrAt     time.Time
	Next      time.Time // of the next attempt
}

// PublishReport looks.
func (m *Manager) PublishReport() (r PublishReport, err error) {
	p := m.publisher
	if p.up == nil {
		return r, nil
	}
	r.On, r.Publish, r.Durable = true, m.cfg.Publish, m.cfg.DurableRemote
	r.Writer, r.Attached = p.up.Writer()
	r.Packs, r.Bytes = p.up.Arrived()
	r.Forget, r.ForgetErr = p.forgets.pending()
	p.mu.Lock()
	defer p.mu.Unlock()
	r.Published, r.Last, r.Err, r.ErrAt, r.Next = p.published, p.last, p.err, p.errAt, p.next
	for _, s := range p.queue {
		if s.done || s.barrier {
			continue
		}
		if s.err != nil && r.Err == nil {
			r.Err, r.Next = s.err, s.next
			r.ErrAt = s.next.Add(-s.wait)
		}
		i, err := m.Get(s.seq)
		if errors.Is(err, ErrNotExist) || err == nil && i.Forgotten != nil {
			continue
		}
		if err != nil {
			return r, err
		}
		if r.Queue++; r.Queue == 1 {
			r.Oldest = i.Time
		}
		r.AtRisk += i.Stored
	}
	return r, nil
}

// Published says when a snapshot was published; ok is false if it is not.
func (m *Manager) Published(seq uint64) (at time.Time, ok bool, err error) {
	u, err := m.refUpload(m.db, seq)
	if u == nil || err != nil {
		return at, false, err
	}
	return time.Unix(0, u.Time), true, nil
}

// refUpload gives what is known of a snapshot's ref; nil: it has none.
func (m *Manager) refUpload(g interface{ Get([]byte) ([]byte, error) }, seq uint64) (*schema.RefUpload, error) {
	v, err := g.Get(schema.Numbered(schema.PrefixRefUpload, seq))
	if errors.Is(err, state.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	u, err := schema.DecodeRefUpload(v)
	if err != nil {
		return nil, fmt.Errorf("ref of snapshot %d: %w", seq, err)
	}
	return &u, nil
}
