package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// source is endless data that neither compresses nor repeats: one random MiB
// whose pages are stamped anew for each block, which costs next to nothing.
type source struct {
	block [1 << 20]byte
	stamp uint64
}

// newSource: the same seed gives the same data.
func newSource(seed uint64) *source {
	s := &source{stamp: seed << 32}
	rnd := rand.NewPCG(seed, seed)
	for i := 0; i < len(s.block); i += 8 {
		binary.LittleEndian.PutUint64(s.block[i:], rnd.Uint64())
	}
	return s
}

func (s *source) next() []byte {
	// Every 512 bytes: the smallest chunk that could repeat is far larger.
	for i := 0; i < len(s.block); i += 512 {
		s.stamp += 0x9e3779b97f4a7c15
		binary.LittleEndian.PutUint64(s.block[i:], s.stamp)
	}
	return s.block[:]
}

// writeFile writes n MiB in writes of 1 MiB to a write-only file.
func writeFile(path string, seed uint64, mib int64, sync bool) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	src := newSource(seed)
	for range mib {
		if n, err := unix.Write(fd, src.next()); err != nil || n != 1<<20 {
			unix.Close(fd)
			return fmt.Errorf("write %s: %d bytes: %w", path, n, err)
		}
	}
	if sync {
		if err := unix.Fsync(fd); err != nil {
			unix.Close(fd)
			return fmt.Errorf("fsync %s: %w", path, err)
		}
	}
	return unix.Close(fd)
}

// throughput writes, syncs and closes so many files at once and gives MB/s.
func throughput(dir string, writers int, mib int64) (float64, error) {
	errs := make([]error, writers)
	t, _ := seconds(func() error {
		var wg sync.WaitGroup
		for w := range writers {
			wg.Add(1)
			go func() {
				defer wg.Done()
				errs[w] = writeFile(filepath.Join(dir, fmt.Sprintf("model-%d.bin", w)), uint64(w+1), mib, true)
			}()
		}
		wg.Wait()
		return nil
	})
	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	return float64(int64(writers)*mib<<20) / t / 1e6, nil
}

func writeOne(b *bench) (Result, error)  { return b.write(1) }
func writeFour(b *bench) (Result, error) { return b.write(4) }

// write compares the throughput of native and stepfs. Each measurement has a
// store of its own, so that the disk does not fill and the background work of
// one does not fall into the time of the next.
func (b *bench) write(writers int) (Result, error) {
	r := Result{
		What:   fmt.Sprintf("write + fsync + close, %d × %d MiB in 1 MiB writes", writers, b.fileMiB),
		Target: "0.5 of native",
	}
	native := func() (float64, error) {
		dir, err := b.native()
		if err != nil {
			return 0, err
		}
		defer os.RemoveAll(dir)
		return throughput(dir, writers, b.fileMiB)
	}
	stepfs := func() (float64, error) {
		d, err := b.mount()
		if err != nil {
			return 0, err
		}
		defer b.discard(d)
		if err := writeFile(d.Mnt+"/warm", 99, 32, true); err != nil {
			return 0, err
		}
		unix.Sync()
		return throughput(d.Mnt, writers, b.fileMiB)
	}
	m, err := b.turns(native, stepfs)
	if err != nil {
		return r, err
	}
	r.add("native", m[0], "MB/s")
	r.add("stepfs", m[1], "MB/s")
	r.add("ratio", m[1]/m[0], "")
	r.Met = m[1] >= 0.5*m[0]
	return r, nil
}
