package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/bucket/prune"
)

// publishAttempts is how often a ref is tried whose packs are condemned while
// they are being uploaded.
const publishAttempts = 5

// ErrTheirs: what another writer has sent is about to be pruned, and has to be
// sent from here. What a snapshot needs is then looked for anew.
var ErrTheirs = errors.New("what others have in the bucket can't be relied on any more")

// Publish has all of the store's packs arrive, and be in an index object, and then
// puts the ref: of f it sets the packs, the writer and the number. After an error
// it is open whether the snapshot is published; the same call by whoever comes next
// finds out. It is not safe for concurrent use, not even of two lists.
func (n *Needs) Publish(ctx context.Context, f *bucket.Ref) error {
	lease := n.u.attached.Load().lease
	var retired *prune.RetiredError
	for range publishAttempts {
		if err := n.upload(ctx, lease); err != nil {
			return err
		}
		f.Packs = f.Packs[:0]
		for _, p := range n.packs {
			f.Packs = append(f.Packs, p.pack())
		}
		f.Packs = append(f.Packs, n.theirs.packs...)
		if size := len(f.Encode()); size > bucket.MaxRef {
			return fmt.Errorf("its ref would have %d bytes", size)
		}
		err := lease.Publish(ctx, f)
		if err == nil {
			n.u.keep = bucket.KeepNone
			lease.Keep(n.u.keep)
		}
		if !errors.As(err, &retired) {
			return leased(err)
		}
		if slices.ContainsFunc(retired.Packs, n.theirs.has) {
			return fmt.Errorf("%w: %w", ErrTheirs, retired)
		}
	}
	return retired
}

// upload has all of the packs be where the newest list of prune leaves them.
func (n *Needs) upload(ctx context.Context, lease *prune.Lease) error {
	u := n.u
	if err := u.finishIndexes(ctx); err != nil {
		return err
	}
	if err := lease.Renew(ctx); err != nil {
		return leased(err)
	}
	u.noteRenewed()
	if err := u.rescue(ctx); err != nil {
		return err
	}
	first, err := u.reserve(n.packs)
	if err != nil {
		return err
	}
	if first > 0 { // nobody condemns what no ref names yet
		u.keep = min(u.keep, first)
		lease.Keep(u.keep)
		if err := lease.Renew(ctx); err != nil {
			return leased(err)
		}
	}
	if err := u.put(ctx, n.packs); err != nil {
		return err
	}
	return u.index(ctx, n.packs)
}

// Last gives a ref that has arrived without anybody's having been told so; nil:
// there is none.
func (u *Uploads) Last(ctx context.Context) (*bucket.Ref, error) {
	f, err := u.attached.Load().lease.Last(ctx)
	return f, leased(err)
}

// Forget has the bucket forget a ref.
func (u *Uploads) Forget(ctx context.Context, w bucket.Writer, seq uint64) error {
	return prune.Forget(ctx, u.b, w, seq)
}

// Renew tells those who prune the bucket that the store is at work: who does not
// do so for long enough sends again what it wanted to rely on.
func (u *Uploads) Renew(ctx context.Context) error {
	if at := u.attached.Load(); at != nil {
		if err := at.lease.Renew(ctx); err != nil {
			return leased(err)
		}
		u.noteRenewed()
		return u.rescue(ctx)
	}
	return nil
}

// Release tells them that it is not. Nothing may be under way.
func (u *Uploads) Release(ctx context.Context) error {
	if at := u.attached.Load(); at != nil {
		return leased(at.lease.Release(ctx))
	}
	return nil
}

// leased names errors of a lease as the others of uploads.
func leased(err error) error {
	if errors.Is(err, prune.ErrTaken) {
		return fmt.Errorf("%w: %w", ErrTaken, err)
	}
	return err
}
