package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"stepfs/integration/harness"
)

// checkBytesPerCore is what check --read-data owes where the disk is faster.
const checkBytesPerCore = 1e9

// recoverStore measures what a user waits for after a crash: the mount of a store
// with many chunks and snapshots, and its check without data.
func recoverStore(b *bench) (Result, error) {
	each := max(1, b.chunks/b.recoverySnapshots)
	r := Result{
		What:   fmt.Sprintf("%d snapshots of %d new chunks each: mount after kill -9, check", b.recoverySnapshots, each),
		Target: "mount within 2 s; check 500000 chunks/s",
	}
	d, err := b.mount("--seal-quiet", "1h")
	if err != nil {
		return r, err
	}
	for k := range b.recoverySnapshots {
		if err := tinySnapshot(d, k, each); err != nil {
			return r, err
		}
	}
	if _, err := b.root.Must("drain", d.Store); err != nil {
		return r, err
	}
	chunks, err := b.number("stats", d, "chunks")
	if err != nil {
		return r, err
	}
	if chunks < float64(b.recoverySnapshots*each) {
		return r, fmt.Errorf("the store has %.0f chunks, want %d", chunks, b.recoverySnapshots*each)
	}
	m, err := b.turns(
		func() (float64, error) { return mountAfterKill(d, each) },
		func() (float64, error) {
			return seconds(func() error { _, err := b.root.Must("check", d.Store); return err })
		})
	if err != nil {
		return r, err
	}
	r.add("chunks", chunks, "")
	r.add("mount ready", m[0], "s")
	r.add("check", m[1], "s")
	r.add("check", chunks/m[1], "chunks/s")
	r.Met = m[0] <= 2 && chunks/m[1] >= 500_000
	r.Note = "a kill comes right after writes that nobody synced; every file is a generation of its own, the dearest shape for check; the check is the whole command beside the mount, and walks every snapshot, too"
	return r, nil
}

// tinySnapshot rewrites n small files, each a chunk of its own, and seals them.
func tinySnapshot(d *harness.Daemon, k, n int) error {
	if err := tinyFiles(d, k, n); err != nil {
		return err
	}
	return os.Mkdir(fmt.Sprintf("%s/snapshots/s%05d", d.Mnt, k), 0o755)
}

func tinyFiles(d *harness.Daemon, k, n int) error {
	for i := range n {
		data := binary.BigEndian.AppendUint64(nil, uint64(k)<<32|uint64(i))
		if err := os.WriteFile(fmt.Sprintf("%s/f%03d", d.Mnt, i), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// mountAfterKill kills the daemon behind unsynced writes and times the mount.
func mountAfterKill(d *harness.Daemon, n int) (float64, error) {
	if err := tinyFiles(d, math.MaxInt32, n); err != nil {
		return 0, err
	}
	if err := d.Kill(); err != nil {
		return 0, err
	}
	return seconds(d.Start)
}

// checkLarge measures the check of what training leaves: many chunks in few files.
// Chunks of the usual size would take terabytes, so each is an island in a hole.
func checkLarge(b *bench) (Result, error) {
	const each, island = 10_000, 4 << 10
	files := max(1, b.chunks/each)
	r := Result{
		What:   fmt.Sprintf("%d files of %d chunks: check", files, each),
		Target: "500000 chunks/s",
	}
	d, err := b.mount("--seal-quiet", "1h")
	if err != nil {
		return r, err
	}
	for k := range files {
		if err := writeIslands(fmt.Sprintf("%s/f%03d", d.Mnt, k), int64(k), each, island); err != nil {
			return r, err
		}
	}
	if err := os.Mkdir(d.Mnt+"/snapshots/all", 0o755); err != nil {
		return r, err
	}
	if _, err := b.root.Must("drain", d.Store); err != nil {
		return r, err
	}
	chunks, err := b.number("stats", d, "chunks")
	if err != nil {
		return r, err
	}
	if chunks < float64(files*each) {
		return r, fmt.Errorf("the store has %.0f chunks, want %d", chunks, files*each)
	}
	m, err := b.turns(func() (float64, error) {
		return seconds(func() error { _, err := b.root.Must("check", d.Store); return err })
	})
	if err != nil {
		return r, err
	}
	r.add("chunks", chunks, "")
	r.add("check", m[0], "s")
	r.add("check", chunks/m[0], "chunks/s")
	r.Met = chunks/m[0] >= 500_000
	return r, nil
}

// writeIslands writes n islands of random bytes with holes between them.
func writeIslands(path string, seed int64, n, size int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	random := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	data := make([]byte, size)
	for i := range n {
		if _, err = random.Read(data); err == nil {
			_, err = f.WriteAt(data, 2*int64(i)*int64(size))
		}
		if err != nil {
			break
		}
	}
	return errors.Join(err, f.Close())
}

// readData compares check --read-data with a plain read of the same packs and hot copies.
func readData(b *bench) (Result, error) {
	r := Result{
		What:   fmt.Sprintf("check --read-data of %d MiB, half random, half float32", 2*b.checkMiB),
		Target: "0.8 of a plain read of the same files, or 1 GB/s a core",
	}
	d, err := b.mount("--seal-quiet", "1h")
	if err != nil {
		return r, err
	}
	if err := writeFile(d.Mnt+"/random", 1, b.checkMiB, false); err != nil {
		return r, err
	}
	if err := writeFloats(d.Mnt+"/float32", b.checkMiB); err != nil {
		return r, err
	}
	if err := os.Mkdir(d.Mnt+"/snapshots/all", 0o755); err != nil {
		return r, err
	}
	if _, err := b.root.Must("drain", d.Store); err != nil {
		return r, err
	}
	for _, name := range []string{"/random", "/float32"} {
		if err := os.Remove(d.Mnt + name); err != nil {
			return r, err
		}
	}
	if err := d.Stop(); err != nil {
		return r, err
	}
	// What only the snapshot shows has its hot copy still, which check reads, too.
	data := [...]string{d.Store + "/packs", d.Store + "/staging"}
	total := int64(0)
	for _, dir := range data {
		err := eachFile(dir, func(p string) error {
			info, err := os.Stat(p)
			if err == nil {
				total += info.Size()
			}
			return err
		})
		if err != nil {
			return r, err
		}
	}
	check := func() error { _, err := b.root.Must("check", "--read-data", d.Store); return err }
	plain := func() error {
		for _, dir := range data {
			if err := eachFile(dir, func(p string) error { _, err := readRate(p); return err }); err != nil {
				return err
			}
		}
		return nil
	}
	r.Met = true
	for _, caches := range []string{"cold", "warm"} {
		side := func(f func() error) func() (float64, error) {
			return func() (float64, error) {
				if caches == "cold" {
					if err := eachFile(d.Store, forgetPages); err != nil {
						return 0, err
					}
				}
				t, err := seconds(f)
				return float64(total) / t, err
			}
		}
		m, err := b.turns(side(plain), side(check))
		if err != nil {
			return r, err
		}
		r.add(caches+", plain read", m[0]/1e6, "MB/s")
		r.add(caches+", check", m[1]/1e6, "MB/s")
		r.add(caches+", ratio", m[1]/m[0], "")
		r.Met = r.Met && m[1] >= min(0.8*m[0], checkBytesPerCore*float64(runtime.NumCPU()))
	}
	r.add("packs and hot copies", float64(total)/1e6, "MB")
	r.Note = "bytes are those of packs and hot copies on both sides; cold: the store's pages were dropped before each run"
	return r, nil
}

// writeFloats writes weights as a training run has them: float32, normal.
func writeFloats(path string, mib int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	random := rand.New(rand.NewPCG(2, 2))
	var word [4]byte
	for range mib << 18 {
		binary.LittleEndian.PutUint32(word[:], math.Float32bits(float32(random.NormFloat64()*0.02)))
		w.Write(word[:]) // the error stays for Flush
	}
	return errors.Join(w.Flush(), f.Close())
}

// eachFile calls f with every regular file below dir.
func eachFile(dir string, f func(path string) error) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		return f(path)
	})
}

// forgetPages takes a clean file out of the page cache.
func forgetPages(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}
