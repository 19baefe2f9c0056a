package main

import (
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	"stepfs/integration/harness"
)

// bench is what the rows share: the sizes, and the directory of the run.
type bench struct {
	root *harness.Root
	bin  string
	dir  string

	rounds                                   int
	fileMiB, ingestMiB, memoryMiB, closedMiB int64
	files, snapshots, steps, commits, scope  int
	bigDir, overwriteSeconds                 int
	overwriteMiB, checkMiB, uploadMiB        int64
	chunks, recoverySnapshots                int
	open                                     []*harness.Daemon
}

// mount gives a running daemon on a new store, gone when the row ends.
func (b *bench) mount(args ...string) (*harness.Daemon, error) {
	d, err := b.root.NewDaemon(args...)
	if err != nil {
		return nil, err
	}
	b.open = append(b.open, d)
	return d, d.Start()
}

// discard takes a daemon and its store away.
func (b *bench) discard(d *harness.Daemon) error {
	if err := d.Close(); err != nil {
		return err
	}
	return os.RemoveAll(d.Store)
}

func (b *bench) closeAll() {
	for _, d := range b.open {
		b.discard(d)
	}
	b.open = nil
}

// native gives an empty directory on the disk of the stores.
func (b *bench) native() (string, error) { return b.root.MkdirTemp("native") }

// turns warms both sides up, then measures them in turns and gives the medians.
func (b *bench) turns(sides ...func() (float64, error)) ([]float64, error) {
	all := make([][]float64, len(sides))
	for round := range b.rounds + 1 {
		for i, side := range sides {
			unix.Sync() // what earlier measurements left to write is not ours to wait for
			v, err := side()
			if err != nil {
				return nil, err
			}
			progress("round %d, side %d: %.4g", round, i, v)
			if round > 0 {
				all[i] = append(all[i], v)
			}
		}
	}
	medians := make([]float64, len(sides))
	for i, values := range all {
		medians[i] = percentile(values, 50)
	}
	return medians, nil
}

// percentile gives the value that p percent of the values do not exceed.
func percentile(values []float64, p float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	i := int(p / 100 * float64(len(sorted)))
	return sorted[min(i, len(sorted)-1)]
}

// seconds measures how long f takes.
func seconds(f func() error) (float64, error) {
	start := time.Now()
	err := f()
	return time.Since(start).Seconds(), err
}
