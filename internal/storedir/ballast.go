package storedir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// The ballast is room on the disk that no other program can take: a file of
// blocks that were set aside and hold nothing. When the disk is nearly full, a
// daemon throws one half of it out, for what makes room again: barriers,
// deletes, forgetting and pruning need a journal segment and a flush of the
// index. The other half is for the next start, which writes a lease and a
// manifest, whatever has become of the first half by then: opening the store
// throws it out before the first byte is written. The ballast comes back when
// there is plenty of room.
const ballastName = "ballast"

const (
	ballastPoll  = time.Second
	ballastAgain = 6 // it is made when so many times its size is free
)

// KeepBallast holds so many bytes ready until Close. Where the filesystem can't
// set blocks aside there is no ballast.
func (d *Dir) KeepBallast(size int64) {
	d.lock.done.Go(func() {
		t := time.NewTicker(ballastPoll)
		defer t.Stop()
		for d.trim(size) {
			select {
			case <-d.lock.stop:
				return
			case <-d.lock.lost: // the store is somebody else's
				return
			case <-t.C:
			}
		}
	})
}

// trim makes the ballast, or throws out one half, as the disk has room or not.
// It says whether to look again.
func (d *Dir) trim(size int64) bool {
	sp, err := d.Space()
	if err != nil {
		return true
	}
	switch held := ballastHeld(d.path); {
	case sp.Avail >= ballastAgain*size && held < size:
		err = makeBallast(d.path, size)
	case sp.Avail < size && held > size/2:
		err = os.Truncate(filepath.Join(d.path, ballastName), size/2)
	}
	return !errors.Is(err, unix.EOPNOTSUPP)
}

func makeBallast(dir string, size int64) error {
	path := filepath.Join(dir, ballastName)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("making the store's ballast: %w", err)
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	if err = errors.Join(err, f.Close()); err != nil {
		err = errors.Join(fmt.Errorf("making the store's ballast: %w", err), os.Remove(path))
	}
	return err
}

// dropBallast throws it out if the disk has less free than it takes. Only under
// the lock.
func dropBallast(dir string) {
	var st unix.Statfs_t
	held := ballastHeld(dir)
	if held == 0 || unix.Statfs(dir, &st) != nil || int64(st.Bavail)*st.Bsize >= held {
		return
	}
	if err := os.Remove(filepath.Join(dir, ballastName)); err == nil {
		_ = syncDir(dir) // ext4 gives blocks out again once their removal is on the disk
	}
}

// ballastHeld is what the ballast takes on the disk.
func ballastHeld(dir string) int64 {
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(dir, ballastName), &st); err != nil {
		return 0
	}
	return st.Blocks * 512
}
