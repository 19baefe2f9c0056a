package dir

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"syscall"
	"time"

	"stepfs/chunkstore/remote"
)

// ReplaceIfMatch implements remote.Bucket.
func (b *Bucket) ReplaceIfMatch(ctx context.Context, key, version string, c remote.Content) (string, error) {
	if err := remote.CheckReplace("replace", key, version, c); err != nil {
		return "", err
	}
	select {
	case b.lock <- struct{}{}:
		defer func() { <-b.lock }()
	case <-ctx.Done():
		return "", remote.Ended(ctx, "replace", key)
	}
	unlock, err := b.lockAll(ctx)
	if err != nil {
		return "", failed(ctx, "replace", key, err)
	}
	defer unlock.Close()
	switch _, info, err := b.get(ctx, "replace", key, nil, 0); {
	case errors.Is(err, remote.ErrNotExist), err == nil && info.Version != version:
		return "", remote.Fail("replace", key, remote.ErrChanged, nil)
	case err != nil:
		return "", err
	}
	return b.place(ctx, "replace", key, c, b.fs.Rename)
}

// How often the lock is asked for. It is held for a few milliseconds.
const (
	firstPoll = time.Millisecond
	lastPoll  = 50 * time.Millisecond
)

// lockAll locks the bucket against other machines that replace something.
func (b *Bucket) lockAll(ctx context.Context) (io.Closer, error) {
	for wait := firstPoll; ; wait = min(2*wait, lastPoll) {
		l, err := b.fs.Lock(filepath.Join(b.root, lockName))
		if err == nil {
			return l, nil
		}
		// What is no errno says that another Bucket of this process has it.
		var errno syscall.Errno
		if errors.As(err, &errno) && errno != syscall.EAGAIN && errno != syscall.EACCES {
			return nil, err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
	}
}
