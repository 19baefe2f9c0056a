package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"stepfs/integration/harness"
)

// stepfs saves a series on a mount, step by step, each stored before the next
// begins, as between the saves of a job. What its packs take is the result. Then
// each step is restored by a daemon that has no hot copy, and compared.
func (c *comparison) stepfs(s series) (stored int64, note string, err error) {
	d, err := c.root.NewDaemon("--no-seal", "--hot-limit", "1", "--ingest-workers", "1")
	if err != nil {
		return 0, "", err
	}
	if err := d.Start(); err != nil {
		return 0, "", err
	}
	defer func() { err = errors.Join(err, d.Close(), os.RemoveAll(filepath.Dir(d.Store))) }()
	for _, step := range s.steps {
		if err := c.save(d, step); err != nil {
			return 0, "", fmt.Errorf("saving %s: %w", step, err)
		}
	}
	if err := d.Stop(); err != nil {
		return 0, "", err
	}
	if stored, err = size(d.Store + "/packs"); err != nil {
		return 0, "", err
	}
	if err := d.Start(); err != nil {
		return 0, "", err
	}
	slowest := 0.0 // MB/s
	for _, step := range s.steps {
		rate, err := c.restored(d, step)
		if err != nil {
			return 0, "", fmt.Errorf("restoring %s: %w", step, err)
		}
		if slowest == 0 || rate < slowest {
			slowest = rate
		}
	}
	note = fmt.Sprintf("each step restored the same, the slowest at %.0f MB/s of wall clock", slowest)
	return stored, note, d.Stop()
}

// place is where a step is written: all to one place, or each to its own.
func (c *comparison) place(step string) string {
	if c.inPlace {
		return "checkpoint"
	}
	return "checkpoint-" + filepath.Base(step)
}

// save copies a step to the mount, seals it and waits until it is stored.
func (c *comparison) save(d *harness.Daemon, step string) error {
	to := filepath.Join(d.Mnt, c.place(step))
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(step)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := copyFile(filepath.Join(to, e.Name()), filepath.Join(step, e.Name())); err != nil {
			return err
		}
	}
	if err := os.Mkdir(d.Mnt+"/snapshots/at-"+filepath.Base(step), 0o755); err != nil {
		return err
	}
	_, err = c.root.Must("drain", d.Mnt)
	return err
}

// copyFile writes as torch.save does: over what is there, from the start.
func copyFile(to, from string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		return err
	}
	// Without the copy_file_range that io.Copy would try: a job writes.
	_, err = io.Copy(struct{ io.Writer }{dst}, src)
	return errors.Join(err, dst.Sync(), dst.Close())
}

// restored restores a step, compares it and gives the MB/s.
func (c *comparison) restored(d *harness.Daemon, step string) (float64, error) {
	target, err := c.root.MkdirTemp("restored")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(target)
	start := time.Now()
	if _, err := c.root.Must("restore", d.Mnt, "at-"+filepath.Base(step)+":"+c.place(step), target+"/step"); err != nil {
		return 0, err
	}
	t := time.Since(start).Seconds()
	n, err := size(step)
	if err != nil {
		return 0, err
	}
	want, err := harness.ReadTree(step)
	if err != nil {
		return 0, err
	}
	got, err := harness.ReadTree(target + "/step")
	if err != nil {
		return 0, err
	}
	if diff := want.Diff(got); diff != "" {
		return 0, fmt.Errorf("what came back differs:\n%s", diff)
	}
	return float64(n) / 1e6 / t, nil
}
