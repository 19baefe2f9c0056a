package posix

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// aligned rounds what an O_DIRECT call is given, which is all that it may get
// on ext4.
func (d *desc) aligned(n int64) int64 {
	if d.direct {
		return (n + 4095) &^ 4095
	}
	return n
}

var openFlags = map[string]int{
	"O_RDONLY": unix.O_RDONLY, "O_WRONLY": unix.O_WRONLY, "O_RDWR": unix.O_RDWR, "O_CREAT": unix.O_CREAT,
	"O_EXCL": unix.O_EXCL, "O_TRUNC": unix.O_TRUNC, "O_APPEND": unix.O_APPEND, "O_DIRECT": unix.O_DIRECT,
	"O_SYNC": unix.O_SYNC, "O_DSYNC": unix.O_DSYNC, "O_NOFOLLOW": unix.O_NOFOLLOW, "O_DIRECTORY": unix.O_DIRECTORY,
	"O_PATH": unix.O_PATH, "O_NOATIME": unix.O_NOATIME,
}

func flagsOf(s string) int {
	f := 0
	for _, name := range strings.Split(s, "|") {
		bit, ok := openFlags[name]
		if !ok {
			panic("no flag " + name)
		}
		f |= bit
	}
	return f
}

func (s *side) open(slot, path string, flags int, mode uint32) (string, error) {
	// O_NONBLOCK: a FIFO must not wait for its other end.
	fd, err := unix.Openat(s.root, expand(path), flags|unix.O_CLOEXEC|unix.O_NONBLOCK, mode)
	if err != nil {
		return "", err
	}
	s.put(slot, &desc{fd, flags&unix.O_DIRECT != 0, flags&unix.O_APPEND != 0})
	return fstat(fd)
}

func callOpen(s *side, a []string) (string, error) {
	return s.open(a[0], a[1], flagsOf(a[2]), uint32(num(a[3])))
}

func callTmpfile(s *side, a []string) (string, error) {
	return s.open(a[0], a[1], flagsOf(a[2])|unix.O_TMPFILE, uint32(num(a[3])))
}

func callClose(s *side, a []string) (string, error) {
	d := s.desc(a[0])
	delete(s.fds, a[0])
	return "", unix.Close(d.fd)
}

func callDup(s *side, a []string) (string, error) {
	d := *s.desc(a[0])
	var err error
	if d.fd, err = unix.FcntlInt(uintptr(d.fd), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return "", err
	}
	s.put(a[1], &d)
	return "", nil
}

func callRead(s *side, a []string) (string, error) {
	d := s.desc(a[0])
	if d.unaligned() {
		return skipped, nil
	}
	n, err := unix.Read(d.fd, arena[:d.aligned(num(a[1]))])
	return sum(arena[:max(n, 0)]), err
}

func callPread(s *side, a []string) (string, error) {
	d := s.desc(a[0])
	n, err := unix.Pread(d.fd, arena[:d.aligned(num(a[1]))], d.aligned(num(a[2])))
	return sum(arena[:max(n, 0)]), err
}

// two cuts the arena in two buffers.
func (d *desc) two(x, y string) [][]byte {
	m, n := d.aligned(num(x)), d.aligned(num(y))
	return [][]byte{arena[:m], arena[4<<20 : 4<<20+n]}
}

func callReadv(s *side, a []string) (string, error) {
	d := s.desc(a[0])
	if d.unaligned() {
		return skipped, nil
	}
	bufs := d.two(a[1], a[2])
	n, err := unix.Readv(d.fd, bufs)
	return sum(bytes.Join(bufs, nil)[:max(n, 0)]), err
}

func callWrite(s *side, a []string) (string, error) {
	d := s.desc(a[0])
	if d.unaligned() {
		return skipped, nil
	}
	n, err := unix.Write(d.fd, pattern(arena[:d.aligned(num(a[1]))], a[2]))
	return strconv.Itoa(n), err
}

func callPwrite(s *side, a []string) (string, error) {
	d := s.desc(a[0])
	if d.append && d.unaligned() || d.beyond(a[2]) {
		return skipped, nil
	}
	n, err := unix.Pwrite(d.fd, pattern(arena[:d.aligned(num(a[1]))], a[3]), d.aligned(num(a[2])))
	return strconv.Itoa(n), err
}

func callPwritev(s *side, a []string) (string, error) {
	d := s.desc(a[0])
	if d.append && d.unaligned() || d.beyond(a[3]) {
		return skipped, nil
	}
	bufs := d.two(a[1], a[2])
	pattern(bufs[0], a[4])
	pattern(bufs[1], a[4])
	n, err := unix.Pwritev(d.fd, bufs, d.aligned(num(a[3])))
	return strconv.Itoa(n), err
}

var whences = map[string]int{"set": unix.SEEK_SET, "cur": unix.SEEK_CUR, "end": unix.SEEK_END,

	"data": unix.SEEK_DATA, "hole": unix.SEEK_HOLE}

// callSeek: where data begins and ends is each file system's own affair (how
// large its blocks are, what it writes down at once). So that is checked by
// what lseek(2) says, not compared.
func callSeek(s *side, a []string) (string, error) {
	fd, off := s.fd(a[0]), num(a[1])
	var st unix.Stat_t
	if unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return skipped, nil // places in a directory are told by reading it: see callSeekdir
	}
	if a[2] == "cur" {
		off -= 3
	}
	before, _ := unix.Seek(fd, 0, unix.SEEK_CUR)
	pos, err := unix.Seek(fd, off, whences[a[2]])
	if a[2] != "data" && a[2] != "hole" {
		return strconv.FormatInt(pos, 10), err
	}
	// The position that it leaves would differ from here on.
	if _, e := unix.Seek(fd, before, unix.SEEK_SET); e != nil && err == nil {
		return "", e
	}
	return seekRight(fd, off, pos, a[2] == "hole", err)
}

func callFtruncate(s *side, a []string) (string, error) {
	return "", unix.Ftruncate(s.fd(a[0]), num(a[1]))
}

func callTruncate(s *side, a []string) (string, error) {
	return "", unix.Truncate(s.full(a[0]), num(a[1]))
}

var fallocateModes = map[string]uint32{
	"allocate": 0, "keep": unix.FALLOC_FL_KEEP_SIZE, "punch": unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE,
	"zero": unix.FALLOC_FL_ZERO_RANGE, "zerokeep": unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE,
	"punchgrow": unix.FALLOC_FL_PUNCH_HOLE, "collapse": unix.FALLOC_FL_COLLAPSE_RANGE,
	"insert": unix.FALLOC_FL_INSERT_RANGE,
}

func callFallocate(s *side, a []string) (string, error) {
	if s.desc(a[0]).beyond(a[2]) {
		return skipped, nil
	}
	return "", unix.Fallocate(s.fd(a[0]), fallocateModes[a[1]], num(a[2]), num(a[3]))
}

func callFsync(s *side, a []string) (string, error) { return "", unix.Fsync(s.fd(a[0])) }

func callFdatasync(s *side, a []string) (string, error) { return "", unix.Fdatasync(s.fd(a[0])) }

func callSyncRange(s *side, a []string) (string, error) {
	const all = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	return "", unix.SyncFileRange(s.fd(a[0]), num(a[1]), num(a[2]), all)
}

// mapped gives a range of a file, on page boundaries and not beyond its end,
// where a mapping has no bytes.
func mapped(fd int, off, n int64) (from int64, length int, ok bool) {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return 0, 0, false
	}
	off &^= 4095
	n = min(n, st.Size-off)
	return off, int(n), n > 0
}

func callMmap(s *side, a []string) (string, error) {
	off, n, ok := mapped(s.fd(a[0]), num(a[2]), num(a[1]))
	if !ok {
		return skipped, nil
	}
	m, err := unix.Mmap(s.fd(a[0]), off, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return "", err
	}
	defer unix.Munmap(m)
	was := sum(m)
	pattern(m, a[3])
	return was, unix.Msync(m, unix.MS_SYNC)
}

func callMapRead(s *side, a []string) (string, error) {
	off, n, ok := mapped(s.fd(a[0]), num(a[2]), num(a[1]))
	if !ok {
		return skipped, nil
	}
	m, err := unix.Mmap(s.fd(a[0]), off, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		return "", err
	}
	defer unix.Munmap(m)
	was := sum(m)
	m[0]++ // private: nobody sees it
	return was, nil
}

func callCopyRange(s *side, a []string) (string, error) {
	from, to := num(a[1]), num(a[3])
	in, out := s.desc(a[0]), s.desc(a[2])
	if in.direct || out.direct {
		return skipped, nil
	}
	n, err := unix.CopyFileRange(in.fd, &from, out.fd, &to, int(num(a[4])), 0)
	return strconv.Itoa(n), err
}

func callSendfile(s *side, a []string) (string, error) {
	in, out := s.desc(a[0]), s.desc(a[1])
	var from, to unix.Stat_t
	same := unix.Fstat(in.fd, &from) == nil && unix.Fstat(out.fd, &to) == nil && from.Ino == to.Ino
	if in.direct || out.direct || same { // of a file into itself, it may send what it has sent
		return skipped, nil
	}
	n, err := unix.Sendfile(out.fd, in.fd, nil, int(num(a[2])))
	return strconv.Itoa(n), err
}

var flocks = map[string]int{"sh": unix.LOCK_SH, "ex": unix.LOCK_EX, "un": unix.LOCK_UN}

func callFlock(s *side, a []string) (string, error) {
	return "", unix.Flock(s.fd(a[0]), flocks[a[1]]|unix.LOCK_NB)
}

var locks = map[string]int16{"r": unix.F_RDLCK, "w": unix.F_WRLCK, "u": unix.F_UNLCK, "get": unix.F_WRLCK}

func lock(fd int, a []string, set, get int) (string, error) {
	l := unix.Flock_t{Type: locks[a[1]], Whence: unix.SEEK_SET, Start: num(a[2]), Len: num(a[3])}
	if a[1] != "get" {
		return "", unix.FcntlFlock(uintptr(fd), set, &l)
	}
	err := unix.FcntlFlock(uintptr(fd), get, &l)
	return fmt.Sprintf("%d %d+%d", l.Type, l.Start, l.Len), err
}

func callPlock(s *side, a []string) (string, error) {
	return lock(s.fd(a[0]), a, unix.F_SETLK, unix.F_GETLK)
}

func callOlock(s *side, a []string) (string, error) {
	return lock(s.fd(a[0]), a, unix.F_OFD_SETLK, unix.F_OFD_GETLK)
}
