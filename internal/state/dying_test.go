package state

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"golang.org/x/sys/unix"

	"stepfs/internal/schema"
)

// TestManifestNotSynced: a sync of the index's MANIFEST says that there is no room, as
// on NFS or with a quota. That can't be tried again, so the process ends, and says why;
// what was acknowledged is there when the store is opened with room.
func TestManifestNotSynced(t *testing.T) {
	if dir := os.Getenv("STEPFS_TEST_DYING"); dir != "" {
		die(t, dir)
		return
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestManifestNotSynced$")
	cmd.Env = append(os.Environ(), "STEPFS_TEST_DYING="+dir)
	out, err := cmd.CombinedOutput()
	said := string(out)
	if cmd.ProcessState.ExitCode() != 77 || !strings.Contains(said, "dying: index: ") || !strings.Contains(said, "no space left") || strings.Contains(said, "panic") {
		t.Fatalf("it ended with %v, and said\n%s", err, said)
	}
	acked := strings.Count(said, "acked\n")
	if acked < 10 {
		t.Fatalf("%d changes prove nothing", acked)
	}
	e, err := Open(Config{Dir: dir, FS: vfs.Default, BootID: "b"})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close(true)
	for k := range acked {
		if _, err := e.Get(schema.Numbered(schema.PrefixSlot, uint64(k))); err != nil {
			t.Fatalf("change %d of %d: %v", k, acked, err)
		}
	}
}

// die is the process that ends.
func die(t *testing.T, dir string) {
	var full atomic.Bool
	fs := errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(func(op errorfs.Op) error {
		sync := op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo
		if full.Load() && sync && strings.Contains(op.Path, "MANIFEST") {
			return unix.ENOSPC
		}
		return nil
	}))
	e, err := Open(Config{Dir: dir, FS: fs, BootID: "b", MemTable: 256 << 10, SegmentSize: 1 << 20, Cache: 1 << 20, Dying: func(err error) {
		fmt.Println("dying:", err)
		os.Exit(77)
	}})
	if err != nil {
		t.Fatal(err)
	}
	for k := range uint64(100) {
		put(t, e, k)
		if full.Store(k > 20); k == 50 {
			_ = e.Flush()
		}
		if err := e.Sync(e.Pos()); err == nil {
			fmt.Println("acked")
		}
	}
}
