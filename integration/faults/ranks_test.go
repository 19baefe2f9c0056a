package faults

import (
	"fmt"
	"math/rand"
	"os"
	"sync"
	"time"
)

// rankJob is four ranks that save checkpoints as careful jobs do: each writes
// its file, syncs it, renames it and syncs the directory.
type rankJob struct {
	m     *machine
	run   string // the directory of this round
	files []*rankFile
	steps []*savedStep
	older int // how many of steps are of earlier rounds
	acked int
}

// rankFile is what one rank saved.
type rankFile struct {
	dir           string
	rank          int
	sum           sum
	synced, named bool // acknowledged: its content, then its name
}

// savedStep is a snapshot that was seen, or asked for, with all four files.
type savedStep struct {
	path string // below snapshots
	sums [4]sum
}

// work saves until the power fails, at a random moment.
func (j *rankJob) work(round int) error {
	old := j.run
	j.run, j.files, j.older = fmt.Sprintf("run%d", round), nil, len(j.steps)
	if err := j.m.remove(old); old != "" && err != nil {
		return err
	}
	if err := os.Mkdir(j.m.path(j.run), 0o755); err != nil {
		return err
	}
	ended := make(chan error, 1)
	seed := j.m.rnd.Int63()
	go func() { ended <- j.save(seed) }()
	time.Sleep(time.Duration(100+j.m.rnd.Intn(900)) * time.Millisecond)
	if err := j.m.cut(); err != nil {
		return err
	}
	return <-ended
}

func (j *rankJob) save(seed int64) error {
	for step := 0; !j.m.over(); step++ {
		dir := fmt.Sprintf("%s/checkpoint-%d", j.run, step)
		var errs [4]error
		var files [4]*rankFile
		var wg sync.WaitGroup
		for rank := range files {
			wg.Add(1)
			go func() {
				defer wg.Done()
				files[rank], errs[rank] = j.saveRank(dir, rank, rand.New(rand.NewSource(seed+int64(step*4+rank))))
			}()
		}
		wg.Wait()
		for _, err := range errs {
			if err != nil {
				return j.unlessOver(err)
			}
		}
		if err := j.see(dir, step, files); err != nil {
			return j.unlessOver(err)
		}
	}
	return nil
}

func (j *rankJob) unlessOver(err error) error {
	if j.m.over() {
		return nil
	}
	return err
}

func (j *rankJob) saveRank(dir string, rank int, rnd *rand.Rand) (*rankFile, error) {
	data := random(rnd, []int{3000, 60_000, 200_000, 500_000}[rnd.Intn(4)])
	// MkdirAll would make it in the bare mountpoint when the daemon is gone.
	if err := os.Mkdir(j.m.path(dir), 0o755); err != nil && !os.IsExist(err) {
		return nil, err
	}
	r := &rankFile{dir: dir, rank: rank, sum: sumOf(data)}
	f, err := os.Create(j.m.path(r.tmp()))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	j.m.ack(func() { r.synced = true; j.files = append(j.files, r) })
	if err := f.Close(); err != nil {
		return nil, err
	}
	if err := os.Rename(j.m.path(r.tmp()), j.m.path(r.final())); err != nil {
		return nil, err
	}
	if err := syncDir(j.m.path(dir)); err != nil {
		return nil, err
	}
	j.m.ack(func() { r.named = true; j.acked++ })
	return r, nil
}

// see notes a snapshot that shows the whole step; now and then one is made.
func (j *rankJob) see(dir string, step int, files [4]*rankFile) error {
	seen := "sealed-" + j.run + fmt.Sprint("-", step)
	if step%4 == 3 {
		if err := os.Mkdir(j.m.path("snapshots/"+seen), 0o755); err != nil {
			return err
		}
	} else {
		newest, err := newestBarrier(j.m.d.Mnt)
		if err != nil {
			return err
		}
		seen = ".barriers/" + newest
	}
	s := &savedStep{path: seen + "/" + dir}
	for i, f := range files {
		s.sums[i] = f.sum
	}
	j.m.ack(func() { j.steps = append(j.steps, s) })
	return nil
}

func (r *rankFile) tmp() string   { return fmt.Sprintf("%s/rank-%d.tmp", r.dir, r.rank) }
func (r *rankFile) final() string { return fmt.Sprintf("%s/rank-%d.pt", r.dir, r.rank) }

// verify compares what this round acknowledged.
func (j *rankJob) verify() error {
	for _, r := range j.files {
		got, err := sumAt(j.m.path(r.final()))
		if os.IsNotExist(err) && !r.named {
			got, err = sumAt(j.m.path(r.tmp()))
		}
		if err != nil || got != r.sum {
			return fmt.Errorf("%s, synced, renamed durably: %v: content as synced: %v (%v)", r.final(), r.named, got == r.sum, err)
		}
		if _, err := os.Lstat(j.m.path(r.tmp())); r.named && !os.IsNotExist(err) {
			return fmt.Errorf("%s was renamed durably and is there: %v", r.tmp(), err)
		}
		j.m.files++
	}
	return j.compare(j.steps[j.older:])
}

// verifyOlder compares some of the snapshots of earlier rounds.
func (j *rankJob) verifyOlder() error {
	for range min(j.older, 4) {
		if err := j.compare(j.steps[j.m.rnd.Intn(j.older):][:1]); err != nil {
			return fmt.Errorf("of an earlier round: %w", err)
		}
	}
	return nil
}

func (j *rankJob) verifyAll() error { return j.compare(j.steps) }

func (j *rankJob) compare(steps []*savedStep) error {
	for _, s := range steps {
		for rank, want := range s.sums {
			path := fmt.Sprintf("snapshots/%s/rank-%d.pt", s.path, rank)
			if got, err := sumAt(j.m.path(path)); err != nil || got != want {
				return fmt.Errorf("%s: as acknowledged: %v (%v)", path, got == want, err)
			}
		}
		j.m.snapshots++
	}
	return nil
}
