package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"stepfs/integration/harness"
)

var errNameTooLong = unix.ENAMETOOLONG

const diskSize = 400 << 20

// onSmallDisk mounts a store on a small disk of its own, with a ballast on the
// disk that a test can throw out to make room.
func onSmallDisk(t *testing.T, ballast int64) (*harness.Daemon, *harness.LoopFS) {
	t.Helper()
	disk, err := root.NewLoopFS("ext4", diskSize)
	must(t, err)
	t.Cleanup(func() { must(t, disk.Close()) })
	grow(t, disk, ballast)
	d := prepare(t, "--seal-quiet", "200ms")
	d.Store = disk.Dir + "/store"
	must(t, d.Start())
	return d, disk
}

// grow puts n more bytes of somebody else's on the disk.
func grow(t *testing.T, disk *harness.LoopFS, n int64) {
	t.Helper()
	f, err := os.OpenFile(disk.Dir+"/ballast", os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	defer f.Close()
	info, err := f.Stat()
	must(t, err)
	must(t, unix.Fallocate(int(f.Fd()), 0, info.Size(), n))
}

// writeUntilFull writes files until a write fails, and gives what was
// acknowledged of each. The error must come from write(2), and be ENOSPC.
func writeUntilFull(t *testing.T, dir string, rnd *rand.Rand) map[string][]byte {
	t.Helper()
	acked := map[string][]byte{}
	for i := 0; ; i++ {
		path := filepath.Join(dir, fmt.Sprintf("f%d", i))
		f, err := os.Create(path)
		if errors.Is(err, unix.ENOSPC) {
			return acked
		}
		must(t, err)
		acked[path] = nil
		for len(acked[path]) < 8<<20 {
			data := make([]byte, 1+rnd.Intn(1<<20))
			rnd.Read(data)
			n, err := f.Write(data)
			acked[path] = append(acked[path], data[:n]...)
			if errors.Is(err, unix.ENOSPC) {
				// What was acknowledged must still be possible to sync.
				if err := f.Sync(); err != nil {
					t.Errorf("fsync after ENOSPC: %v", err)
				}
				must(t, f.Close())
				return acked
			}
			must(t, err)
		}
		if err := f.Close(); err != nil {
			t.Fatalf("close said %v: the error is late, every write was acknowledged", err)
		}
		if i > 2*diskSize>>23 {
			t.Fatal("the disk does not get full")
		}
	}
}

func readable(t *testing.T, acked map[string][]byte, when string) {
	t.Helper()
	for path, want := range acked {
		holds(t, path, want, when)
	}
}

// TestFullDisk fills the disk by writing: ENOSPC comes at once and to the
// writer, what was acknowledged stays readable and can be stored, and work goes
// on when there is room again.
func TestFullDisk(t *testing.T) {
	d, disk := onSmallDisk(t, 120<<20)
	rnd := rand.New(rand.NewSource(seed(t)))
	acked := writeUntilFull(t, d.Mnt, rnd)
	total := 0
	for _, b := range acked {
		total += len(b)
	}
	t.Logf("%d MiB acknowledged in %d files before ENOSPC", total>>20, len(acked))
	if total < 8<<20 {
		t.Error("hardly anything was written: this proves nothing")
	}
	readable(t, acked, "on the full disk")
	restart(t, d)
	readable(t, acked, "on the full disk, after kill -9")

	// The room for the packs was set aside when the writes were acknowledged.
	if res, err := root.Stepfs("drain", d.Mnt); err != nil || res.Code != 0 {
		t.Errorf("drain on the full disk: %v, exit code %d: %s", err, res.Code, res.Both())
	}
	readable(t, acked, "on the full disk, after drain")

	must(t, os.Remove(disk.Dir+"/ballast"))
	more := bytes.Repeat([]byte("room again"), 1<<20)
	eventually(t, "writes go on by themselves", func() bool {
		return os.WriteFile(d.Mnt+"/more", more, 0o644) == nil
	})
	snap := snapshotNow(t, d, "after")
	holds(t, snap+"/more", more, "in a snapshot, when there was room again")
	readable(t, acked, "when there was room again")
	must(t, d.Stop())
	must(t, d.Start())
	readable(t, acked, "after a restart")
	holds(t, snap+"/more", more, "after a restart")
}

// TestDiskFilledByOthers: somebody else takes the last byte, at every stage of
// our work. No daemon dies of it, nothing acknowledged is lost.
func TestDiskFilledByOthers(t *testing.T) {
	d, disk := onSmallDisk(t, 1<<20)
	rnd := rand.New(rand.NewSource(seed(t)))
	acked := map[string][]byte{}
	refusals := 0
	for round := range 12 {
		free, err := disk.Free()
		must(t, err)
		if keep := int64(rnd.Intn(24 << 20)); free > keep {
			grow(t, disk, free-keep)
		}
		refusals += writeOnTight(t, d, acked, rnd, round)
		readable(t, acked, "while others fill the disk")
		if !d.Running() {
			t.Fatalf("round %d: the daemon is gone\n%s", round, d.Output())
		}
		if round%4 == 3 { // recover in want
			must(t, d.Kill())
			if err := d.Start(); err != nil {
				noPanic(t, err.Error())
				must(t, os.Remove(disk.Dir+"/ballast"))
				must(t, d.Start())
			}
			readable(t, acked, "after kill -9 in want")
		}
		os.Remove(disk.Dir + "/ballast")
		eventually(t, "writes go on by themselves", func() bool {
			return os.WriteFile(d.Mnt+"/probe", []byte("probe"), 0o644) == nil
		})
	}
	t.Logf("%d files acknowledged, %d calls refused with ENOSPC", len(acked), refusals)
	if refusals == 0 || len(acked) == 0 {
		t.Error("nothing was refused, or nothing written: this proves nothing")
	}
	_, err := root.Must("drain", d.Mnt)
	must(t, err)
	readable(t, acked, "after drain")
	noPanic(t, d.Output())
}

// writeOnTight makes barriers, snapshots and files on a disk that is nearly
// full, and counts what is refused; a refusal must be ENOSPC.
func writeOnTight(t *testing.T, d *harness.Daemon, acked map[string][]byte, rnd *rand.Rand, round int) (refusals int) {
	t.Helper()
	for i := range 12 {
		path := filepath.Join(d.Mnt, fmt.Sprintf("r%d-%d", round, i))
		data := make([]byte, 1+rnd.Intn(1<<20))
		rnd.Read(data)
		got, err := writeAndSync(path, data)
		if len(got) > 0 {
			acked[path] = got
		}
		if err == nil && i%4 == 0 {
			err = os.Mkdir(fmt.Sprintf("%s/snapshots/tight-%d-%d", d.Mnt, round, i), 0o755)
		}
		if err != nil {
			refusals++
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatalf("round %d, file %d: %v, want ENOSPC\n%s", round, i, err, d.Output())
			}
		}
	}
	return refusals
}

// writeAndSync gives what was acknowledged, and the first error.
func writeAndSync(path string, data []byte) (acked []byte, err error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	n, err := f.Write(data)
	if err != nil {
		return data[:n], err
	}
	if err := f.Sync(); err != nil {
		return data, err
	}
	_, err = f.Seek(0, io.SeekStart)
	return data, err
}
