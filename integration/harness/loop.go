package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// LoopFS is a small file system of its own on a loop device: a disk that a
// test can fill.
type LoopFS struct {
	Dir string // where it is mounted
}

// NewLoopFS makes a file system of the given type and size and mounts it.
func (r *Root) NewLoopFS(fstype string, size int64) (*LoopFS, error) {
	base, err := r.MkdirTemp("disk")
	if err != nil {
		return nil, err
	}
	image, dir := base+"/image", base+"/mnt"
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		return nil, err
	}
	if err := os.Truncate(image, size); err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	if err := runQuiet("mkfs."+fstype, "-q", image); err != nil {
		return nil, err
	}
	return &LoopFS{dir}, runQuiet("mount", "-o", "loop", image, dir)
}

// Free is how many bytes an ordinary user may still write.
func (l *LoopFS) Free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(l.Dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// CutPower stops the file system in the middle of whatever it does: what has
// not reached the disk never will. An ioctl of ext4 and xfs for such tests.
func (l *LoopFS) CutPower() error {
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
	if err := l.Close(); err != nil {
		return err
	}
	return runQuiet("mount", "-o", "loop", filepath.Join(filepath.Dir(l.Dir), "image"), l.Dir)
}

// Close unmounts; the loop device goes with it.
func (l *LoopFS) Close() error { return runQuiet("umount", l.Dir) }

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
