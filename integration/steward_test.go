package integration

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"stepfs/integration/harness"
)

// steward does beside the workers what an operator does: it takes snapshots of
// its own, which share everything with the workers' content, forgets them, prunes
// and drains, all the time, also at the moment of the kill. What it was told it
// keeps outside of the mount.
type steward struct {
	mnt    string
	killed *atomic.Bool

	// making: a worker that looks up which barrier its sync was holds it, since
	// a sync that joins a snapshot of ours goes with it.
	making sync.RWMutex

	next   int
	seqs   map[string]bool // numbers of our snapshots, as paths below snapshots/
	held   map[string]bool // names: acknowledged, and not forgotten
	unsure map[string]bool // a call on them was in flight, or their prune
	counts map[string]int  // what was done, and not cut off by a kill
}

const stewardPrefix = "steward-"

func newSteward(mnt string, killed *atomic.Bool) *steward {
	return &steward{mnt: mnt, killed: killed, seqs: map[string]bool{}, held: map[string]bool{}, unsure: map[string]bool{}, counts: map[string]int{}}
}

// run works until the daemon is killed.
func (s *steward) run() error {
	for !s.killed.Load() {
		if err := s.act(); err != nil && !s.killed.Load() {
			return fmt.Errorf("steward: %w", err)
		}
	}
	return nil
}

func (s *steward) act() error {
	s.next++
	name := fmt.Sprintf("%s%d", stewardPrefix, s.next)
	s.unsure[name] = true
	s.making.Lock()
	err := os.Mkdir(filepath.Join(s.mnt, "snapshots", name), 0o755)
	s.making.Unlock()
	if err == nil {
		err = s.number(name)
	}
	if err != nil {
		return err
	}
	delete(s.unsure, name)
	s.held[name] = true
	s.counts["snapshot"]++
	if s.next%3 == 0 {
		return nil // this one stays
	}
	s.unsure[name] = true
	delete(s.held, name)
	if err := s.command("forget", s.mnt, name); err != nil {
		return err
	}
	delete(s.unsure, name)
	if s.counts["drain"] < s.counts["prune"] { // again and again, until one gets done
		return s.command("drain", s.mnt)
	}
	return s.command("prune", "--wait", s.mnt)
}

// number finds out under which number a snapshot is among the barriers.
func (s *steward) number(name string) error {
	lines, err := root.JSONLines("snapshots", "--json", s.mnt)
	for _, l := range lines {
		if l["step"] == name {
			s.seqs[fmt.Sprintf(".barriers/%.0f", l["sequence"])] = true
			return nil
		}
	}
	return errors.Join(err, fmt.Errorf("%s is not listed", name))
}

// owns says whether a barrier is one of ours, which may be gone.
func (s *steward) owns(path string) bool { return s.seqs[path] }

func (s *steward) command(args ...string) error {
	res, err := harness.Run(root.Bin, args...)
	if err == nil && res.Code != 0 {
		err = fmt.Errorf("%q: exit code %d: %s", args, res.Code, res.Both())
	}
	if err == nil {
		s.counts[args[0]]++
	}
	return err
}

// verify looks that what was kept is there, and what was forgotten is not.
func (s *steward) verify() error {
	for i := range s.next {
		name := fmt.Sprintf("%s%d", stewardPrefix, i+1)
		_, err := os.Stat(filepath.Join(s.mnt, "snapshots", name))
		there := err == nil
		switch {
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return err
		case s.unsure[name]:
			s.held[name] = there
			delete(s.unsure, name)
			if there {
				if err := s.number(name); err != nil {
					return err
				}
			}
		case there != s.held[name]:
			return fmt.Errorf("snapshots/%s: there %v, acknowledged %v", name, there, s.held[name])
		}
	}
	return nil
}
