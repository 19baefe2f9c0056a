package main

import (
	"fmt"
	"os"
	"time"

	"stepfs/integration/harness"
)

// manySnapshots measures what a user waits for in a store with many snapshots:
// the mount, the list, the first read.
func manySnapshots(b *bench) (Result, error) {
	r := Result{
		What:   fmt.Sprintf("%d snapshots: mount, `ls snapshots`, first read in one", b.snapshots),
		Target: "100 ms; mount ready within 1 s",
	}
	d, err := b.mount()
	if err != nil {
		return r, err
	}
	t, err := seconds(func() error { return makeSnapshots(d, b.snapshots) })
	if err != nil {
		return r, err
	}
	progress("%d snapshots made in %.1f s", b.snapshots, t)
	if _, err := b.root.Must("drain", d.Mnt); err != nil {
		return r, err
	}
	var mounts, lists, barriers, reads []float64
	for round := range b.rounds + 1 {
		m, l, bar, rd, err := b.lookAtMany(d, round)
		if err != nil {
			return r, err
		}
		progress("round %d: mount %.0f ms, ls %.1f ms, ls .barriers %.1f ms, first read %.2f ms", round, m, l, bar, rd)
		if round > 0 {
			mounts, lists, barriers, reads = append(mounts, m), append(lists, l), append(barriers, bar), append(reads, rd)
		}
	}
	r.add("mount ready", percentile(mounts, 50), "ms")
	r.add("ls snapshots", percentile(lists, 50), "ms")
	r.add("ls snapshots/.barriers", percentile(barriers, 50), "ms")
	r.add("first read", percentile(reads, 50), "ms")
	r.Met = percentile(mounts, 50) <= 1000 && percentile(lists, 50) <= 100 && percentile(reads, 50) <= 100
	r.Note = "each round on a fresh mount, right after a kill -9 in every other round"
	return r, nil
}

// makeSnapshots takes named snapshots of a small tree that changes each time.
func makeSnapshots(d *harness.Daemon, n int) error {
	for i := range n {
		if err := os.WriteFile(d.Mnt+"/state.json", fmt.Appendf(nil, `{"step": %d}`, i), 0o644); err != nil {
			return err
		}
		if err := os.Mkdir(fmt.Sprintf("%s/snapshots/s%05d", d.Mnt, i), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// lookAtMany starts anew and measures, in milliseconds.
func (b *bench) lookAtMany(d *harness.Daemon, round int) (mount, list, barriers, read float64, err error) {
	if round%2 == 0 {
		err = d.Stop()
	} else {
		err = d.Kill()
	}
	if err != nil {
		return
	}
	start := time.Now()
	if err = d.Start(); err != nil {
		return
	}
	mount = since(start)
	if list, err = listTime(d.Mnt+"/snapshots", b.snapshots); err != nil {
		return
	}
	if barriers, err = listTime(d.Mnt+"/snapshots/.barriers", 1); err != nil {
		return
	}
	which := (round*37 + 11) % b.snapshots
	start = time.Now()
	got, err := os.ReadFile(fmt.Sprintf("%s/snapshots/s%05d/state.json", d.Mnt, which))
	read = since(start)
	if want := fmt.Sprintf(`{"step": %d}`, which); err == nil && string(got) != want {
		err = fmt.Errorf("snapshot %d holds %q, want %q", which, got, want)
	}
	return
}

// listTime times a readdir, which must give at least so many names.
func listTime(dir string, least int) (float64, error) {
	start := time.Now()
	f, err := os.Open(dir)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	t := since(start)
	if err == nil && len(names) < least {
		err = fmt.Errorf("%s lists %d names, want %d", dir, len(names), least)
	}
	return t, err
}

func since(start time.Time) float64 { return time.Since(start).Seconds() * 1e3 }
