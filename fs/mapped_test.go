package fs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// A process must not map a file that it serves itself: a page fault stops its
// goroutine where Go's garbage collector waits for it, and the server with it.
// So mappings are made by the test binary run once more.
const mapEnv = "STEPFS_TEST_MAP"

var mappers = map[string]func(path string) error{"ways": writeAllWays, "appender": writeBehindAppender}

func mapper(how, path string) int {
	if err := mappers[how](path); err != nil {
		fmt.Fprintln(os.Stderr, how+":", err)
		return 1
	}
	return 0
}

func (m *mount) runMapper(how, name string) {
	m.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), mapEnv+"="+how, mountpointEnv+"="+m.path(name))
	if out, err := cmd.CombinedOutput(); err != nil {
		m.Fatalf("%v\n%s", err, out)
	}
}

const mappedSize = 3 << 20

// piece is the i-th of a fixed series of writes.
func piece(i int) (at int64, data []byte) {
	return int64((i * 7919 * 31) % (mappedSize - 5000)), bytes.Repeat([]byte{byte('a' + i%26)}, 1+i*23%5000)
}

const pieces = 200

// TestWaysToWriteAgree mixes writes round the page cache (write-only opens),
// through it, and by a shared mapping, and reads on all ways.
func TestWaysToWriteAgree(t *testing.T) {
	m := newMount(t)
	want := bytes.Repeat([]byte{'.'}, mappedSize)
	m.write("f", string(want))
	m.runMapper("ways", "f")
	for i := range pieces {
		at, data := piece(i)
		copy(want[at:], data)
	}
	if m.cuts.count("fsync")+m.cuts.count("fdatasync") == 0 {
		t.Error("msync was no barrier")
	}
	got := make([]byte, mappedSize)
	if _, err := m.tree.Read(inoOf(t, m.path("f")), 0, got, 0); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("the tree holds something else (%v)", err)
	}
}

func writeAllWays(path string) error {
	rw, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	wo, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	mem, err := unix.Mmap(int(rw.Fd()), 0, mappedSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	for i := range pieces {
		at, data := piece(i)
		switch i % 3 {
		case 0:
			_, err = rw.WriteAt(data, at)
		case 1:
			_, err = wo.WriteAt(data, at)
		case 2:
			copy(mem[at:], data)
		}
		if err != nil {
			return err
		}
		got := make([]byte, len(data))
		if _, err := rw.ReadAt(got, at); err != nil || !bytes.Equal(got, data) || !bytes.Equal(mem[at:][:len(data)], data) {
			return fmt.Errorf("write %d at %d is not seen on all ways (%v)", i, at, err)
		}
	}
	return errors.Join(unix.Msync(mem, unix.MS_SYNC), unix.Munmap(mem), rw.Close(), wo.Close())
}

// TestMappedAppender: pages of a mapping are written back where they belong,
// also through a handle that appends.
func TestMappedAppender(t *testing.T) {
	m := newMount(t)
	m.write("f", "0123456789")
	m.runMapper("appender", "f")
	m.want("f", "01ab456789")
}

func writeBehindAppender(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, 10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	copy(mem[2:], "ab")
	return errors.Join(unix.Msync(mem, unix.MS_SYNC), unix.Munmap(mem), f.Close())
}
