package fs

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"stepfs/fs/stage"
	"stepfs/snapshot"
)

// TestStatus: an error is what it wraps, however deep, and never something
// milder than EIO when nobody knows it.
func TestStatus(t *testing.T) {
	for _, c := range []struct {
		err  error
		want unix.Errno
	}{
		{nil, 0},
		{stage.ErrNotExist, unix.ENOENT},
		{fmt.Errorf("rename: %w", fmt.Errorf("look up: %w", stage.ErrNotEmpty)), unix.ENOTEMPTY},
		{fmt.Errorf("%w: %w", stage.ErrNoSpace, unix.EIO), unix.ENOSPC},
		{errors.Join(stage.ErrNoSpace, stage.ErrIO), unix.ENOSPC},
		{fmt.Errorf("slot: %w", snapshot.ErrNotExist), unix.ENOENT},
		{fmt.Errorf("%w: %w", stage.ErrReadOnly, stage.ErrIO), unix.EROFS},
		{context.Canceled, unix.EINTR},
		{fmt.Errorf("somewhere: %w", unix.EBADF), unix.EIO},
		{errors.New("no idea"), unix.EIO},
	} {
		if got := status(c.err); got != fuse.Status(c.want) {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
}
