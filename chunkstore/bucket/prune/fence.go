package prune

import (
	"context"
	"errors"
	"fmt"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote"
)

// readLeases gives all leases.
func readLeases(ctx context.Context, b remote.Bucket) (all []slotted, err error) {
	for slot := uint64(0); ; slot++ {
		at, err := readLease(ctx, b, slot)
		if errors.Is(err, remote.ErrNotExist) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, at)
	}
}

// behind says that the holder of a lease may put a ref that keeps to a list
// before that epoch.
func (at *slotted) behind(epoch uint64) bool { return !at.Closed() && at.Epoch < epoch }

// fence closes a lease that is behind, and gives the lease as it then is. First
// the place of the ref that may be on its way is taken, then the lease is closed
// if it is still the same: so no other ref was begun in between.
func fence(ctx context.Context, b remote.Bucket, at slotted, epoch uint64) (slotted, error) {
	for range attempts {
		if !at.behind(epoch) {
			return at, nil
		}
		if err := occupy(ctx, b, at.Writer, at.Next); err != nil {
			return at, fmt.Errorf("fence writer %s: %w", at.Writer, err)
		}
		closed := bucket.Lease{Slot: at.Slot, Writer: at.Writer, Count: at.Count + 1, Next: at.Next + 1, Keep: bucket.KeepNone}
		version, err := b.ReplaceIfMatch(ctx, at.Key(), at.version, remote.Bytes(closed.Encode()))
		if err == nil {
			return slotted{closed, version}, nil
		}
		if !errors.Is(err, remote.ErrChanged) {
			return at, fmt.Errorf("fence writer %s: %w", at.Writer, err)
		}
		if at, err = readLease(ctx, b, at.Slot); err != nil {
			return at, err
		}
	}
	return at, errBusy
}
