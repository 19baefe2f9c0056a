package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	"stepfs/integration/harness"
)

// oneCore makes the daemon run on one core, whatever it has to do.
func oneCore(d *harness.Daemon) {
	d.CPUs = "1"
	d.Env = []string{"GOMAXPROCS=1"}
}

// ingest measures how fast one core turns staged files into chunks: data that
// was never seen, then the same file again in the next checkpoint.
//
// The file is written by a daemon that will not ingest it before the end of
// the row (nothing is sealed, no barrier outlives its retention); then the
// drain of a daemon on one core is timed.
func ingest(b *bench) (Result, error) {
	r := Result{
		What:   fmt.Sprintf("ingest of %d MiB on one core", b.ingestMiB),
		Target: "new random data 320 MB/s, unchanged 2 GB/s",
	}
	d, err := b.mount("--seal-quiet", "1h", "--ingest-workers", "1")
	if err != nil {
		return r, err
	}
	var fresh, same []float64
	for round := range b.rounds + 1 {
		// The same seed twice: the same data in the next checkpoint.
		for i, rates := range []*[]float64{&fresh, &same} {
			rate, err := b.drainRate(d, 2*round+i+1, uint64(round+1))
			if err != nil {
				return r, err
			}
			progress("round %d, %s: %.0f MB/s", round, []string{"new", "unchanged"}[i], rate)
			if round > 0 {
				*rates = append(*rates, rate)
			}
		}
	}
	r.add("new", percentile(fresh, 50), "MB/s")
	r.add("unchanged", percentile(same, 50), "MB/s")
	r.Met = percentile(fresh, 50) >= 320 && percentile(same, 50) >= 2000
	r.Note = "the daemon has one core for everything; the rate is of `stepfs drain`, from its start to its end"
	return r, nil
}

// drainRate writes a checkpoint, restarts the daemon on one core and gives the
// MB/s at which it drains.
func (b *bench) drainRate(d *harness.Daemon, step int, seed uint64) (float64, error) {
	dir := filepath.Join(d.Mnt, fmt.Sprintf("checkpoint-%d", step))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return 0, err
	}
	if err := writeFile(dir+"/model.bin", seed, b.ingestMiB, true); err != nil {
		return 0, err
	}
	unix.Sync()
	if err := d.Stop(); err != nil {
		return 0, err
	}
	oneCore(d)
	if err := d.Start(); err != nil {
		return 0, err
	}
	left, err := b.number("status", d, "unstored_bytes")
	if err != nil {
		return 0, err
	}
	if left < float64(b.ingestMiB<<20)*0.9 {
		return 0, fmt.Errorf("only %.0f bytes are left to ingest: nothing could be measured", left)
	}
	t, err := seconds(func() error {
		_, err := b.root.Must("drain", d.Mnt)
		return err
	})
	if err != nil {
		return 0, err
	}
	d.CPUs, d.Env = "", nil
	if err := d.Stop(); err != nil {
		return 0, err
	}
	return left / t / 1e6, d.Start()
}

// number is one number of what a command says in JSON: status, stats.
func (b *bench) number(command string, d *harness.Daemon, field string) (float64, error) {
	lines, err := b.root.JSONLines(command, "--json", d.Mnt)
	if err != nil {
		return 0, err
	}
	if len(lines) != 1 {
		return 0, fmt.Errorf("%s gave %d lines", command, len(lines))
	}
	n, ok := lines[0][field].(float64)
	if !ok {
		return 0, fmt.Errorf("%s has no number %q: %v", command, field, lines[0])
	}
	return n, nil
}

// readStored measures a sequential read of a snapshot whose content is in
// packs alone, by a daemon that has one core and no hot copy.
func readStored(b *bench) (Result, error) {
	r := Result{
		What:   fmt.Sprintf("sequential read of %d MiB, stored and not hot, one core", b.ingestMiB),
		Target: "700 MB/s",
	}
	d, err := b.mount("--hot-limit", "1")
	if err != nil {
		return r, err
	}
	if err := writeFile(d.Mnt+"/model.bin", 1, b.ingestMiB, true); err != nil {
		return r, err
	}
	if err := os.Mkdir(d.Mnt+"/snapshots/stored", 0o755); err != nil {
		return r, err
	}
	if _, err := b.root.Must("drain", d.Mnt); err != nil {
		return r, err
	}
	native, err := b.native()
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(native)
	if err := writeFile(native+"/model.bin", 1, b.ingestMiB, true); err != nil {
		return r, err
	}
	stored := func() (float64, error) {
		// A new mount: what the kernel has cached of the snapshot is gone.
		if err := d.Stop(); err != nil {
			return 0, err
		}
		oneCore(d)
		if err := d.Start(); err != nil {
			return 0, err
		}
		staged, err := diskUsage(d.Store + "/staging")
		if err != nil {
			return 0, err
		}
		if staged > b.ingestMiB<<20/10 {
			return 0, fmt.Errorf("%d bytes are still staged: this would measure hot copies", staged)
		}
		return readRate(d.Mnt + "/snapshots/stored/model.bin")
	}
	m, err := b.turns(func() (float64, error) { return readRate(native + "/model.bin") }, stored)
	if err != nil {
		return r, err
	}
	r.add("native (page cache)", m[0], "MB/s")
	r.add("stepfs", m[1], "MB/s")
	r.Met = m[1] >= 700
	return r, nil
}

// readRate reads a file from start to end and gives MB/s.
func readRate(path string) (float64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var n int64
	buf := make([]byte, 1<<20)
	t, err := seconds(func() error {
		for {
			m, err := f.Read(buf)
			n += int64(m)
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
		}
	})
	return float64(n) / t / 1e6, err
}

// diskUsage is the space that the files below dir take; some may go meanwhile.
func diskUsage(dir string) (total int64, err error) {
	err = filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		var st unix.Stat_t
		if err := unix.Stat(path, &st); errors.Is(err, os.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		total += st.Blocks * 512
		return nil
	})
	return total, err
}
