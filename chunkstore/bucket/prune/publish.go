package prune

import (
	"context"
	"errors"
	"fmt"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote"
)

// RetiredError says which packs a ref may not name. What they hold has to be put
// again, in packs of other numbers.
type RetiredError struct{ Packs []bucket.Pack }

func (e *RetiredError) Error() string {
	return fmt.Sprintf("%d packs that the snapshot needs are about to be pruned, %s first", len(e.Packs), e.Packs[0].Key())
}

// Publish puts a ref. It gives the ref its number and its writer. All of its
// packs, and the index objects that list them, must have arrived; *RetiredError
// says which of them can't be used any more.
//
// After another error it is open whether the snapshot is published. The same
// call once more, by this process or by one that has taken the lease after it,
// finds out, and does not publish it twice.
func (l *Lease) Publish(ctx context.Context, f *bucket.Ref) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for range attempts {
		if err := l.ready(ctx); err != nil {
			return err
		}
		if last := l.mu.last; last != nil && last.Snapshot == f.Snapshot && last.Root == f.Root {
			*f = *last
			return nil
		}
		if bad := l.forbidden(f.Packs); bad != nil {
			return &RetiredError{bad}
		}
		f.Writer, f.Seq = l.mu.Writer, l.mu.Next
		l.mu.issued, l.mu.last = f.Seq, nil
		_, err := l.b.PutIfAbsent(ctx, f.Key(), remote.Bytes(f.Encode()))
		if err == nil {
			l.mu.issued, l.mu.used = 0, f.Seq
			return nil
		}
		if !errors.Is(err, remote.ErrExists) {
			return fmt.Errorf("put the ref of snapshot %d: %w", f.Snapshot, err)
		}
		l.mu.known = false // fenced; or it was put, and that answer was lost
	}
	return errBusy
}

// Last gives the writer's last ref if it has turned out to be there though nobody
// was told so: to him who put it, and has ended, or whose request failed. nil:
// there is none.
func (l *Lease) Last(ctx context.Context) (*bucket.Ref, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.ready(ctx); err != nil {
		return nil, err
	}
	return l.mu.last, nil
}

// forbidden gives those of the packs that the list forbids which the lease shows.
func (l *Lease) forbidden(packs []bucket.Pack) (bad []bucket.Pack) {
	for _, p := range packs {
		if l.mu.list.Has(p.ID()) {
			bad = append(bad, p)
		}
	}
	return bad
}

// settle makes sure that the ref that was begun is there, or never will be.
func (l *Lease) settle(ctx context.Context) error {
	m := &l.mu
	if m.issued == 0 {
		return nil
	}
	if err := occupy(ctx, l.b, m.Writer, m.issued); err != nil {
		return err
	}
	f, err := readRef(ctx, l.b, m.Writer, m.issued)
	switch {
	case err == nil:
		m.last = f
	case errors.Is(err, bucket.ErrGone), errors.Is(err, bucket.ErrFormat), errors.Is(err, bucket.ErrVersion):
	default:
		return err
	}
	m.used, m.issued = m.issued, 0
	return nil
}

// occupy leaves something at the place of a ref: what is there, or a tombstone.
func occupy(ctx context.Context, b remote.Bucket, w bucket.Writer, seq uint64) error {
	_, err := b.PutIfAbsent(ctx, bucket.RefKey(w, seq), remote.Bytes(bucket.Gone(w, seq)))
	if errors.Is(err, remote.ErrExists) {
		return nil
	}
	return err
}

func readRef(ctx context.Context, b remote.Bucket, w bucket.Writer, seq uint64) (f *bucket.Ref, err error) {
	_, err = read(ctx, b, bucket.RefKey(w, seq), bucket.MaxRef, func(p []byte) (err error) {
		f, err = bucket.DecodeRef(p, w, seq)
		return err
	})
	return f, err
}
