package suites

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"stepfs/integration/harness"
)

// detail says how much of a tree is compared.
type detail int

const (
	// copied is what a copy holds: content, modes, owners, times of change,
	// attributes, links, device numbers.
	copied detail = iota
	// exact is what a snapshot holds besides: ctime, atime, link counts, and
	// where the holes are.
	exact
)

// readTree describes a directory and all that is below it.
func readTree(t *testing.T, dir string, much detail) harness.Tree {
	t.Helper()
	r := reader{dir: dir, much: much, tree: harness.Tree{}, first: map[uint64]string{}}
	must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = r.add(path)
		}
		return err
	}))
	return r.tree
}

type reader struct {
	dir   string
	much  detail
	tree  harness.Tree
	first map[uint64]string // inode → the first of its names
}

func (r *reader) add(path string) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err
	}
	rel, err := filepath.Rel(r.dir, path)
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "mode %o, owner %d:%d, mtime %d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
	if r.much == exact {
		fmt.Fprintf(&b, ", atime %d.%09d, ctime %d.%09d, %d links", st.Atim.Sec, st.Atim.Nsec, st.Ctim.Sec, st.Ctim.Nsec, st.Nlink)
	}
	attrs, err := attributes(path)
	if err != nil {
		return err
	}
	b.WriteString(attrs)
	if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
		if r.first[st.Ino] == "" {
			r.first[st.Ino] = rel
		}
		fmt.Fprintf(&b, ", the same as %s", r.first[st.Ino])
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		err = r.content(&b, path, st.Size)
	case unix.S_IFLNK:
		var target string
		target, err = os.Readlink(path)
		fmt.Fprintf(&b, ", to %q", target)
	case unix.S_IFBLK, unix.S_IFCHR:
		fmt.Fprintf(&b, ", device %x", st.Rdev)
	}
	r.tree[rel] = b.String()
	return err
}

func (r *reader) content(b *strings.Builder, path string, size int64) error {
	sum, err := harness.SHA256(path)
	if err != nil {
		return err
	}
	fmt.Fprintf(b, ", %d bytes %.16s", size, sum)
	if r.much != exact {
		return nil
	}
	extents, err := dataOf(path)
	fmt.Fprintf(b, ", data in %v", extents)
	return err
}

// attributes lists the extended attributes of what path names itself.
func attributes(path string) (string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return "", fmt.Errorf("listxattr %s: %w", path, err)
	}
	names := strings.Split(strings.TrimRight(string(buf[:n]), "\x00"), "\x00")
	sort.Strings(names)
	var b strings.Builder
	for _, name := range names {
		if name == "" {
			continue
		}
		n, err := unix.Lgetxattr(path, name, buf)
		if err != nil {
			return "", fmt.Errorf("getxattr %s of %s: %w", name, path, err)
		}
		fmt.Fprintf(&b, ", %s=%q", name, buf[:n])
	}
	return b.String(), nil
}

// dataOf is where a file has data, by SEEK_DATA and SEEK_HOLE.
func dataOf(path string) (extents [][2]int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for end := int64(0); ; {
		start, err := f.Seek(end, unix.SEEK_DATA)
		if err != nil {
			return extents, ignore(err, unix.ENXIO)
		}
		if end, err = f.Seek(start, unix.SEEK_HOLE); err != nil {
			return extents, err
		}
		extents = append(extents, [2]int64{start, end})
	}
}

func ignore(err error, errno unix.Errno) error {
	if pe, ok := err.(*fs.PathError); ok && pe.Err == errno {
		return nil
	}
	return err
}

// equal compares two directories.
func equal(t *testing.T, want, got string, much detail) {
	t.Helper()
	w := readTree(t, want, much)
	if diff := w.Diff(readTree(t, got, much)); diff != "" {
		t.Errorf("%s is not as %s:\n%s", got, want, diff)
	}
	if len(w) < 2 {
		t.Errorf("%s is empty: this proves nothing", want)
	}
}

// stillSparse looks that no copy of a file takes much more than the original
// has data.
func stillSparse(t *testing.T, original, copied string) {
	t.Helper()
	must(t, filepath.WalkDir(original, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		rel, _ := filepath.Rel(original, path)
		extents, err := dataOf(path)
		if err != nil {
			return err
		}
		data := int64(0)
		for _, x := range extents {
			data += x[1] - x[0]
		}
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(copied, rel), &st); err != nil {
			return err
		}
		if st.Blocks*512 > data+int64(len(extents)+1)*(128<<10) {
			t.Errorf("%s has %d bytes of data, its copy takes %d", rel, data, st.Blocks*512)
		}
		return nil
	}))
}

// makeTree fills a directory with one of everything that a copy must keep.
func makeTree(t *testing.T, dir string) {
	t.Helper()
	file := func(name string, content []byte, mode uint32) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, content, 0o600), unix.Chmod(path, mode))
		return path
	}
	for _, d := range []string{"", "/d", "/d/e", "/empty", "/sticky", "/setgid"} {
		must(t, os.MkdirAll(dir+d, 0o755))
	}
	for i := range 200 {
		file(fmt.Sprintf("d/e/f%03d", i), bytes.Repeat([]byte{byte(i)}, i*997), uint32(0o400+i))
	}
	file("suid", []byte("s"), 0o4755)
	file("big", bytes.Repeat([]byte("0123456789abcdef"), 1<<17), 0o644)
	file("d/Grüße aus Köln", []byte("utf-8"), 0o644)
	file("d/not utf-8 \xff\xfe", []byte("bytes"), 0o644)
	file("d/ blanks\tand\nnewlines ", nil, 0)
	file("d/"+strings.Repeat("n", 255), []byte("long name"), 0o644)
	must(t, os.Link(dir+"/big", dir+"/d/hard"), os.Link(dir+"/big", dir+"/d/e/harder"))
	must(t, os.Symlink("../big", dir+"/d/soft"), os.Symlink("/nowhere/"+strings.Repeat("x", 3000), dir+"/dangling"))
	must(t, os.Link(dir+"/dangling", dir+"/dangling2"))
	must(t, unix.Mkfifo(dir+"/fifo", 0o640), unix.Mknod(dir+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Mknod(dir+"/loop", unix.S_IFBLK|0o660, int(unix.Mkdev(7, 255))))
	sparse, err := os.Create(dir + "/sparse")
	must(t, err)
	for _, off := range []int64{0, 5 << 20, 20 << 20} {
		_, err := sparse.WriteAt(bytes.Repeat([]byte{1}, 64<<10), off)
		must(t, err)
	}
	must(t, sparse.Truncate(24<<20), sparse.Close())
	must(t, os.WriteFile(dir+"/hole", nil, 0o644), os.Truncate(dir+"/hole", 8<<20))
	for _, name := range []string{"/big", "/d", "/d/e/f001"} {
		must(t, unix.Setxattr(dir+name, "user.note", []byte("a\x00b"+name), 0),
			unix.Setxattr(dir+name, "trusted.note", bytes.Repeat([]byte{'x'}, 1000), 0),
			unix.Setxattr(dir+name, "user.empty", nil, 0))
	}
	for i, name := range []string{"suid", "d/e/f002", "dangling", "fifo", "empty"} {
		must(t, unix.Lchown(filepath.Join(dir, name), 1000+i, 2000+i))
	}
	must(t, unix.Chmod(dir+"/suid", 0o4755), unix.Chmod(dir+"/sticky", 0o1777), unix.Chmod(dir+"/setgid", 0o2775))
	backdate(t, dir)
}

// backdate gives everything below dir a time of its own, long ago: rsync takes
// times of one second for the same where it does not copy content.
func backdate(t *testing.T, dir string) {
	t.Helper()
	var names []string
	must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		names = append(names, path)
		return err
	}))
	for i, path := range names {
		when := unix.Timespec{Sec: int64(1 + i*1000003), Nsec: int64(i)*4567891%1e9 + 1}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{when, when}, unix.AT_SYMLINK_NOFOLLOW))
	}
}
