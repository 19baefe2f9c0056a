package chunkstore

import (
	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
)

// dropCache tells the kernel that a synced pack will not be read soon: what
// was just ingested still has its hot copy in staging, so a second copy in the
// page cache only pushes out others. A hint: failure is of no interest.
func dropCache(f vfs.File) {
	if fd := f.Fd(); fd != vfs.InvalidFd {
		_ = unix.Fadvise(int(fd), 0, 0, unix.FADV_DONTNEED)
	}
}
