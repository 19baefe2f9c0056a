package snapshot

import (
	"context"
	"errors"
	"fmt"
	"time"

	"stepfs/snapshot/include"
)

// included has what is taken from outside (package include) in every sealed
// snapshot: copies are brought up to date before the cut, off the path of every
// write, and the cut alone shows them, in the directory of the step.
type included struct {
	m    *Manager
	set  *include.Set
	turn chan struct{}     // full while the copies are used; see ready
	told map[string]string // what is known to be missing, and why
}

// includeSlack is how long a copy that does not end in time, since the
// disk that it reads from hangs, is waited for beyond that.
const includeSlack = time.Second

// includeSoon is how long a cut waits for copies before there is one without.
const includeSoon = 50 * time.Millisecond

// copies is what is included, up to date until release.
type copies struct {
	dir     uint64 // 0: there is nothing
	marks   []string
	release func()
}

func newIncluded(m *Manager) *included {
	return &included{m: m, set: m.cfg.Include, turn: make(chan struct{}, 1), told: map[string]string{}}
}

// ready brings the copies up to date and gives their directory; they stay so
// until release. If that takes too long, or can't be done, there is none (0), and
// marks say so.
func (in *included) ready(ctx context.Context) (dir uint64, marks []string, release func()) {
	if in.set == nil {
		return 0, nil, func() {}
	}
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, include.MaxTime)
	select {
	case in.turn <- struct{}{}:
	case <-ctx.Done():
		cancel()
		if caller.Err() == nil {
			marks = in.without("those for another step are still being copied", nil)
		}
		return 0, marks, func() {}
	}
	type result struct {
		dir uint64
		err error
	}
	done := make(chan result, 1)
	in.m.wg.Go(func() {
		dir, misses, err := in.set.Refresh(ctx, in.m.tree)
		if caller.Err() == nil {
			in.tell(misses)
		}
		done <- result{dir, err}
	})
	release = func() { cancel(); <-in.turn }
	timer := time.NewTimer(include.MaxTime + includeSlack)
	defer timer.Stop()
	select {
	case r := <-done:
		if r.err == nil {
			return r.dir, nil, release
		}
		return 0, in.without("they could not be copied", r.err), release
	case <-timer.C:
		go func() { <-done; release() }()
		return 0, in.without("copying them does not end", nil), func() {}
	}
}

// start is ready for a caller who does something else meanwhile, and who has to
// receive and release what comes.
func (in *included) start(ctx context.Context) <-chan copies {
	out := make(chan copies, 1)
	if in.set == nil {
		out <- copies{release: func() {}}
		return out
	}
	in.m.wg.Go(func() {
		dir, marks, release := in.ready(ctx)
		out <- copies{dir, marks, release}
	})
	return out
}

// begin copies all of it once, so that the first step does not wait for that.
func (in *included) begin(ctx context.Context) {
	_, _, release := in.ready(ctx)
	release()
}

// without reports that a snapshot has nothing of what is included.
func (in *included) without(why string, err error) (marks []string) {
	if err != nil {
		why = fmt.Sprintf("%s: %v", why, err)
	}
	in.m.fault("include files", errors.New(why))
	return []string{include.Dir + ": no included files: " + why}
}

// tell reports what could not be taken, once for each reason.
func (in *included) tell(misses []include.Row) {
	now := map[string]string{}
	for _, r := range misses {
		if now[r.Source] = r.Error; in.told[r.Source] != r.Error {
			in.m.fault("include "+r.Source, errors.New(r.Error))
		}
	}
	in.told = now
}

// cut freezes the tree, with the copies in the directory of a scope.
func (in *included) cut(scope, dir uint64) (cut Cut, marks []string, err error) {
	if dir != 0 {
		if cut, err = in.m.tree.CutWith(scope, include.Dir, dir); err == nil {
			return cut, nil, nil
		}
		marks = in.without("they have no place", err)
	}
	cut, err = in.m.tree.Cut(nil, true, true)
	return cut, marks, err
}
