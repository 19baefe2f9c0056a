package posix

import (
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func init() {
	kinds = map[string]kind{
		"open":        {60, words("slot file flags mode"), callOpen, 0},
		"tmpfile":     {6, words("slot dir tmpflags mode"), callTmpfile, 0},
		"linkfd":      {5, words("slot new"), callLinkFd, 0},
		"linkempty":   {6, words("slot new"), callLinkEmpty, 0},
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
		"removexattr": {16, words("file kept"), callRemovexattr, 0},
		"stat":        {6, words("any nofollow"), callStat, 0},
		"fstat":       {5, words("slot"), callFstat, 0},
		"statx":       {5, words("any"), callStatx, 0},
		"access":      {5, words("any access"), callAccess, 0},
		"readdir":     {6, words("dir"), callReaddir, 0},
		"seekdir":     {5, words("dir name name seed"), callSeekdir, 0},
		"mmap":        {12, words("slot len near seed"), callMmap, changesContent | isBarrier},
		"mapread":     {8, words("slot len near"), callMapRead, 0},
		"copyrange":   {14, words("slot off slot off len"), callCopyRange, changesContent},
		"sendfile":    {16, words("slot slot len"), callSendfile, changesContent},
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

func (s *side) fd(slot string) int { return s.fds[slot].fd }

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

// skipped is the result of a call that was not made, in neither tree.
const skipped = "skipped"

func errnoName(err error) string {
	if err == nil {
		return "ok"
	}
	if e, ok := err.(unix.Errno); ok && unix.ErrnoName(e) != "" {
		return unix.ErrnoName(e)
	}
	return err.Error()
}
