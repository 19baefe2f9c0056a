package prune

import (
	"context"
	"errors"
	"fmt"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote"
)

// Forget puts a tombstone in the place of a ref. There need be no ref any more:
// of one that somebody deleted by other means this says that it is to be so.
func Forget(ctx context.Context, b remote.Bucket, w bucket.Writer, seq uint64) error {
	key := bucket.RefKey(w, seq)
	if err := bury(ctx, b, key, bucket.Gone(w, seq)); !errors.Is(err, remote.ErrNotExist) {
		return err
	}
	if err := occupy(ctx, b, w, seq); err != nil {
		return err
	}
	return bury(ctx, b, key, bucket.Gone(w, seq))
}

// bury puts a tombstone in the place of an object.
func bury(ctx context.Context, b remote.Bucket, key string, tombstone []byte) error {
	for range attempts {
		info, err := b.Stat(ctx, key)
		if err != nil || info.Size == bucket.GoneSize {
			return err
		}
		if _, err = b.ReplaceIfMatch(ctx, key, info.Version, remote.Bytes(tombstone)); !errors.Is(err, remote.ErrChanged) {
			return err
		}
	}
	return fmt.Errorf("put a tombstone at %s: %w", key, errBusy)
}
