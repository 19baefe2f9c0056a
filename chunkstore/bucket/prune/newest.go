package prune

import (
	"context"
	"errors"
	"fmt"
	"time"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote"
)

// errLost: something that prune never deletes is not there.
var errLost = errors.New("an object that nothing may delete is missing")

// list is a retired list, and when it was put.
type list struct {
	*bucket.Retired
	made time.Time
}

// noList forbids nothing.
func noList() list { return list{Retired: &bucket.Retired{}} }

// newest gives the newest retired list, given one that was read before. It asks
// for one number after the other: a listing says only where to begin.
func newest(ctx context.Context, b remote.Bucket, have list) (list, error) {
	at, found := have.Epoch+1, true
	if have.Epoch == 0 {
		for o, err := range b.List(ctx, bucket.RetiredPrefix, "") {
			if err != nil {
				return list{}, err
			}
			if e, ok := bucket.ParseRetiredKey(o.Key); ok {
				at, found = max(at, e), false
			}
		}
	}
	for epoch := at; ; epoch++ {
		next, err := readList(ctx, b, epoch)
		switch {
		case errors.Is(err, bucket.ErrGone): // there is a newer one
			found = false
		case errors.Is(err, remote.ErrNotExist) && found:
			return have, nil
		case errors.Is(err, remote.ErrNotExist):
			return list{}, fmt.Errorf("%w: %s", errLost, bucket.RetiredKey(epoch))
		case err != nil:
			return list{}, err
		default:
			have, found = next, true
		}
	}
}

func readList(ctx context.Context, b remote.Bucket, epoch uint64) (l list, err error) {
	info, err := read(ctx, b, bucket.RetiredKey(epoch), bucket.MaxRetired, func(p []byte) (err error) {
		l.Retired, err = bucket.DecodeRetired(p, epoch)
		return err
	})
	l.made = info.Modified
	return l, err
}

// read gets an object and decodes it; once more if its bytes are damaged, which
// they may have become on the way.
func read(ctx context.Context, b remote.Bucket, key string, limit int64, decode func(p []byte) error) (remote.Info, error) {
	for again := false; ; again = true {
		p, info, err := remote.ReadAll(ctx, b, key, limit)
		if err != nil {
			return info, err
		}
		if err = decode(p); errors.Is(err, bucket.ErrFormat) && !again {
			continue
		}
		if err != nil {
			return info, fmt.Errorf("%s: %w", key, err)
		}
		return info, nil
	}
}
