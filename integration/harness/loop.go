package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// LoopFS is a small file system of its own on a loop device: a disk that a
// test can fill.
type LoopFS struct {
	Dir string // where it is mounted

	image string
	below *LoopFS // what the image lies on, if that is one of ours
}

// NewLoopFS makes a file system of the given type and size and mounts it.
func (r *Root) NewLoopFS(fstype string, size int64) (*LoopFS, error) {
	base, err := r.MkdirTemp("disk")
	if err != nil {
		return nil, err
	}
	return newLoopFS(&LoopFS{Dir: base + "/mnt", image: base + "/image"}, fstype, size)
}

// NewVolatileFS is a file system on a disk with a volatile cache: its image
// lies on an ext4 of its own, whose page cache is that cache, and which loses
// its power instead. So what the file system wrote and did not flush is gone,
// or there in part; btrfs, which can't be shut down, can be cut like this.
func (r *Root) NewVolatileFS(fstype string, size int64) (*LoopFS, error) {
	below, err := r.NewLoopFS("ext4", size+size/8+32<<20)
	if err != nil {
		return nil, err
	}
	base, err := r.MkdirTemp("disk")
	if err != nil {
		return nil, err
	}
	return newLoopFS(&LoopFS{Dir: base + "/mnt", image: below.Dir + "/image", below: below}, fstype, size)
}

func newLoopFS(l *LoopFS, fstype string, size int64) (*LoopFS, error) {
	if err := os.WriteFile(l.image, nil, 0o600); err != nil {
		return nil, err
	}
	if err := os.Truncate(l.image, size); err != nil {
		return nil, err
	}
	if err := os.Mkdir(l.Dir, 0o755); err != nil {
		return nil, err
	}
	if err := runQuiet("mkfs."+fstype, "-q", l.image); err != nil {
		return nil, err
	}
	return l, l.mount()
}

func (l *LoopFS) mount() error { return runQuiet("mount", "-o", "loop", l.image, l.Dir) }

// Free is how many bytes an ordinary user may still write.
func (l *LoopFS) Free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(l.Dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// CutPower stops the disk in the middle of whatever it does: what has not
// reached it never will. It is an ioctl of ext4 and xfs for such tests.
func (l *LoopFS) CutPower() error {
	if l.below != nil {
		return l.below.CutPower()
	}
	dir, err := os.Open(l.Dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	const shutdown, withoutFlushingTheLog = 0x8004587d, 2 // EXT4_IOC_SHUTDOWN, the same as XFS_IOC_GOINGDOWN
	return unix.IoctlSetPointerInt(int(dir.Fd()), shutdown, withoutFlushingTheLog)
}

// Remount is the next boot: the file system recovers by its own journal.
func (l *LoopFS) Remount() error {
	if err := l.unmount(); err != nil {
		return err
	}
	if l.below != nil {
		if err := l.below.Remount(); err != nil {
			return err
		}
	}
	return l.mount()
}

// Close unmounts; the loop device goes with it.
func (l *LoopFS) Close() error {
	if err := l.unmount(); err != nil || l.below == nil {
		return err
	}
	return l.below.Close()
}

// unmount returns once the loop device is gone. As long as another process has
// the disk in a mount namespace of its own, which any `unshare -m` makes, a
// mount would find the file system as it was: without power.
func (l *LoopFS) unmount() error {
	if err := runQuiet("umount", l.Dir); err != nil {
		return err
	}
	for deadline := time.Now().Add(loopTimeout); ; time.Sleep(5 * time.Millisecond) {
		loops, err := loopsBelow(filepath.Dir(l.image))
		if err != nil || len(loops) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("unmounted, but somebody else still has %s mounted: %q", l.image, loops)
		}
	}
}

// loopTimeout bounds the wait for a loop device to go: a guard, not a promise.
const loopTimeout = time.Minute

// loopsBelow lists the loop devices whose backing file is below dir.
func loopsBelow(dir string) ([]string, error) {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	var loops []string
	for _, f := range files {
		if backing, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(backing), dir+"/") {
			loops = append(loops, fmt.Sprintf("loop device %s of %s", strings.Split(f, "/")[3], strings.TrimSpace(string(backing))))
		}
	}
	return loops, err
}
