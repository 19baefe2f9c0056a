package stage

import (
	"context"
	"maps"
	"sync"
	"time"

	"stepfs/internal/schema"
)

// freeables keeps answers to what single snapshots alone need. One holds as
// long as
//   - the snapshots next to it are the same: then so are the versions that it
//     alone shows, and what the versions next to those read;
//   - nobody else began or ceased to hold the same chunks, or to name the same
//     generations: the tree and the chunk store tell of each generation that
//     this happens to, and an answer goes whose snapshot reads generations
//     around it. So they do when an inode that shares one reads less of it.
//
// The newest snapshot, whose files still change, and one of which something is
// not stored yet, have no such answer.
type freeables struct {
	work sync.Mutex // held while answers are looked up and found; before the ordering lock
	all  map[uint64]answer

	mu      sync.Mutex // a leaf, taken under the ordering lock, too
	touched map[uint64]struct{}
	every   bool // every answer is touched
}

type answer struct {
	freed
	older, newer uint64
	at           time.Time
	took         time.Duration
}

const (
	// maxTouched and maxAnswers bound what is kept in memory.
	maxTouched = 1 << 16
	maxAnswers = 1 << 17
	// answerShare is how many times as long as it took an answer that does not
	// hold is given to those who do not insist.
	answerShare = 20
)

func (c *freeables) init() { c.all, c.touched = map[uint64]answer{}, map[uint64]struct{}{} }

// touch notes that somebody began or ceased to hold what a generation, or the
// tree of a step, holds. It is called within the transaction.
func (c *freeables) touch(holder uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.touched) >= maxTouched {
		c.every = true
	}
	if !c.every {
		c.touched[holder] = struct{}{}
	}
}

// touchAll notes that any answer may be wrong.
func (c *freeables) touchAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.every = true
}

// settle drops the answers that were touched. work is held.
func (c *freeables) settle() {
	c.mu.Lock()
	touched, every := c.touched, c.every
	if every || len(touched) > 0 {
		c.touched, c.every = map[uint64]struct{}{}, false
	}
	c.mu.Unlock()
	if every {
		clear(c.all)
	}
	if len(touched) == 0 {
		return
	}
	maps.DeleteFunc(c.all, func(seq uint64, a answer) bool { return a.counts(touched, schema.TreeHolder(seq)) })
}

// counts says whether an answer has to do with one of the holders.
func (a *answer) counts(touched map[uint64]struct{}, tree uint64) bool {
	if _, ok := touched[tree]; ok {
		return true
	}
	if a.hi-a.lo < uint64(len(touched)) {
		for gen := a.lo; gen <= a.hi; gen++ {
			if _, ok := touched[gen]; ok {
				return true
			}
		}
		return false
	}
	for gen := range touched {
		if gen >= a.lo && gen <= a.hi {
			return true
		}
	}
	return false
}

// FreeableOf is Freeable for one snapshot. An answer that does not hold may be
// as old as age, or as many times as long as it took.
func (t *Tree) FreeableOf(ctx context.Context, seq uint64, age time.Duration) (int64, error) {
	c := &t.freeables
	c.work.Lock()
	defer c.work.Unlock()
	c.settle()
	near, err := t.neighbours([]uint64{seq})
	if err != nil {
		return 0, err
	}
	n := near[0]
	if a, ok := c.all[seq]; ok && a.older == n.older && a.newer == n.newer {
		if a.final || age > 0 && time.Since(a.at) < max(age, answerShare*a.took) {
			return a.bytes, nil
		}
	}
	// A transaction that told of its change before it was applied has been by
	// the end of this one, which changes nothing.
	if _, err := t.update(schema.KindPrune, func(*txn) error { return nil }); err != nil {
		f, err := t.freeable(ctx, near)
		return f.bytes, err
	}
	start := time.Now()
	f, err := t.freeable(ctx, near)
	if err != nil {
		return 0, err
	}
	f.final = f.final && n.newer != newest
	for old := range c.all {
		if len(c.all) < maxAnswers {
			break
		}
		delete(c.all, old)
	}
	c.all[seq] = answer{f, n.older, n.newer, start, time.Since(start)}
	return f.bytes, nil
}
