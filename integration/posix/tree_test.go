package posix

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// The two trees.
const peer, mount = 0, 1

// stamp is what stat(2) says of times, in ns.
type stamp struct{ atime, mtime, ctime int64 }

// byHand: a time before 2001 or after 2096 was set by a utimensat of a script and
// must be the same in both trees. Others are each tree's own, and only that
// they changed is compared.
func byHand(t int64) bool { return t < 1e18 || t > 4e18 }

func (s stamp) set() string {
	text := ""
	for _, t := range []struct {
		name string
		at   int64
	}{{"atime", s.atime}, {"mtime", s.mtime}} {
		if byHand(t.at) {
			text += fmt.Sprintf(" %s=%d", t.name, t.at)
		}
	}
	return text
}

// moved says which times are other ones than before.
func (s stamp) moved(before stamp) string {
	return fmt.Sprintf("atime:%v mtime:%v ctime:%v", s.atime != before.atime, s.mtime != before.mtime, s.ctime != before.ctime)
}

func stampOf(st *unix.Stat_t) stamp {
	if st.Mode&unix.S_IFMT == unix.S_IFIFO {
		return stamp{} // the kernel changes them for I/O on ext4, and not on FUSE
	}
	return stamp{st.Atim.Nano(), st.Mtim.Nano(), st.Ctim.Nano()}
}

// content is a file's bytes in a few bytes.
type content struct {
	size int64
	sum  uint32
}

// smallFile is up to which size a file is read whole; of a larger one, which
// is mostly hole, what lseek(2) calls data.
const smallFile = 8 << 20

// readContent sums a file up, the same for the same bytes, wherever its holes are.
func readContent(path string) (c content, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return c, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return c, err
	}
	c.size = info.Size()
	if c.size <= smallFile {
		return c, c.add(f, 0, c.size)
	}
	for at := int64(0); ; {
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return c, nil
		}
		if err != nil {
			return c, err
		}
		hole, err := unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return c, err
		}
		at = min((hole+block-1)&^(block-1), c.size)
		if err := c.add(f, max(data&^(block-1), 0), at); err != nil {
			return c, err
		}
	}
}

const block = 4096

// add adds the blocks in [off, end) that are not all zero.
func (c *content) add(f *os.File, off, end int64) error {
	buf, zero := make([]byte, 64<<10), make([]byte, block)
	for off < end {
		n, err := f.ReadAt(buf[:min(int64(len(buf)), end-off)], off)
		if n == 0 {
			return fmt.Errorf("%s: read at %d of %d: %w", f.Name(), off, c.size, err)
		}
		for b := buf[:n]; len(b) > 0; {
			k := min(block, len(b))
			if !bytes.Equal(b[:k], zero[:k]) {
				c.sum = crc32.Update(c.sum, crc32.IEEETable, fmt.Appendf(nil, "%d ", off))
				c.sum = crc32.Update(c.sum, crc32.IEEETable, b[:k])
			}
			b, off = b[k:], off+int64(k)
		}
	}
	return nil
}

// entry is one name of a tree.
type entry struct {
	what    string // type, mode, owner, links, target, attributes
	content content
	set     string // times set by hand
	ino     uint64
	mode    uint32
	stamp   stamp
}

// readTree reads a directory whole; "." is itself.
func readTree(dir string) (map[string]entry, error) {
	all := map[string]entry{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		all[rel], err = readEntry(path)
		return err
	})
	return all, err
}

func readEntry(path string) (e entry, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return e, fmt.Errorf("stat %s: %w", path, err)
	}
	e.mode, e.ino, e.stamp = st.Mode, st.Ino, stampOf(&st)
	e.set = e.stamp.set()
	size := st.Size
	st.Size = 0 // is told with the content
	e.what = describe(&st)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if e.content, err = readContent(path); err == nil && e.content.size != size {
			err = fmt.Errorf("%s: open it has %d bytes, by name %d", path, e.content.size, size)
		}
	case unix.S_IFLNK:
		var target string
		target, err = os.Readlink(path)
		e.what += fmt.Sprintf(" -> %q", target)
	}
	if err != nil {
		return e, err
	}
	xattrs, err := readXattrs(path)
	e.what += xattrs
	return e, err
}

func readXattrs(path string) (string, error) {
	var list, value [64 << 10]byte
	n, err := unix.Llistxattr(path, list[:])
	if err != nil {
		return "", fmt.Errorf("listxattr %s: %w", path, err)
	}
	names := strings.Split(string(list[:n]), "\x00")
	sort.Strings(names)
	text := ""
	for _, name := range names {
		if name == "" {
			continue
		}
		n, err := unix.Lgetxattr(path, name, value[:])
		if err != nil {
			return "", fmt.Errorf("getxattr %s of %s: %w", name, path, err)
		}
		text += fmt.Sprintf(" %s=%s", name, sum(value[:n]))
	}
	return text, nil
}

// compareTrees says where got is not want; adjust, if there is one, may say
// what want is instead, or that a name is not to be there or not to be looked at.
func compareTrees(want, got map[string]entry, adjust func(path string, want, got entry) (entry, verdict)) string {
	var bad []string
	say := func(format string, args ...any) { bad = append(bad, fmt.Sprintf(format, args...)) }
	for path, w := range want {
		g, ok := got[path]
		if adjust != nil {
			var v verdict
			if w, v = adjust(path, w, g); v == absent {
				if ok {
					say("%s: is there, %v", path, g.content)
				}
				delete(got, path)
				continue
			}
		}
		switch {
		case !ok:
			say("%s: missing, want %s", path, w.what)
		case w.what != g.what:
			say("%s:\n   ext4   %s\n   stepfs %s", path, w.what, g.what)
		case w.content != g.content:
			say("%s: content: ext4 %v, stepfs %v", path, w.content, g.content)
		case w.set != g.set:
			say("%s: times: ext4 %s, stepfs %s", path, w.set, g.set)
		}
	}
	for path, g := range got {
		if _, ok := want[path]; !ok {
			say("%s: unexpected, %s", path, g.what)
		}
	}
	if a, b := linkGroups(want, got), linkGroups(got, want); a != b {
		say("hard links: ext4 %s, stepfs %s", a, b)
	}
	sort.Strings(bad)
	return strings.Join(bad, "\n")
}

// verdict is what an adjustment says of a name.
type verdict int

const (
	present verdict = iota
	absent
)

// linkGroups lists the names that are one file, of those that both trees have.
func linkGroups(in, and map[string]entry) string {
	groups := map[uint64][]string{}
	for path, e := range in {
		if _, ok := and[path]; ok && e.mode&unix.S_IFMT != unix.S_IFDIR {
			groups[e.ino] = append(groups[e.ino], path)
		}
	}
	var all []string
	for _, g := range groups {
		if len(g) > 1 {
			sort.Strings(g)
			all = append(all, strings.Join(g, "="))
		}
	}
	sort.Strings(all)
	return strings.Join(all, " ")
}
