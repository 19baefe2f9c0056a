package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stepfs/fs/stage"
	"stepfs/internal/schema"
	"stepfs/internal/simdisk"
)

// TestSweptFileIsDurablyDead: a file that was synced is unlinked, and the daemon
// dies before it has synced the record that frees its content. The next one
// finds a staging file that nobody claims, and removes it. When power fails then,
// the file is gone by its name as well, or all of it is there. (It is excluded,
// since no snapshot then keeps the content, and none syncs the journal.)
func TestSweptFileIsDurablyDead(t *testing.T) {
	disk := newDisk()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	conf := storeConf{boot: "boot", exclude: excludes}
	s, err := open(disk, conf)
	ok(err)
	a, fh, err := s.tree.Create(stage.RootIno, "x.tmp", 0o644, unix.O_RDWR, stage.Cred{})
	ok(err)
	data := noise(rand.New(rand.NewPCG(1, 1)), 80000)
	_, err = s.tree.Write(a.Ino, fh, data, 0)
	ok(err)
	ok(s.tree.Flush(a.Ino, fh, false))
	s.tree.Release(a.Ino, fh)
	_, err = s.m.Barrier(ctx, "fsync", a.Ino)
	ok(err)
	killed := make(chan *simdisk.Disk, 1)
	disk.Before(func(op simdisk.Op) error {
		if op.Kind == simdisk.Sync && strings.HasPrefix(op.Path, "s/journal") && doomed(t, disk) {
			select {
			case killed <- disk.Kill():
			default:
			}
		}
		return nil
	})
	ok(s.tree.Unlink(stage.RootIno, "x.tmp"))
	var left *simdisk.Disk
	select {
	case left = <-killed:
	case <-time.After(time.Minute):
		t.Fatal("its content was never freed: nothing proved")
	}
	disk.Before(nil)
	ok(s.close(false))

	var mu sync.Mutex
	swept := false
	var after *simdisk.Disk // as the first operation behind the removal finds it
	left.Before(func(op simdisk.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if swept && after == nil && op.Changes() {
			after = left.Kill()
		}
		swept = swept || op.Kind == simdisk.Remove && strings.HasPrefix(op.Path, stagingDir)
		return nil
	})
	s, err = open(left, storeConf{boot: "boot", passive: true})
	ok(err)
	left.Before(nil)
	mu.Lock()
	defer mu.Unlock()
	if after == nil {
		after = left.Kill()
	}
	ok(s.close(false))
	if !swept {
		t.Fatal("no staging file was swept: nothing proved")
	}
	for seed := range uint64(32) {
		s, err := open(after.Cut(rand.New(rand.NewPCG(seed, 1))), storeConf{boot: fmt.Sprint("cut", seed), passive: true})
		ok(err)
		live, err := s.live()
		if err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		if v, there := live["x.tmp"]; there && v.data != string(data) {
			t.Errorf("seed %d: %s was synced, and is %s", seed, brief(string(data)), brief(v.data))
		}
		found, err := s.findings(true)
		ok(err)
		if len(found) > 0 {
			t.Errorf("seed %d: the check finds %+v", seed, found)
		}
		ok(s.close(false))
	}
}

// doomed says whether a staging file waits for being unlinked.
func doomed(t *testing.T, disk *simdisk.Disk) bool {
	eng, err := metadata(disk.Kill())
	if err != nil {
		t.Error(err)
		return false
	}
	defer func() { _ = eng.Close(false) }()
	_, _, err = eng.First([]byte{schema.PrefixDoomed})
	return err == nil
}
