package posix

import (
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func callLinkFd(s *side, a []string) (string, error) {
	from := fmt.Sprintf("/proc/self/fd/%d", s.fd(a[0]))
	return "", unix.Linkat(unix.AT_FDCWD, from, s.root, expand(a[1]), unix.AT_SYMLINK_FOLLOW)
}

func callLinkEmpty(s *side, a []string) (string, error) {
	return "", unix.Linkat(s.fd(a[0]), "", s.root, expand(a[1]), unix.AT_EMPTY_PATH)
}

var renameFlags = map[string]uint{"-": 0, "noreplace": unix.RENAME_NOREPLACE, "exchange": unix.RENAME_EXCHANGE,

	"both": unix.RENAME_NOREPLACE | unix.RENAME_EXCHANGE}

func callRename(s *side, a []string) (string, error) {
	return "", unix.Renameat2(s.root, expand(a[0]), s.root, expand(a[1]), renameFlags[a[2]])
}

func callWhiteout(s *side, a []string) (string, error) {
	return "", unix.Renameat2(s.root, expand(a[0]), s.root, expand(a[1]), unix.RENAME_WHITEOUT)
}

func callLink(s *side, a []string) (string, error) {
	flags := 0
	if a[2] == "follow" {
		flags = unix.AT_SYMLINK_FOLLOW
	}
	return "", unix.Linkat(s.root, expand(a[0]), s.root, expand(a[1]), flags)
}

func callSymlink(s *side, a []string) (string, error) {
	return "", unix.Symlinkat(expand(a[0]), s.root, expand(a[1]))
}

func callReadlink(s *side, a []string) (string, error) {
	n, err := unix.Readlinkat(s.root, expand(a[0]), arena[:8192])
	return string(arena[:max(n, 0)]), err
}

func callUnlink(s *side, a []string) (string, error) {
	return "", unix.Unlinkat(s.root, expand(a[0]), 0)
}

func callRmdir(s *side, a []string) (string, error) {
	return "", unix.Unlinkat(s.root, expand(a[0]), unix.AT_REMOVEDIR)
}

func callMkdir(s *side, a []string) (string, error) {
	return "", unix.Mkdirat(s.root, expand(a[0]), uint32(num(a[1])))
}

var nodeTypes = map[string]uint32{"file": unix.S_IFREG, "fifo": unix.S_IFIFO, "socket": unix.S_IFSOCK,

	"char": unix.S_IFCHR, "block": unix.S_IFBLK}

func callMknod(s *side, a []string) (string, error) {
	dev := 0
	if a[1] == "char" || a[1] == "block" {
		dev = int(unix.Mkdev(240, 300))
	}
	return "", unix.Mknodat(s.root, expand(a[0]), nodeTypes[a[1]]|uint32(num(a[2])), dev)
}

func callChmod(s *side, a []string) (string, error) {
	return "", unix.Fchmodat(s.root, expand(a[0]), uint32(num(a[1])), 0)
}

func callFchmod(s *side, a []string) (string, error) {
	return "", unix.Fchmod(s.fd(a[0]), uint32(num(a[1])))
}

func callChown(s *side, a []string) (string, error)  { return s.chown(a, 0) }
func callLchown(s *side, a []string) (string, error) { return s.chown(a, unix.AT_SYMLINK_NOFOLLOW) }

func (s *side) chown(a []string, flags int) (string, error) {
	var st unix.Stat_t
	if unix.Fstatat(s.root, expand(a[0]), &st, flags) == nil && notAsked(&st, a) {
		return skipped, nil
	}
	return "", unix.Fchownat(s.root, expand(a[0]), int(num(a[1])), int(num(a[2])), flags)
}

func callFchown(s *side, a []string) (string, error) {
	var st unix.Stat_t
	if unix.Fstat(s.fd(a[0]), &st) == nil && notAsked(&st, a) {
		return skipped, nil
	}
	return "", unix.Fchown(s.fd(a[0]), int(num(a[1])), int(num(a[2])))
}

// timeOf reads now, omit or seconds.nanoseconds.
func timeOf(s string) unix.Timespec {
	switch s {
	case "now":
		return unix.Timespec{Nsec: unix.UTIME_NOW}
	case "omit":
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	}
	sec, nsec, _ := strings.Cut(s, ".")
	return unix.Timespec{Sec: num(sec), Nsec: num(nsec)}
}

func callUtimes(s *side, a []string) (string, error) {
	times := []unix.Timespec{timeOf(a[1]), timeOf(a[2])}
	return "", unix.UtimesNanoAt(s.root, expand(a[0]), times, nofollow(a[3]))
}

func nofollow(s string) int {
	if s == "nofollow" {
		return unix.AT_SYMLINK_NOFOLLOW
	}
	return 0
}

var xattrFlags = map[string]int{"-": 0, "create": unix.XATTR_CREATE, "replace": unix.XATTR_REPLACE,

	"both": unix.XATTR_CREATE | unix.XATTR_REPLACE}

func callSetxattr(s *side, a []string) (string, error) {
	return "", unix.Setxattr(s.full(a[0]), expand(a[1]), pattern(arena[:num(a[2])], a[3]), xattrFlags[a[4]])
}

func callLsetxattr(s *side, a []string) (string, error) {
	return "", unix.Lsetxattr(s.full(a[0]), expand(a[1]), pattern(arena[:num(a[2])], a[3]), xattrFlags[a[4]])
}

func callGetxattr(s *side, a []string) (string, error) {
	n, err := unix.Lgetxattr(s.full(a[0]), expand(a[1]), arena[:num(a[2])])
	if num(a[2]) == 0 {
		return strconv.Itoa(n), err
	}
	return sum(arena[:max(n, 0)]), err
}

func callListxattr(s *side, a []string) (string, error) {
	n, err := unix.Llistxattr(s.full(a[0]), arena[:64<<10])
	names := strings.Split(string(arena[:max(n, 0)]), "\x00")
	sort.Strings(names)
	return strings.Join(names, " "), err
}

func callRemovexattr(s *side, a []string) (string, error) {
	return "", unix.Removexattr(s.full(a[0]), expand(a[1]))
}

// describe is what is compared of a stat, but for times.
func describe(st *unix.Stat_t) string {
	size := st.Size
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		size = 0 // of a directory it says how its file system keeps names
	}
	return fmt.Sprintf("%06o nlink=%d %d:%d rdev=%x size=%d", st.Mode, st.Nlink, st.Uid, st.Gid, st.Rdev, size)
}

func fstat(fd int) (string, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return describe(&st), err
}

func callFstat(s *side, a []string) (string, error) { return fstat(s.fd(a[0])) }

func callStat(s *side, a []string) (string, error) {
	var st unix.Stat_t
	err := unix.Fstatat(s.root, expand(a[0]), &st, nofollow(a[1]))
	return describe(&st), err
}

// callStatx: a file was born, and not in the future.
func callStatx(s *side, a []string) (string, error) {
	var st unix.Statx_t
	err := unix.Statx(s.root, expand(a[0]), unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st)
	born := st.Mask&unix.STATX_BTIME != 0
	sane := born && st.Btime.Sec > 1e9 && st.Btime.Sec <= time.Now().Unix()
	return fmt.Sprintf("%06o nlink=%d born=%v %v", st.Mode, st.Nlink, born, sane), err
}

func callAccess(s *side, a []string) (string, error) {
	return "", unix.Faccessat(s.root, expand(a[0]), uint32(num(a[1])), 0)
}

func callUmask(_ *side, a []string) (string, error) {
	unix.Umask(int(num(a[0])))
	return "", nil
}
