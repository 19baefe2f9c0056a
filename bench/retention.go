package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"stepfs/integration/harness"
)

// The steps that the prune row makes and forgets: one file of stepMiB, and so
// many small ones that each step has 111 chunks of its own or a few more.
const (
	stepMiB   = 4
	stepFiles = 108
	smallKiB  = 8
)

// pruneBesideWriter makes many steps, forgets nine in ten of them, and
// measures what a writer at full speed loses while they are pruned.
func pruneBesideWriter(b *bench) (Result, error) {
	gone := b.steps * 9 / 10
	r := Result{
		What: fmt.Sprintf("forget and prune of %d of %d steps of %d MiB and %d files of %d KiB under a writer",
			gone, b.steps, stepMiB, stepFiles, smallKiB),
		Target: "the writer at 0.8 of its speed without; all dead packs' bytes back",
	}
	d, err := b.mount("--seal-quiet", "1h")
	if err != nil {
		return r, err
	}
	for k := 1; k <= b.steps; k++ {
		if err := b.namedStep(d, k); err != nil {
			return r, err
		}
	}
	if _, err := b.root.Must("drain", d.Store); err != nil {
		return r, err
	}
	packs, err := bytesBelow(d.Store + "/packs")
	if err != nil {
		return r, err
	}
	chunks, err := b.number("stats", d, "chunks")
	if err != nil {
		return r, err
	}
	alone, err := writeFor(d.Mnt+"/w", 8*time.Second, nil)
	if err != nil {
		return r, err
	}
	names := []string{"forget", d.Store}
	for k := 1; k <= gone; k++ {
		names = append(names, fmt.Sprint("s", k))
	}
	forget, err := seconds(func() error { _, err := b.root.Must(names...); return err })
	if err != nil {
		return r, err
	}
	var took float64
	var pruneErr error
	var done atomic.Bool
	go func() {
		defer done.Store(true)
		took, pruneErr = seconds(func() error { _, err := b.root.Must("prune", d.Store, "--wait"); return err })
	}()
	beside, err := writeFor(d.Mnt+"/w", time.Minute, &done)
	if err == nil {
		err = pruneErr
	}
	if err != nil {
		return r, err
	}
	left, err := bytesBelow(d.Store + "/packs")
	if err != nil {
		return r, err
	}
	idle, err := seconds(func() error { _, err := b.root.Must("prune", d.Store, "--wait"); return err })
	if err != nil {
		return r, err
	}
	r.add("writer alone", alone, "MB/s")
	r.add("writer beside prune", beside, "MB/s")
	r.add("forget", forget*1e3/float64(gone), "ms a step")
	r.add("prune", took, "s")
	r.add("chunks before", chunks, "")
	r.add("packs before", float64(packs)/1e6, "MB")
	r.add("packs after", float64(left)/1e6, "MB")
	r.add("prune with nothing to do", idle*1e3, "ms")
	back := float64(packs-left) / (0.9 * float64(packs))
	r.add("of the dead bytes, back", 100*back, "%")
	r.Met = beside >= 0.8*alone && back >= 0.95
	r.Note = "packs that are dead by less than half wait for more; the writer writes and removes files of 64 MiB; the times of forget and prune are of the whole command"
	return r, nil
}

// namedStep writes a checkpoint, seals it under a name and deletes it.
func (b *bench) namedStep(d *harness.Daemon, k int) error {
	path := filepath.Join(d.Mnt, "step")
	if err := os.Mkdir(path, 0o755); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(path, "model.bin"), uint64(k), stepMiB, false); err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(uint64(k), 1))
	small := make([]byte, smallKiB<<10)
	for f := range stepFiles {
		for i := 0; i < len(small); i += 8 {
			binary.LittleEndian.PutUint64(small[i:], random.Uint64())
		}
		if err := os.WriteFile(filepath.Join(path, fmt.Sprint("f", f)), small, 0o644); err != nil {
			return err
		}
	}
	if err := os.Mkdir(filepath.Join(d.Mnt, "snapshots", fmt.Sprint("s", k)), 0o755); err != nil {
		return err
	}
	return os.RemoveAll(path)
}

// writeFor writes and removes files until the time is over, or done, and gives
// the MB/s.
func writeFor(path string, limit time.Duration, done *atomic.Bool) (float64, error) {
	const mib = 64
	start, n := time.Now(), 0
	for time.Since(start) < limit && (done == nil || !done.Load()) {
		if err := writeFile(path, uint64(n), mib, false); err != nil {
			return 0, err
		}
		if err := os.Remove(path); err != nil {
			return 0, err
		}
		n++
	}
	return float64(n*mib) * (1 << 20) / 1e6 / time.Since(start).Seconds(), nil
}

// bytesBelow adds up the sizes of the files in a directory.
func bytesBelow(dir string) (sum int64, err error) {
	es, err := os.ReadDir(dir)
	for _, e := range es {
		if info, err := e.Info(); err == nil {
			sum += info.Size()
		}
	}
	return sum, err
}

// syncingDatabase has SQLite commit again and again in the mount: with the
// retention of barriers shortened, space must stay bounded and the last
// commits be as fast as the first.
func syncingDatabase(b *bench) (Result, error) {
	r := Result{
		What:   fmt.Sprintf("%d commits of a SQLite database, barriers kept for 10 s and the newest 100", b.commits),
		Target: "space bounded; the last tenth within 20% of the first",
	}
	d, err := b.mount()
	if err != nil {
		return r, err
	}
	if _, err := b.root.Must("policy", d.Store, "set", "keep-barriers=10s", "keep-barriers-last=100"); err != nil {
		return r, err
	}
	res, err := harness.Run("/usr/bin/python3", "bench/commits.py", filepath.Join(d.Mnt, "db"), fmt.Sprint(b.commits))
	if err != nil {
		return r, err
	}
	if res.Code != 0 {
		return r, fmt.Errorf("commits.py: exit code %d: %s", res.Code, res.Both())
	}
	var rates struct{ First, Last float64 }
	if err := json.Unmarshal([]byte(strings.TrimSpace(res.Stdout)), &rates); err != nil {
		return r, err
	}
	used, err := b.number("status", d, "used_bytes")
	if err != nil {
		return r, err
	}
	kept, err := countBarriers(d)
	if err != nil {
		return r, err
	}
	r.add("first tenth", rates.First, "commits/s")
	r.add("last tenth", rates.Last, "commits/s")
	r.add("store at the end", used/1e6, "MB")
	r.add("barriers kept", float64(kept), "")
	r.Met = rates.Last >= 0.8*rates.First && used < 1e9
	return r, nil
}
