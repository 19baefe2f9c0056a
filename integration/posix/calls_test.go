package posix

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func init() {
	kinds = map[string]kind{
		"open":        {60, words("slot file flags mode"), callOpen, 0},
		"tmpfile":     {6, words("slot dir tmpflags mode"), callTmpfile, 0},
		"linkfd":      {5, words("slot new"), callLinkFd, 0},
		"linkempty":   {3, words("slot new"), callLinkEmpty, 0},
		"close":       {30, words("slot"), callClose, 0},
		"dup":         {5, words("slot slot"), callDup, 0},
		"read":        {14, words("slot len"), callRead, 0},
		"pread":       {14, words("slot len off"), callPread, 0},
		"readv":       {5, words("slot len len"), callReadv, 0},
		"write":       {40, words("slot len seed"), callWrite, changesContent},
		"pwrite":      {40, words("slot len anyoff seed"), callPwrite, changesContent},
		"pwritev":     {10, words("slot len len anyoff seed"), callPwritev, changesContent},
		"seek":        {10, words("slot off whence"), callSeek, 0},
		"ftruncate":   {12, words("slot anyoff"), callFtruncate, changesContent},
		"truncate":    {8, words("file anyoff"), callTruncate, 0},
		"fallocate":   {15, words("slot famode anyoff len"), callFallocate, changesContent},
		"reshape":     {3, words("slot badmode off len"), callFallocate, wantsPeerOff},
		"fsync":       {6, words("slot"), callFsync, isBarrier},
		"fdatasync":   {6, words("slot"), callFdatasync, isBarrier},
		"fsyncdir":    {5, words("dir"), callFsyncDir, isBarrier},
		"syncrange":   {3, words("slot off len"), callSyncRange, 0},
		"rename":      {20, words("any new renameflags"), callRename, 0},
		"whiteout":    {2, words("any fresh"), callWhiteout, wantsPeerOff},
		"link":        {10, words("any new followlink"), callLink, 0},
		"symlink":     {8, words("target new"), callSymlink, 0},
		"readlink":    {5, words("link"), callReadlink, 0},
		"unlink":      {10, words("any"), callUnlink, 0},
		"rmdir":       {5, words("dir"), callRmdir, 0},
		"mkdir":       {12, words("dir dirmode"), callMkdir, 0},
		"mknod":       {8, words("new type mode"), callMknod, 0},
		"chmod":       {10, words("any mode"), callChmod, 0},
		"fchmod":      {6, words("slot mode"), callFchmod, 0},
		"chown":       {10, words("any id id"), callChown, 0},
		"lchown":      {5, words("any id id"), callLchown, 0},
		"fchown":      {4, words("slot id id"), callFchown, 0},
		"utimes":      {12, words("any time time nofollow"), callUtimes, 0},
		"setxattr":    {12, words("any kept size seed xflags"), callSetxattr, 0},
		"lsetxattr":   {3, words("any xattr size seed xflags"), callLsetxattr, 0},
		"getxattr":    {12, words("any kept room"), callGetxattr, 0},
		"listxattr":   {5, words("any"), callListxattr, 0},
		"removexattr": {8, words("file kept"), callRemovexattr, 0},
		"stat":        {6, words("any nofollow"), callStat, 0},
		"fstat":       {5, words("slot"), callFstat, 0},
		"statx":       {5, words("any"), callStatx, 0},
		"access":      {5, words("any access"), callAccess, 0},
		"readdir":     {6, words("dir"), callReaddir, 0},
		"seekdir":     {5, words("dir name name seed"), callSeekdir, 0},
		"mmap":        {12, words("slot len near seed"), callMmap, changesContent | isBarrier},
		"mapread":     {8, words("slot len near"), callMapRead, 0},
		"copyrange":   {14, words("slot off slot off len"), callCopyRange, changesContent},
		"sendfile":    {8, words("slot slot len"), callSendfile, changesContent},
		"flock":       {12, words("slot flock"), callFlock, 0},
		"plock":       {14, words("slot lock lockoff locklen"), callPlock, 0},
		"olock":       {10, words("slot lock lockoff locklen"), callOlock, 0},
		"umask":       {3, words("mask"), callUmask, 0},
		"kill":        {1, nil, nil, 0},
		"remount":     {1, nil, nil, 0},
		"snapshot":    {2, nil, nil, 0},
		"compare":     {0, nil, nil, 0},
	}
}

// side is one process's view of one of the two trees.
type side struct {
	root int
	fds  map[string]*desc
	last int // descriptor that the last call made; -1: none
}

type desc struct {
	fd     int
	direct bool
	append bool
}

func (s *side) desc(slot string) *desc { return s.fds[slot] }
func (s *side) fd(slot string) int     { return s.fds[slot].fd }

// put puts a new descriptor into a slot, which is free.
func (s *side) put(slot string, d *desc) { s.fds[slot], s.last = d, d.fd }

// full is the path of a file for calls that have no *at form.
func (s *side) full(path string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", s.root, expand(path))
}

// expand writes out long names and paths.
func expand(path string) string {
	if n, ok := strings.CutPrefix(path, "@@"); ok {
		k := int(num(n))
		return strings.Repeat("./", k/2)[:k-1] + "a"
	}
	dir, name, ok := strings.Cut(path, "@")
	if !ok {
		return path
	}
	return dir + strings.Repeat("n", int(num(name)))
}

func num(s string) int64 {
	n, err := strconv.ParseInt(s, 0, 64)
	if err != nil {
		panic(err)
	}
	return n
}

// arena is page-aligned memory for O_DIRECT.
var arena = func() []byte {
	b, err := unix.Mmap(-1, 0, 8<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		panic(err)
	}
	return b
}()

// pattern gives n bytes, none of them zero, that tell where they belong.
func pattern(b []byte, seed string) []byte {
	k := uint32(num(seed)) * 2654435761
	for i := range b {
		k = k*1664525 + 1013904223
		b[i] = byte(k>>24) | 1
	}
	return b
}

func sum(b []byte) string { return fmt.Sprintf("%d:%08x", len(b), crc32.ChecksumIEEE(b)) }

// aligned rounds what an O_DIRECT call is given, which is all that it may get
// on ext4.
func (d *desc) aligned(n int64) int64 {
	if d.direct {
		return (n + 4095) &^ 4095
	}
	return n
}

// unaligned says whether a call at the descriptor's position would be one that
// ext4 refuses for O_DIRECT.
func (d *desc) unaligned() bool {
	if !d.direct {
		return false
	}
	pos, err := unix.Seek(d.fd, 0, unix.SEEK_CUR)
	var st unix.Stat_t
	return err != nil || pos%4096 != 0 || d.append && (unix.Fstat(d.fd, &st) != nil || st.Size%4096 != 0)
}

// beyond says whether a write is too far out and must not be tried. ext4 refuses
// it at once. A FUSE file's limit the kernel does not know; so before it asks it
// takes set-user-id away, and after an O_DIRECT write that failed it truncates
// the file to the size that it has. Both are changes of times.
func (d *desc) beyond(off string) bool {
	var st unix.Stat_t
	return num(off) > 1<<42 && (d.direct || unix.Fstat(d.fd, &st) != nil || st.Mode&0o6000 != 0)
}

const skipped = "skipped"

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

func callLinkFd(s *side, a []string) (string, error) {
	from := fmt.Sprintf("/proc/self/fd/%d", s.fd(a[0]))
	return "", unix.Linkat(unix.AT_FDCWD, from, s.root, expand(a[1]), unix.AT_SYMLINK_FOLLOW)
}

func callLinkEmpty(s *side, a []string) (string, error) {
	return "", unix.Linkat(s.fd(a[0]), "", s.root, expand(a[1]), unix.AT_EMPTY_PATH)
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

// seekRight says whether the answer to SEEK_DATA or SEEK_HOLE is a right one.
func seekRight(fd int, off, pos int64, hole bool, err error) (string, error) {
	var st unix.Stat_t
	if e := unix.Fstat(fd, &st); e != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || off < 0 || off >= st.Size {
		return "", err
	}
	end := pos
	switch {
	case err == unix.ENXIO && !hole:
		end = st.Size // there must be no data at all
	case err != nil:
		return "", err
	case pos < off || pos > st.Size || hole && pos == st.Size:
		return fmt.Sprintf("right, unless %v", pos < off || pos > st.Size), nil
	case hole:
		off, end = pos, pos+1
	}
	end = min(end, off+4<<20) // a file may be a terabyte of hole
	for b := arena[:1<<20]; off < end; {
		n, e := unix.Pread(fd, b[:min(int64(len(b)), end-off)], off)
		if e != nil || n == 0 {
			break // write-only, or O_DIRECT: not to be looked at
		}
		if i := bytes.IndexFunc(b[:n], func(r rune) bool { return r != 0 }); i >= 0 {
			return fmt.Sprintf("there is data at %d", off+int64(i)), nil
		}
		off += int64(n)
	}
	return "right, unless false", nil
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

func callFsync(s *side, a []string) (string, error)     { return "", unix.Fsync(s.fd(a[0])) }
func callFdatasync(s *side, a []string) (string, error) { return "", unix.Fdatasync(s.fd(a[0])) }

func callFsyncDir(s *side, a []string) (string, error) {
	fd, err := unix.Openat(s.root, expand(a[0]), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	return "", unix.Fsync(fd)
}

func callSyncRange(s *side, a []string) (string, error) {
	const all = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	return "", unix.SyncFileRange(s.fd(a[0]), num(a[1]), num(a[2]), all)
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

func callChown(s *side, a []string) (string, error) {
	return "", unix.Fchownat(s.root, expand(a[0]), int(num(a[1])), int(num(a[2])), 0)
}

func callLchown(s *side, a []string) (string, error) {
	return "", unix.Fchownat(s.root, expand(a[0]), int(num(a[1])), int(num(a[2])), unix.AT_SYMLINK_NOFOLLOW)
}

func callFchown(s *side, a []string) (string, error) {
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

// dirent is an entry as getdents64(2) gives it.
type dirent struct {
	name   string
	typ    byte
	cookie int64 // where to go on behind it
}

// getdents reads on in a directory, with a buffer that holds a few entries.
func getdents(fd int, buf []byte) ([]dirent, error) {
	n, err := unix.ReadDirent(fd, buf)
	if err != nil {
		return nil, err
	}
	var out []dirent
	for b := buf[:n]; len(b) > 0; {
		size := binary.NativeEndian.Uint16(b[16:])
		name, _, _ := bytes.Cut(b[19:size], []byte{0})
		out = append(out, dirent{string(name), b[18], int64(binary.NativeEndian.Uint64(b[8:]))})
		b = b[size:]
	}
	return out, nil
}

func readAllDents(fd int) (all []dirent, err error) {
	buf := make([]byte, 512)
	for {
		some, err := getdents(fd, buf)
		if err != nil || len(some) == 0 {
			return all, err
		}
		all = append(all, some...)
	}
}

func (s *side) openDir(path string) (int, error) {
	return unix.Openat(s.root, expand(path), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

func callReaddir(s *side, a []string) (string, error) {
	fd, err := s.openDir(a[0])
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	all, err := readAllDents(fd)
	var names []string
	for _, e := range all {
		names = append(names, fmt.Sprintf("%s/%d", e.name, e.typ))
	}
	sort.Strings(names)
	return strings.Join(names, " "), err
}

// callSeekdir reads a directory, changes it, and goes back to a place in it:
// what is there all the time must come exactly once. The order is each file
// system's own, so that is checked, not compared.
func callSeekdir(s *side, a []string) (string, error) {
	fd, err := s.openDir(a[0])
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	all, err := readAllDents(fd)
	if err != nil || len(all) == 0 {
		return "", err
	}
	added, removed := expand(a[1]), expand(a[2])
	made := unix.Symlinkat("target", fd, added)
	gone := unix.Unlinkat(fd, removed, 0)
	at := int(num(a[3])) % (len(all) + 1)
	cookie := int64(0)
	if at > 0 {
		cookie = all[at-1].cookie
	}
	if _, err := unix.Seek(fd, cookie, unix.SEEK_SET); err != nil {
		return "", err
	}
	rest, err := readAllDents(fd)
	if err != nil {
		return "", err
	}
	seen := map[string]int{}
	for _, e := range rest {
		seen[e.name]++
	}
	for i, e := range all {
		want := 0
		if i >= at {
			want = 1
		}
		if seen[e.name] != want && e.name != removed && e.name != added {
			return fmt.Sprintf("%q was seen %d times behind place %d of %d", e.name, seen[e.name], at, len(all)), nil
		}
		delete(seen, e.name)
	}
	delete(seen, added)
	return fmt.Sprintf("add %v, remove %v, strangers %d", errnoName(made), errnoName(gone), len(seen)), nil
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

func callUmask(_ *side, a []string) (string, error) {
	unix.Umask(int(num(a[0])))
	return "", nil
}

func errnoName(err error) string {
	if err == nil {
		return "ok"
	}
	if e, ok := err.(unix.Errno); ok && unix.ErrnoName(e) != "" {
		return unix.ErrnoName(e)
	}
	return err.Error()
}
