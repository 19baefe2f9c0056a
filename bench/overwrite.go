package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"stepfs/integration/harness"
)

// syncEvery is after how many page writes the overwrite row calls fsync.
const syncEvery = 100

// overwriteRandomly writes pages of a big file in random order with an fsync
// after each hundred. Then it goes on with a smaller file, until each of its
// pages was overwritten many times, and watches the store's space: barriers are
// kept for a short time, so that prune has as much to do as there is.
func overwriteRandomly(b *bench) (Result, error) {
	r := Result{
		What:   fmt.Sprintf("random overwrite of a file of %d MiB, 4 KiB each, fsync after each %d; then of one of %d MiB", b.overwriteMiB, syncEvery, max(1, b.overwriteMiB/16)),
		Target: "0.3 of native; space bounded",
	}
	d, err := b.mount("--seal-quiet", "1h")
	if err != nil {
		return r, err
	}
	if _, err := b.root.Must("policy", d.Store, "set", "keep-barriers=5s", "keep-barriers-last=10"); err != nil {
		return r, err
	}
	native, err := b.native()
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(native)
	for i, base := range []string{native, d.Mnt} {
		if err := writeFile(base+"/f", uint64(i+1), b.overwriteMiB, true); err != nil {
			return r, err
		}
	}
	side := func(base string) func() (float64, error) {
		return func() (float64, error) { return overwrite(base+"/f", b.overwriteMiB, 20*syncEvery) }
	}
	m, err := b.turns(side(native), side(d.Mnt))
	if err != nil {
		return r, err
	}
	r.add("native", m[0], "writes/s")
	r.add("stepfs", m[1], "writes/s")
	r.add("ratio", m[1]/m[0], "")
	if err := os.Remove(d.Mnt + "/f"); err != nil {
		return r, err
	}
	used, times, err := b.watchSpace(d, &r)
	if err != nil {
		return r, err
	}
	first, second := percentile(used[:len(used)/2], 100), percentile(used[len(used)/2:], 100)
	r.add("pages written, of the file's", times, "times")
	r.Met = m[1] >= 0.3*m[0] && second <= 1.2*first
	r.Note = "space is du of the store; the pages of one fsync share a staging file, which stays as long as one of them is current or in a barrier that is kept"
	return r, nil
}

// overwrite writes n random pages and gives the writes a second.
func overwrite(path string, mib int64, n int) (float64, error) {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	src := newSource(uint64(time.Now().UnixNano()))
	t, err := seconds(func() error {
		var pages []byte
		for i := range n {
			if i%256 == 0 {
				pages = src.next()
			}
			if _, err := unix.Pwrite(fd, pages[i%256*4096:][:4096], rand.Int64N(mib*256)*4096); err != nil {
				return err
			}
			if i%syncEvery == syncEvery-1 {
				if err := unix.Fsync(fd); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return float64(n) / t, err
}

// watchSpace overwrites a file of a sixteenth of the size and gives, for each
// tenth of the time, what the store takes on the disk in MB; and how many times
// the pages of the file were written.
func (b *bench) watchSpace(d *harness.Daemon, r *Result) (used []float64, times float64, err error) {
	path, mib := d.Mnt+"/g", max(1, b.overwriteMiB/16)
	if err := writeFile(path, 3, mib, true); err != nil {
		return nil, 0, err
	}
	tenth := time.Duration(b.overwriteSeconds) * time.Second / 10
	for k := range 10 {
		for start := time.Now(); time.Since(start) < tenth; times += syncEvery {
			if _, err := overwrite(path, mib, syncEvery); err != nil {
				return nil, 0, err
			}
		}
		n, err := diskUsage(d.Store)
		if err != nil {
			return nil, 0, err
		}
		used = append(used, float64(n)/1e6)
		r.add(fmt.Sprintf("store after %d%% of %d s", (k+1)*10, b.overwriteSeconds), float64(n)/1e6, "MB")
	}
	return used, times / float64(mib*256), nil
}
