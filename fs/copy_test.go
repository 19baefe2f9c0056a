package fs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func init() {
	mappers["copies"], mappers["suid"], mappers["fsize"] = copyMapped, copyOverSuid, copyTooMuch
}

// copyRange is copy_file_range(2) once.
func copyRange(from *os.File, off int64, to *os.File, at int64, n int) (int, error) {
	return unix.CopyFileRange(int(from.Fd()), &off, int(to.Fd()), &at, n, 0)
}

func (m *mount) open(name string, flags int) *os.File {
	m.Helper()
	f, err := os.OpenFile(m.path(name), flags, 0o644)
	if err != nil {
		m.Fatal(err)
	}
	m.Cleanup(func() { f.Close() })
	return f
}

func (m *mount) staged() int64 {
	m.Helper()
	u, err := m.tree.Usage()
	if err != nil {
		m.Fatal(err)
	}
	return u.Staged
}

const copied = 3<<20 + 17

// A copy at the same offset, of a live file or out of a snapshot, takes no
// space, and is seen by who had the old bytes in the cache.
func TestCopyShares(t *testing.T) {
	m := newMount(t)
	one, two := strings.Repeat("1", copied), strings.Repeat("2", copied)
	m.write("f", one)
	m.seal("", "1")
	m.write("f", two)
	m.write("to", strings.Repeat("-", copied+5))
	before := m.staged()
	past := time.Now().Add(-time.Hour)
	for _, src := range []struct{ name, data string }{{"f", two}, {"snapshots/1/f", one}} {
		if err := os.Chtimes(m.path("to"), past, past); err != nil {
			t.Fatal(err)
		}
		cached := m.open("to", os.O_RDONLY)
		if _, err := cached.ReadAt(make([]byte, copied), 0); err != nil {
			t.Fatal(err)
		}
		to := m.open("to", os.O_WRONLY)
		n, err := copyRange(m.open(src.name, os.O_RDONLY), 0, to, 0, 1<<30)
		if err != nil || n != copied {
			t.Fatalf("%s: %d bytes copied, %v", src.name, n, err)
		}
		got := make([]byte, copied)
		if _, err := cached.ReadAt(got, 0); err != nil || string(got) != src.data {
			t.Errorf("%s: a reader sees other bytes, %v", src.name, err)
		}
		st, err := to.Stat()
		if err != nil || st.Size() != copied+5 || time.Since(st.ModTime()) > time.Minute {
			t.Errorf("%s: size %d, mtime %v, %v", src.name, st.Size(), st.ModTime(), err)
		}
		to.Close()
		m.want("to", src.data+"-----")
	}
	if after := m.staged(); after != before {
		t.Errorf("%d bytes more are staged", after-before)
	}
	m.run("cp --reflink=auto snapshots/1/f again; cp -a --reflink=auto snapshots/1/. .; cmp f snapshots/1/f; cmp again snapshots/1/f")
	if after := m.staged(); after > before {
		t.Errorf("cp staged %d bytes more", after-before)
	}
	m.write("f", "and now something else")
	m.run("cmp again snapshots/1/f")
}

// What can't be shared is copied, by the daemon or by the kernel.
func TestCopyMoves(t *testing.T) {
	m := newMount(t)
	data := strings.Repeat("0123456789", 200000)
	m.write("f", data)
	m.write("to", "head")
	src, to := m.open("f", os.O_RDWR), m.open("to", os.O_RDWR)
	for done := 0; done < len(data); {
		n, err := copyRange(src, int64(done), to, int64(4+done), len(data))
		if err != nil || n == 0 {
			t.Fatal(n, err)
		}
		done += n
	}
	m.want("to", "head"+data)
	if n, err := copyRange(src, 0, src, 1000000, 1000000); err != nil || n != 1000000 {
		t.Errorf("within a file: %d, %v", n, err)
	}
	m.want("f", data[:1000000]+data[:1000000])
	status := m.open("snapshots/.status", os.O_RDONLY)
	if n, err := copyRange(status, 0, to, 0, 100); err != nil || n == 0 {
		t.Errorf("of .status: %d, %v", n, err)
	}
	hole := m.open("hole", os.O_RDWR|os.O_CREATE)
	if err := errors.Join(hole.Truncate(8<<20), hole.Sync()); err != nil {
		t.Fatal(err)
	}
	if _, err := hole.WriteAt([]byte("x"), 5<<20); err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]int64{"same": 0, "moved": 4096} {
		f := m.open(name, os.O_RDWR|os.O_CREATE)
		n, err := copyRange(hole, 0, f, at, 8<<20)
		var st unix.Stat_t
		if err = errors.Join(err, unix.Fstat(int(f.Fd()), &st)); err != nil || n != 8<<20 || st.Size != 8<<20+at || st.Blocks > 16 {
			t.Errorf("%s: %d bytes of a sparse file became %d in %d blocks, %v", name, n, st.Size, st.Blocks, err)
		}
	}
}

func TestCopyRefuses(t *testing.T) {
	m := newMount(t)
	m.write("f", "0123456789")
	m.write("to", "")
	m.seal("", "1")
	f, to := m.open("f", os.O_RDWR), m.open("to", os.O_RDWR)
	for name, c := range map[string]struct {
		from, to *os.File
		off, at  int64
		flags    int
		want     error
	}{
		"appending":        {f, m.open("to", os.O_WRONLY|os.O_APPEND), 0, 0, 0, unix.EBADF},
		"reading":          {f, m.open("to", os.O_RDONLY), 0, 0, 0, unix.EBADF},
		"not reading":      {m.open("f", os.O_WRONLY), to, 0, 0, 0, unix.EBADF},
		"overlapping":      {f, f, 0, 5, 0, unix.EINVAL},
		"the same":         {f, f, 0, 0, 0, unix.EINVAL},
		"flags":            {f, to, 0, 0, 1, unix.EINVAL},
		"into a snapshot":  {f, m.open("snapshots/1/f", os.O_RDONLY), 0, 0, 0, unix.EBADF},
		"a directory":      {m.open("snapshots/1", os.O_RDONLY), to, 0, 0, 0, unix.EISDIR},
		"far":              {f, to, 0, 1 << 55, 0, unix.EFBIG},
		"behind the end":   {f, to, 10, 0, 0, nil},
		"nothing overlaps": {f, f, 10, 0, 0, nil},
	} {
		n, err := unix.CopyFileRange(int(c.from.Fd()), &c.off, int(c.to.Fd()), &c.at, 10, c.flags)
		if !errors.Is(err, c.want) || n > 0 {
			t.Errorf("%s: %d, %v, want %v", name, n, err, c.want)
		}
	}
	m.want("f", "0123456789")
	m.want("to", "")
}

// A synchronous handle gets a barrier, others none.
func TestCopySyncs(t *testing.T) {
	m := newMount(t)
	m.write("f", "some")
	f := m.open("f", os.O_RDONLY)
	for flag, want := range map[int]int{0: 0, unix.O_SYNC: 1, unix.O_DSYNC: 1} {
		before := m.cuts.total()
		if _, err := copyRange(f, 0, m.open("to", os.O_WRONLY|os.O_CREATE|flag), 0, 4); err != nil {
			t.Fatal(err)
		}
		if n := m.cuts.total() - before; n != want {
			t.Errorf("with %o: %d barriers, want %d", flag, n, want)
		}
	}
}

func TestCopyBesideMappings(t *testing.T) {
	m := newMount(t)
	m.write("f", strings.Repeat("1", mappedSize))
	m.write("to", strings.Repeat("2", mappedSize))
	m.runMapper("copies", "f")
	m.write("prog", "#!")
	if err := errors.Join(unix.Chmod(m.path("prog"), 0o6777), unix.Chmod(m.path("f"), 0o644)); err != nil {
		t.Fatal(err)
	}
	m.runMapper("suid", "f")
	m.write("short", "")
	m.runMapper("fsize", "f")
}

func openBoth(path, other string) (f, to *os.File, err error) {
	f, err = os.OpenFile(path, os.O_RDWR, 0)
	if err == nil {
		to, err = os.OpenFile(filepath.Join(filepath.Dir(path), other), os.O_RDWR, 0)
	}
	return f, to, err
}

// copyMapped has both files mapped: what was written to the one counts, and
// what is copied to the other is seen there.
func copyMapped(path string) error {
	f, to, err := openBoth(path, "to")
	if err != nil {
		return err
	}
	var mem [2][]byte
	for k, file := range []*os.File{f, to} {
		if mem[k], err = unix.Mmap(int(file.Fd()), 0, mappedSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
			return err
		}
	}
	for i := range pieces {
		at, data := piece(i)
		copy(mem[0][at:], data)
		copy(mem[1][mappedSize-1-at:], "?")
		if _, err := copyRange(f, 0, to, 0, mappedSize); err != nil {
			return err
		}
		if !bytes.Equal(mem[0], mem[1]) {
			return fmt.Errorf("copy %d is not what is mapped", i)
		}
		copy(mem[0][at:], strings.Repeat("!", len(data))) // what was copied stays
		if !bytes.Equal(mem[1][at:][:len(data)], data) {
			return fmt.Errorf("copy %d changed with its source", i)
		}
	}
	return errors.Join(unix.Munmap(mem[0]), unix.Munmap(mem[1]), f.Close(), to.Close())
}

// copyOverSuid copies as an ordinary user.
func copyOverSuid(path string) error {
	if err := syscall.Setuid(65534); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	to, err := os.OpenFile(filepath.Join(filepath.Dir(path), "prog"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err := copyRange(f, 0, to, 0, 100); err != nil {
		return err
	}
	st, err := to.Stat()
	if err == nil && st.Mode()&(os.ModeSetuid|os.ModeSetgid) != 0 {
		err = fmt.Errorf("mode %v", st.Mode())
	}
	return errors.Join(err, f.Close(), to.Close())
}

// copyTooMuch is cut off at the limit, and then refused.
func copyTooMuch(path string) error {
	f, to, err := openBoth(path, "short")
	if err != nil {
		return err
	}
	if err := syscall.Setrlimit(unix.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 5000, Max: 5000}); err != nil {
		return err
	}
	if n, err := copyRange(f, 0, to, 0, 10000); err != nil || n != 5000 {
		return fmt.Errorf("up to the limit: %d, %v", n, err)
	}
	if n, err := copyRange(f, 5000, to, 5000, 10000); !errors.Is(err, unix.EFBIG) {
		return fmt.Errorf("at the limit: %d, %v", n, err)
	}
	return nil
}
