package integration

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// hurts is every call that changes a file system, aimed at a snapshot.
func hurts(snap, live string) map[string]func() error {
	file, dir := snap+"/d0/e0/f0", snap+"/d0"
	openWith := func(flags int) func() error {
		return func() error {
			fd, err := unix.Open(file, flags, 0o644)
			if err == nil {
				unix.Close(fd)
			}
			return err
		}
	}
	return map[string]func() error{
		"open for writing":       openWith(unix.O_WRONLY),
		"open for both":          openWith(unix.O_RDWR),
		"open and truncate":      openWith(unix.O_WRONLY | unix.O_TRUNC),
		"create":                 func() error { return os.WriteFile(snap+"/new", nil, 0o644) },
		"truncate":               func() error { return unix.Truncate(file, 1) },
		"unlink":                 func() error { return unix.Unlink(file) },
		"mkdir":                  func() error { return unix.Mkdir(dir+"/new", 0o755) },
		"rmdir":                  func() error { return unix.Rmdir(dir) },
		"rename":                 func() error { return unix.Rename(file, dir+"/other") },
		"symlink":                func() error { return unix.Symlink("x", dir+"/link") },
		"link inside":            func() error { return unix.Link(file, dir+"/hard") },
		"mknod":                  func() error { return unix.Mknod(dir+"/pipe", unix.S_IFIFO|0o644, 0) },
		"chmod":                  func() error { return os.Chmod(file, 0o777) },
		"chown":                  func() error { return os.Chown(file, 1, 1) },
		"utimes":                 func() error { return os.Chtimes(file, time.Unix(1, 0), time.Unix(1, 0)) },
		"setxattr":               func() error { return unix.Setxattr(file, "user.x", []byte("y"), 0) },
		"removexattr":            func() error { return unix.Removexattr(file, "user.x") },
		"mkdir in .barriers":     func() error { return unix.Mkdir(live+"/snapshots/.barriers/77", 0o755) },
		"create in snapshots":    func() error { return os.WriteFile(live+"/snapshots/file", nil, 0o644) },
		"rename of snapshots":    func() error { return unix.Rename(live+"/snapshots", live+"/mine") },
		"rmdir of snapshots":     func() error { return unix.Rmdir(live + "/snapshots") },
		"rename of a snapshot":   func() error { return unix.Rename(snap, snap+"x") },
		"rename over a snapshot": func() error { return unix.Rename(live+"/d1", snap) },
	}
}

// isReadOnly: EROFS, or what the kernel itself says before the file system is
// asked (EXDEV, EBUSY and EPERM for moves in and out of another tree).
func isReadOnly(err error) bool {
	for _, e := range []error{unix.EROFS, unix.EXDEV, unix.EBUSY, unix.EPERM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
