// Package check is what the checks of all layers share: findings, walks over
// one view of the index, and the comparison of two sets that need not fit into
// memory. It knows no kind of record; each layer checks what it owns.
//
// A check reads one view (state.View), in which every transaction is there as
// a whole or not at all. So whatever contradicts itself in the view does so in
// the store. Files are not in the view: what a file seems to contradict is
// looked at a second time, against the index as it is by then.
package check

import (
	"context"
	"errors"
	"fmt"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// Kind says how bad a finding is.
type Kind string

const (
	// Damage: something that is needed is missing or wrong, or may be taken
	// away while it is needed.
	Damage Kind = "damage"
	// Leak: something takes space, that nobody needs and nothing will free.
	Leak Kind = "leak"
)

// Finding is one thing that is not as it should be.
type Finding struct {
	Kind   Kind   `json:"kind"`
	What   string `json:"what"`   // the class, a word for programs: "pack-missing"
	Object string `json:"object"` // where: "pack 12", "inode 7"
	Detail string `json:"detail"` // a sentence for people
	Needs
}

// Run is one check of one layer.
type Run struct {
	View   *state.View
	Report func(Finding) // the check of a layer calls it one at a time
	// Progress hears how much of the layer's work is done, from 0 to 1; nil:
	// nobody asks.
	Progress func(done float64)
}

// Damage reports a finding.
func (r *Run) Damage(what, object, format string, args ...any) {
	r.Report(Finding{Kind: Damage, What: what, Object: object, Detail: fmt.Sprintf(format, args...)})
}

// Leak reports a finding.
func (r *Run) Leak(what, object, format string, args ...any) {
	r.Report(Finding{Kind: Leak, What: what, Object: object, Detail: fmt.Sprintf(format, args...)})
}

// Corrupt reports an error that says that a record can't be read, and gives
// back any other one.
func (r *Run) Corrupt(object string, err error) error {
	if errors.Is(err, schema.ErrCorrupt) {
		r.Damage("record", object, "%v", err)
		return nil
	}
	return err
}

// Done reports progress.
func (r *Run) Done(share float64) {
	if r.Progress != nil {
		r.Progress(share)
	}
}

// Has says whether a key exists in the view.
func (r *Run) Has(key []byte) (bool, error) {
	_, err := r.View.Get(key)
	if errors.Is(err, state.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Each calls fn for every key that starts with prefix. fn may not keep k and v.
func (r *Run) Each(ctx context.Context, prefix []byte, fn func(k, v []byte) error) (err error) {
	it, err := r.View.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok, n := it.First(), 0; ok; ok, n = it.Next(), n+1 {
		if n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if err := fn(it.Key(), it.Value()); err != nil {
			return err
		}
	}
	return it.Error()
}
