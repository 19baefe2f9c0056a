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
// after each hundred, and watches the store's space meanwhile: barriers are
// kept for a short time, so that prune has as much to do as there is.
func overwriteRandomly(b *bench) (Result, error) {
	r := Result{
		What:   fmt.Sprintf("random overwrite of a file of %d MiB, 4 KiB each, fsync after each %d", b.overwriteMiB, syncEvery),
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
	used, err := b.watchSpace(d, &r)
	if err != nil {
		return r, err
	}
	n := len(used)
	r.Met = m[1] >= 0.3*m[0] && percentile(used[n/2:], 100) <= 1.25*percentile(used[:n/2], 100)+64
	r.Note = fmt.Sprintf("space: du of the store at each tenth of %d s of overwriting, with barriers kept for 5 s and the newest 10; what bounds it is the file, the pages of barriers that are kept, and the journal", b.overwriteSeconds)
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

// watchSpace goes on overwriting and gives, for each tenth of the time, what
// the store takes on the disk in MB.
func (b *bench) watchSpace(d *harness.Daemon, r *Result) (used []float64, err error) {
	tenth := time.Duration(b.overwriteSeconds) * time.Second / 10
	for k := range 10 {
		written := 0
		for start := time.Now(); time.Since(start) < tenth; written += syncEvery {
			if _, err := overwrite(d.Mnt+"/f", b.overwriteMiB, syncEvery); err != nil {
				return nil, err
			}
		}
		n, err := diskUsage(d.Store)
		if err != nil {
			return nil, err
		}
		used = append(used, float64(n)/1e6)
		r.add(fmt.Sprintf("store after %d%%, %d writes", (k+1)*10, written), float64(n)/1e6, "MB")
	}
	return used, nil
}
