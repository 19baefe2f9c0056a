package sim

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"

	"stepfs/fs/stage"
	"stepfs/internal/simdisk"
)

// TestAdoptedPackIsDurable: the daemon dies after it has named a pack and
// before it has synced that name. The next one finds the pack and indexes it;
// when power fails then, the pack is still there.
func TestAdoptedPackIsDurable(t *testing.T) {
	disk := newDisk()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	s, err := open(disk, storeConf{boot: "boot"})
	ok(err)
	var killed *simdisk.Disk
	disk.Before(func(op simdisk.Op) error {
		if killed == nil && op.Kind == simdisk.SyncDir && op.Path == "s/packs" {
			killed = disk.Kill()
		}
		return nil
	})
	a, fh, err := s.tree.Create(stage.RootIno, "f", 0o644, unix.O_RDWR, stage.Cred{})
	ok(err)
	_, err = s.tree.Write(a.Ino, fh, noise(rand.New(rand.NewPCG(1, 1)), 80000), 0)
	ok(err)
	ok(s.tree.Flush(a.Ino, fh, false))
	ok(s.m.Drain(ctx, nil))
	disk.Before(nil)
	ok(s.close(false))
	if killed == nil {
		t.Fatal("no pack was named: nothing proved")
	}
	s, err = open(killed, storeConf{boot: "boot", passive: true})
	ok(err)
	defer func() { ok(s.close(false)) }()
	for seed := range uint64(16) {
		left, err := open(killed.Cut(rand.New(rand.NewPCG(seed, 1))), storeConf{boot: fmt.Sprint("cut", seed), passive: true})
		ok(err)
		found, err := left.findings(true)
		ok(err)
		if len(found) > 0 {
			t.Errorf("seed %d: the check finds %+v", seed, found)
		}
		ok(left.close(false))
	}
}
