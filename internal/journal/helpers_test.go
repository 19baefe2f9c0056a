package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const testDir = "journal"

var testOptions = Options{SegmentSize: 4096, BootID: "boot-1"}

// entry is a record as the tests remember it.
type entry struct {
	end  Pos
	data []byte
}

// payload makes the bytes of record i: distinct, of length n, never all zero.
func payload(i, n int) []byte {
	b := make([]byte, n)
	rng := rand.New(rand.NewPCG(uint64(i), 7))
	for j := range b {
		b[j] = byte(rng.Uint32())
	}
	if n >= 8 {
		binary.LittleEndian.PutUint64(b, uint64(i)+1)
	}
	return b
}

func mustOpen(t testing.TB, fs vfs.FS, o Options) *Log {
	t.Helper()
	l, err := Open(fs, testDir, o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return l
}

func mustAppend(t testing.TB, l *Log, data []byte) entry {
	t.Helper()
	end, err := l.Append(data)
	if err != nil {
		t.Fatalf("Append: %v", err)
	}
	return entry{end, data}
}

func mustSync(t testing.TB, l *Log, upTo Pos) {
	t.Helper()
	if err := l.Sync(upTo); err != nil {
		t.Fatalf("Sync(%d): %v", upTo, err)
	}
}

func mustClose(t testing.TB, l *Log, clean bool) {
	t.Helper()
	if err := l.Close(clean); err != nil {
		t.Fatalf("Close(%v): %v", clean, err)
	}
}

func replay(l *Log, from Pos) (got []entry, err error) {
	err = l.Replay(from, func(pos Pos, data []byte) error {
		got = append(got, entry{pos, bytes.Clone(data)})
		return nil
	})
	return got, err
}

// checkReplay wants exactly the entries of want that lie behind from and at or
// below the recovered end.
func checkReplay(t testing.TB, l *Log, from Pos, want []entry) {
	t.Helper()
	if err := compareReplay(l, from, want); err != nil {
		t.Fatal(err)
	}
}

func compareReplay(l *Log, from Pos, want []entry) error {
	got, err := replay(l, from)
	if err != nil {
		return fmt.Errorf("Replay(%d): %w", from, err)
	}
	i := 0
	for _, w := range want {
		if w.end <= from || w.end > l.Recovered().End {
			continue
		}
		if i >= len(got) {
			return fmt.Errorf("Replay(%d): %d records, want one ending at %d next (end %d)", from, len(got), w.end, l.Recovered().End)
		}
		if got[i].end != w.end || !bytes.Equal(got[i].data, w.data) {
			return fmt.Errorf("Replay(%d): record %d ends at %d, want %d; data equal: %v", from, i, got[i].end, w.end, bytes.Equal(got[i].data, w.data))
		}
		i++
	}
	if i != len(got) {
		return fmt.Errorf("Replay(%d): %d records, want %d: a ghost ends at %d", from, len(got), i, got[i].end)
	}
	return nil
}

func readAll(t testing.TB, fs vfs.FS, path string) []byte {
	t.Helper()
	f, err := fs.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(f)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// image is the content of a journal directory.
type image map[string][]byte

func snapshotOf(t testing.TB, fs vfs.FS) image {
	t.Helper()
	names, err := fs.List(testDir)
	if err != nil {
		t.Fatal(err)
	}
	im := image{}
	for _, n := range names {
		im[n] = readAll(t, fs, fs.PathJoin(testDir, n))
	}
	return im
}

// with returns a file system that holds im, but for name, which holds data; nil
// data leaves it out.
func (im image) with(t testing.TB, name string, data []byte) *vfs.MemFS {
	t.Helper()
	fs := vfs.NewMem()
	if err := fs.MkdirAll(testDir, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(n string, b []byte) {
		f, err := fs.Create(fs.PathJoin(testDir, n), vfs.WriteCategoryUnspecified)
		if err == nil {
			if _, err = f.Write(bytes.Clone(b)); err == nil {
				err = f.Close()
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for n, b := range im {
		if n != name {
			write(n, b)
		}
	}
	if data != nil {
		write(name, data)
	}
	return fs
}

// only returns the one segment in use of im.
func (im image) only(t testing.TB) string {
	t.Helper()
	var found string
	for n, b := range im {
		if number, tmp, ok := parseName(n); ok && !tmp {
			if h, inUse, _ := decodeSegmentHeader(b); inUse && h.number == number {
				if found != "" {
					t.Fatalf("two segments in use: %s, %s", found, n)
				}
				found = n
			}
		}
	}
	return found
}

func wantCorrupt(t testing.TB, err error, file string) *CorruptError {
	t.Helper()
	var c *CorruptError
	if !errors.Is(err, ErrCorrupt) || !errors.As(err, &c) {
		t.Fatalf("got %v, want ErrCorrupt", err)
	}
	if want := testDir + "/" + file; file != "" && c.File != want {
		t.Fatalf("blames %s, want %s: %v", c.File, want, err)
	}
	return c
}
