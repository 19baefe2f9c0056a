package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"stepfs/integration/harness"
)

// memoryLimit is what the daemon may use, and cgroupLimit where it must manage
// with its page cache included.
const (
	memoryLimitMiB = 512
	cgroupLimit    = 1 << 30
)

func memoryPeak(b *bench) (Result, error) { return b.memory("", nil) }

func memoryPeakInCgroup(b *bench) (Result, error) {
	c, err := harness.NewCgroup("stepfs-bench", cgroupLimit)
	if err != nil {
		return Result{What: "memory in a cgroup of 1 GiB"}, err
	}
	defer func() {
		b.closeAll() // nothing may run in it when it goes
		c.Close()
	}()
	return b.memory(", in a cgroup of 1 GiB", c)
}

// memory writes checkpoints, has them ingested, and watches the daemon.
func (b *bench) memory(where string, c *harness.Cgroup) (Result, error) {
	r := Result{
		What:   fmt.Sprintf("daemon's peak memory, %d MiB written and ingested%s", b.memoryMiB, where),
		Target: fmt.Sprintf("%d MiB, flat", memoryLimitMiB),
	}
	d, err := b.root.NewDaemon("--seal-quiet", "1s")
	if err != nil {
		return r, err
	}
	b.open = append(b.open, d)
	d.Cgroup = c
	if err := d.Start(); err != nil {
		return r, err
	}
	watch := watchMemory(d.Pid())
	t, err := seconds(func() error { return b.writeCheckpoints(d, watch) })
	anon := watch.stop()
	if err != nil {
		return r, fmt.Errorf("%w\n%s", err, d.Output())
	}
	peak, err := procStatus(d.Pid(), "VmHWM")
	if err != nil {
		return r, err
	}
	first, second := percentile(anon[:len(anon)/2], 100), percentile(anon[len(anon)/2:], 100)
	r.add("VmHWM", peak, "MiB")
	r.add("anonymous, peak of the first half", first, "MiB")
	r.add("anonymous, peak of the second half", second, "MiB")
	r.add("written and ingested at", float64(b.memoryMiB<<20)/t/1e6, "MB/s")
	// Flat: the second half does not need a quarter more than the first, give
	// or take one garbage collection.
	r.Met = peak <= memoryLimitMiB && second <= 1.25*first+32
	return r, nil
}

// writeCheckpoints writes all of it in files of 1 GiB, each sealed as a
// checkpoint of its own while the next is being written, and drains.
func (b *bench) writeCheckpoints(d *harness.Daemon, w *memoryWatch) error {
	for left, step := b.memoryMiB, 1; left > 0; left, step = left-1024, step+1 {
		dir := filepath.Join(d.Mnt, fmt.Sprintf("checkpoint-%d", step))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := writeFile(dir+"/model.bin", uint64(step), min(left, 1024), false); err != nil {
			return err
		}
		progress("checkpoint-%d written, anonymous %.0f MiB", step, w.last())
	}
	_, err := b.root.Must("drain", d.Mnt)
	return err
}

// memoryWatch samples the anonymous memory of a process.
type memoryWatch struct {
	quit, done chan struct{}
	pid        int
	samples    []float64
}

func watchMemory(pid int) *memoryWatch {
	w := &memoryWatch{quit: make(chan struct{}), done: make(chan struct{}), pid: pid}
	go func() {
		defer close(w.done)
		for {
			if mib, err := procStatus(pid, "RssAnon"); err == nil {
				w.samples = append(w.samples, mib)
			}
			select {
			case <-w.quit:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	return w
}

// stop gives the samples, in MiB; at least two.
func (w *memoryWatch) stop() []float64 {
	close(w.quit)
	<-w.done
	return append(w.samples, w.last(), w.last())
}

func (w *memoryWatch) last() float64 {
	mib, _ := procStatus(w.pid, "RssAnon")
	return mib
}

// procStatus is a line of /proc/PID/status in kB, as MiB.
func procStatus(pid int, field string) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kb / 1024, err
		}
	}
	return 0, fmt.Errorf("no %s in the status of process %d", field, pid)
}
