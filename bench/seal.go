package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"stepfs/integration/harness"
)

// sealCost compares writes and fsyncs in a step's directory with sealing on and
// off. Both daemons run all the time; turns go to and fro between them.
func sealCost(b *bench) (Result, error) {
	r := Result{
		What:   fmt.Sprintf("%d MiB written, and 4 KiB appended and synced, in a step's directory: sealing on against off", b.fileMiB/2),
		Target: "ratio 0.98",
	}
	var on, off *harness.Daemon
	for _, d := range []struct {
		to   **harness.Daemon
		args []string
	}{{&on, nil}, {&off, []string{"--no-seal"}}} {
		var err error
		if *d.to, err = b.mount(append(d.args, "--hot-limit", "1G")...); err != nil {
			return r, err
		}
		if err := os.Mkdir((*d.to).Mnt+"/checkpoint-1", 0o755); err != nil {
			return r, err
		}
		// Never sealed, so that ingest does not fall into the time of the next turn.
		open, err := os.Create((*d.to).Mnt + "/checkpoint-1/open")
		if err != nil {
			return r, err
		}
		defer open.Close()
	}
	writes := func(d *harness.Daemon) func() (float64, error) {
		return func() (float64, error) {
			path := d.Mnt + "/checkpoint-1/model.bin"
			t, err := seconds(func() error { return writeFile(path, 1, b.fileMiB/2, true) })
			return float64(b.fileMiB/2<<20) / 1e6 / t, err
		}
	}
	syncs := func(d *harness.Daemon) func() (float64, error) {
		return func() (float64, error) {
			times, err := appends(d.Mnt+"/checkpoint-1/log", 400)
			return percentile(times, 50), err
		}
	}
	w, err := b.turns(writes(on), writes(off))
	if err != nil {
		return r, err
	}
	s, err := b.turns(syncs(on), syncs(off))
	if err != nil {
		return r, err
	}
	r.add("writes, on", w[0], "MB/s")
	r.add("writes, off", w[1], "MB/s")
	r.add("ratio", w[0]/w[1], "")
	r.add("append and fsync, on", s[0], "ms")
	r.add("append and fsync, off", s[1], "ms")
	r.add("ratio", s[1]/s[0], "")
	r.Met = w[0] >= 0.98*w[1] && s[1] >= 0.98*s[0]
	return r, nil
}

// sealVisible writes a checkpoint as the Trainer of Hugging Face does and
// measures how long after the commit point's close it is there as a step.
func sealVisible(b *bench) (Result, error) {
	r := Result{
		What:   fmt.Sprintf("a step of %d MiB is visible after its commit point", b.fileMiB),
		Target: "1 s",
	}
	d, err := b.mount()
	if err != nil {
		return r, err
	}
	k := 0
	m, err := b.turns(func() (float64, error) {
		k++
		dir := filepath.Join(d.Mnt, fmt.Sprint("checkpoint-", k))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return 0, err
		}
		if err := writeFile(dir+"/weights.bin", uint64(k), b.fileMiB, false); err != nil {
			return 0, err
		}
		time.Sleep(time.Second) // already closed, as the issue has it
		if err := os.WriteFile(dir+"/trainer_state.json", fmt.Appendf(nil, `{"global_step": %d}`, k), 0o644); err != nil {
			return 0, err
		}
		t, err := seconds(func() error { return waitFor(fmt.Sprint(d.Mnt, "/snapshots/", k), time.Minute) })
		if err != nil {
			return 0, err
		}
		if _, err := b.root.Must("drain", d.Store); err != nil {
			return 0, err
		}
		return t, os.RemoveAll(dir)
	})
	if err != nil {
		return r, err
	}
	r.add("visible after", m[0], "s")
	r.Met = m[0] <= 1
	return r, nil
}

// waitFor waits until there is something at path.
func waitFor(path string, most time.Duration) error {
	for end := time.Now().Add(most); ; time.Sleep(time.Millisecond) {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err == nil || time.Now().After(end) {
			return err
		}
	}
}

// largeScope compares what creating, writing and closing a file of a step costs
// in a scope of a hundred files, and in one of many.
func largeScope(b *bench) (Result, error) {
	r := Result{
		What:   fmt.Sprintf("create + write + close in a step, %d files in the scope against 100", b.scope),
		Target: "no more per operation: ratio 0.9",
	}
	d, err := b.mount()
	if err != nil {
		return r, err
	}
	side := func(name string, files int) (func() (float64, error), error) {
		scope := filepath.Join(d.Mnt, name)
		for k := range files {
			if k%1000 == 0 {
				if err := os.MkdirAll(fmt.Sprintf("%s/checkpoint-%d", scope, k/1000), 0o755); err != nil {
					return nil, err
				}
			}
			if err := os.WriteFile(fmt.Sprintf("%s/checkpoint-%d/f%d", scope, k/1000, k), []byte("x"), 0o644); err != nil {
				return nil, err
			}
		}
		return func() (float64, error) {
			dir, err := os.MkdirTemp(scope+"/checkpoint-0", "more-")
			if err != nil {
				return 0, err
			}
			t, err := seconds(func() error { return createIn(dir, 2000) })
			return 2000 / t, err
		}, nil
	}
	few, err := side("few", 100)
	if err != nil {
		return r, err
	}
	many, err := side("many", b.scope)
	if err != nil {
		return r, err
	}
	m, err := b.turns(few, many)
	if err != nil {
		return r, err
	}
	r.add("100 files", m[0], "files/s")
	r.add("many files", m[1], "files/s")
	r.add("ratio", m[1]/m[0], "")
	r.Met = m[1] >= 0.9*m[0]
	return r, nil
}
