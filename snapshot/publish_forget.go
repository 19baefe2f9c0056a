package snapshot

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"stepfs/chunkstore/bucket"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// The bucket keeps what is forgotten here, unless whoever forgets says otherwise
// (Forget.Bucket, Config.ForgetInBucket): years of steps may lie there, and few on
// the disk. If so the bucket forgets it when it is removed here, so that an
// unforget brings back both; the transaction that removes a snapshot says that its
// ref has to go, and the forgetter has it go, once the bucket answers. What is given
// up to make room stays there in any case.
//
// A ref that was put without an answer may be there though nothing is recorded of
// it. Such a snapshot is noted without a ref, until catchUp has looked.

// forgetter has the bucket forget what is gone here.
type forgetter struct {
	p     *publisher
	nudge chan struct{}

	mu    sync.Mutex
	refs  map[uint64]publishedRef // by snapshot, those that have yet to go; seq 0: it may have none
	retry                         // what went wrong last
}

func newForgetter(p *publisher) *forgetter {
	return &forgetter{p: p, nudge: make(chan struct{}, 1), refs: map[uint64]publishedRef{}}
}

// due notes that a ref has to go.
func (f *forgetter) due(seq uint64, u schema.RefUpload) {
	f.mu.Lock()
	f.refs[seq] = publishedRef{seq, u.Seq, u.Writer}
	f.mu.Unlock()
	f.look()
}

// look is called when the bucket was reached, and when there is something to do.
func (f *forgetter) look() {
	select {
	case f.nudge <- struct{}{}:
	default:
	}
}

// pending says how many have yet to go, and what is in the way.
func (f *forgetter) pending() (n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.refs), f.err
}

// some gives those that are known to have a ref, or not.
func (f *forgetter) some(known bool) (some []publishedRef) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.refs {
		if (r.seq > 0) == known {
			some = append(some, r)
		}
	}
	slices.SortFunc(some, func(a, b publishedRef) int { return cmp.Compare(a.snapshot, b.snapshot) })
	return some
}

// run has them go until ctx ends.
func (f *forgetter) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.nudge:
		}
		for ctx.Err() == nil {
			err := f.all(ctx)
			if err == nil || ctx.Err() != nil {
				break
			}
			f.failed(err)
			pause(ctx, f.wait)
		}
	}
}

// all has those go that can.
func (f *forgetter) all(ctx context.Context) error {
	if _, attached := f.p.up.Writer(); !attached {
		return nil // who attaches calls look
	}
	for _, r := range f.some(true) {
		if err := f.p.forget(ctx, r); err != nil {
			return fmt.Errorf("forget snapshot %d in the bucket: %w", r.snapshot, err)
		}
		f.gone(r)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.retry = retry{}
	return nil
}

func (f *forgetter) gone(r publishedRef) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.refs, r.snapshot)
}

// failed notes what is in the way.
func (f *forgetter) failed(err error) {
	f.mu.Lock()
	first := f.err == nil || f.err.Error() != err.Error()
	f.retry.failed(err)
	if lasting(err) {
		f.wait = slowRetry
	}
	f.mu.Unlock()
	if first && lasting(err) {
		f.p.m.fault("forget in the bucket", err)
	}
}

// settled drops those of some that turned out to have no ref.
func (f *forgetter) settled(some []publishedRef) error {
	for _, r := range some {
		f.mu.Lock()
		none := f.refs[r.snapshot].seq == 0
		f.mu.Unlock()
		if !none {
			continue
		}
		if err := f.p.dropRef(r.snapshot); err != nil {
			return err
		}
		f.gone(r)
	}
	return nil
}

// found notes the ref of a snapshot that is gone here, if it has to go. That is
// durable before there is another ref: of the last alone the lease tells.
func (f *forgetter) found(ref *bucket.Ref) error {
	f.mu.Lock()
	r, due := f.refs[ref.Snapshot]
	f.mu.Unlock()
	if !due || r.seq > 0 {
		return nil
	}
	u := schema.RefUpload{Writer: ref.Writer, Seq: ref.Seq, Time: f.p.m.cfg.Now().UnixNano(), Forgotten: true}
	pos, err := f.p.m.db.Update(schema.KindUpload, func(tx *state.Tx) error {
		tx.Put(schema.Numbered(schema.PrefixRefUpload, ref.Snapshot), u.Encode())
		return nil
	})
	if err == nil {
		err = f.p.m.db.Sync(pos)
	}
	if err == nil {
		f.due(ref.Snapshot, u)
	}
	return err
}

// ForgetsInBucket says whether what the policy forgets is forgotten there, too.
func (m *Manager) ForgetsInBucket() bool { return m.cfg.ForgetInBucket }

// forgetInBucket says in the transaction that removes a snapshot that its ref has
// to go.
func (m *Manager) forgetInBucket(tx *state.Tx, seq uint64) error {
	u, err := m.refUpload(tx, seq)
	if err != nil {
		return err
	}
	if u == nil {
		u = &schema.RefUpload{}
	}
	u.Forgotten = true
	tx.Put(schema.Numbered(schema.PrefixRefUpload, seq), u.Encode())
	return nil
}

// forgottenInBucket has the refs go of snapshots that are gone.
func (m *Manager) forgottenInBucket(gone []Info) error {
	for _, i := range gone {
		if i.Forgotten == nil || !i.Forgotten.Bucket || m.publisher.up == nil {
			continue
		}
		u, err := m.refUpload(m.db, i.Seq)
		if err != nil {
			return err
		}
		if u != nil {
			m.publisher.forgets.due(i.Seq, *u)
		}
	}
	return nil
}
