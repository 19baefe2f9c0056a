package state

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"

	"stepfs/internal/schema"
)

// TestIndexOnFullDisk: on a disk that others have filled to the last byte the
// index can be flushed or not, and nobody dies of it; what was acknowledged is
// there when the store is opened again.
func TestIndexOnFullDisk(t *testing.T) {
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=24m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(disk, unix.MNT_DETACH) })
	if err := os.Mkdir(filepath.Join(disk, "s"), 0o700); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Dir: filepath.Join(disk, "s"), FS: vfs.Default, BootID: "b", MemTable: 256 << 10, SegmentSize: 1 << 20, Cache: 1 << 20}
	e, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	n, flushes := uint64(0), 0
	work := func() {
		t.Helper()
		for range 50 {
			put(t, e, n)
			n++
		}
		if err := e.Flush(); err == nil {
			flushes++
		}
	}
	work()
	// A table's worth of room, and then none: the flush gets its table, and
	// not a byte more.
	other, err := os.Create(filepath.Join(disk, "other"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	fillBut := func(left int64) {
		t.Helper()
		for {
			var st unix.Statfs_t
			i, err := other.Stat()
			if err := errors.Join(err, unix.Statfs(disk, &st)); err != nil {
				t.Fatal(err)
			}
			room := int64(st.Bavail)*st.Bsize - left
			if room <= 0 {
				return
			}
			// The journal prepares a segment, and may be faster.
			if err := unix.Fallocate(int(other.Fd()), 0, i.Size(), room); err != nil && !isNoSpace(err) {
				t.Fatal(err)
			}
		}
	}
	for _, left := range []int64{16 << 10, 12 << 10, 8 << 10, 4 << 10} {
		fillBut(left)
		work()
	}
	t.Logf("%d flushes on a disk that is full", flushes-1)
	if flushes < 2 {
		t.Error("nothing was flushed: this proves nothing")
	}
	for refused := false; !refused; n++ { // what Pebble has replaced goes a moment later
		fillBut(0)
		put(t, e, n)
		err := e.Flush()
		if refused = isNoSpace(err); err != nil && !refused {
			t.Fatal(err)
		}
	}
	if err := e.Close(true); err != nil {
		t.Errorf("closed on a full disk: %v", err)
	}
	if err := os.Remove(other.Name()); err != nil {
		t.Fatal(err)
	}
	other.Close()
	if e, err = Open(cfg); err != nil {
		t.Fatal(err)
	}
	defer e.Close(true)
	for k := range n {
		if _, err := e.Get(schema.Numbered(schema.PrefixSlot, k)); err != nil {
			t.Fatalf("key %d of %d: %v", k, n, err)
		}
	}
}

// TestStoreIsGone: the store's directory was deleted. Closing comes to an end.
func TestStoreIsGone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "s")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	e, err := Open(Config{Dir: dir, FS: vfs.Default, BootID: "b", SegmentSize: 1 << 20, Cache: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	put(t, e, 1)
	for os.RemoveAll(dir) != nil { // the journal may be making a segment
	}
	_ = e.Close(true) // it may say so, or not
}
