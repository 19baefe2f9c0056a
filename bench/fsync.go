package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	"stepfs/integration/harness"
)

// appends appends 4 KiB and syncs, n times, and gives the time of each pair in
// milliseconds.
func appends(path string, n int) ([]float64, error) {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	src := newSource(uint64(time.Now().UnixNano()))
	var times []float64
	for i := range n {
		page := src.next()[(i%256)*4096:][:4096]
		t, err := seconds(func() error {
			if _, err := unix.Write(fd, page); err != nil {
				return err
			}
			return unix.Fsync(fd)
		})
		if err != nil {
			return nil, fmt.Errorf("append to %s: %w", path, err)
		}
		times = append(times, t*1e3)
	}
	return times, nil
}

// populate makes n files of 4 KiB in one directory and has them synced.
func populate(dir string, n int) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := createIn(dir, n); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// fsyncAppend measures barriers in a full directory with many snapshots kept.
// The barriers that are measured are themselves snapshots that are kept.
func fsyncAppend(b *bench) (Result, error) {
	r := Result{
		What:   fmt.Sprintf("fsync of a 4 KiB append, %d files in the directory", b.files),
		Target: "native + 0.6 ms median, + 4 ms p99; within 20% of 10 snapshots",
	}
	d, err := b.mount()
	if err != nil {
		return r, err
	}
	native, err := b.native()
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(native)
	for _, dir := range []string{native + "/d", d.Mnt + "/d"} {
		if err := populate(dir, b.files); err != nil {
			return r, err
		}
	}
	if err := b.barriersUpTo(d, 10); err != nil {
		return r, err
	}
	few, err := b.appendTurns(native, d.Mnt, 20)
	if err != nil {
		return r, err
	}
	if err := b.barriersUpTo(d, 1000); err != nil {
		return r, err
	}
	many, err := b.appendTurns(native, d.Mnt, 200)
	if err != nil {
		return r, err
	}
	kept, err := countBarriers(d)
	if err != nil {
		return r, err
	}
	r.add("native median", many[0].median, "ms")
	r.add("stepfs median, 1000 snapshots", many[1].median, "ms")
	r.add("stepfs median, 10 snapshots", few[1].median, "ms")
	r.add("native p99", many[0].p99, "ms")
	r.add("stepfs p99, 1000 snapshots", many[1].p99, "ms")
	r.Met = many[1].median <= many[0].median+0.6 && many[1].p99 <= many[0].p99+4 && many[1].median <= 1.2*few[1].median
	r.Note = fmt.Sprintf("each time is of the write and the fsync together; %d barriers are kept at the end", kept)
	return r, nil
}

// latency is the times of one side: the medians over the rounds.
type latency struct{ median, p99 float64 }

// appendTurns measures n appends a round on both sides in turns.
func (b *bench) appendTurns(native, mnt string, n int) ([2]latency, error) {
	var medians, p99s [2][]float64
	for round := range b.rounds + 1 {
		for side, dir := range []string{native, mnt} {
			unix.Sync()
			times, err := appends(filepath.Join(dir, "d", "log"), n)
			if err != nil {
				return [2]latency{}, err
			}
			progress("round %d, side %d: median %.3f ms, p99 %.3f ms", round, side, percentile(times, 50), percentile(times, 99))
			if round > 0 {
				medians[side] = append(medians[side], percentile(times, 50))
				p99s[side] = append(p99s[side], percentile(times, 99))
			}
		}
	}
	var out [2]latency
	for side := range out {
		out[side] = latency{percentile(medians[side], 50), percentile(p99s[side], 50)}
	}
	return out, nil
}

// barriersUpTo makes barriers until so many are kept.
func (b *bench) barriersUpTo(d *harness.Daemon, n int) error {
	kept, err := countBarriers(d)
	if err != nil || kept >= n {
		return err
	}
	_, err = appends(d.Mnt+"/d/log", n-kept)
	return err
}

func countBarriers(d *harness.Daemon) (int, error) {
	dir, err := os.Open(d.Mnt + "/snapshots/.barriers")
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	return len(names), err
}

// fsyncBesideOthers measures one small fsync right after another process has
// closed gigabytes without syncing them.
func fsyncBesideOthers(b *bench) (Result, error) {
	r := Result{
		What:   fmt.Sprintf("fsync of 4 KiB after another process closed %d MiB", b.closedMiB),
		Target: "0.5 of native's time, or the plain figure (native + 0.6 ms)",
	}
	native := func() (float64, error) {
		dir, err := b.native()
		if err != nil {
			return 0, err
		}
		defer os.RemoveAll(dir)
		return b.smallFsync(dir)
	}
	stepfs := func() (float64, error) {
		d, err := b.mount()
		if err != nil {
			return 0, err
		}
		defer b.discard(d)
		return b.smallFsync(d.Mnt)
	}
	m, err := b.turns(native, stepfs)
	if err != nil {
		return r, err
	}
	plain, err := b.plainFsync()
	if err != nil {
		return r, err
	}
	r.add("native", m[0], "ms")
	r.add("stepfs", m[1], "ms")
	r.add("native, quiet disk", plain, "ms")
	r.Met = m[1] <= 0.5*m[0] || m[1] <= plain+0.6
	return r, nil
}

// smallFsync has a child write and close a big file, then times one append.
// The log exists and was synced before: what is measured is the barrier.
func (b *bench) smallFsync(dir string) (float64, error) {
	log := filepath.Join(dir, "log")
	if _, err := appends(log, 3); err != nil {
		return 0, err
	}
	if err := b.childWrite(filepath.Join(dir, "big"), b.closedMiB); err != nil {
		return 0, err
	}
	times, err := appends(log, 1)
	if err != nil {
		return 0, err
	}
	return times[0], nil
}

func (b *bench) plainFsync() (float64, error) {
	dir, err := b.native()
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	unix.Sync()
	times, err := appends(dir+"/log", 50)
	return percentile(times, 50), err
}
