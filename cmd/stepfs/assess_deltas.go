package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"stepfs/chunkstore/codec/simulate"
	"stepfs/snapshot"
)

// deltaEstimate finds out what the checkpoints would take if each file is kept
// as planes and as deltas from the one before.
type deltaEstimate struct {
	root  *os.Root
	store *simulate.Store
	last  map[string]string // where the latest version of a file is
	sums  simulate.Sums
}

func newDeltaEstimate(root *os.Root) (*deltaEstimate, error) {
	s, err := simulate.New(simulate.Config{})
	return &deltaEstimate{root: root, store: s, last: map[string]string{}}, err
}

// add counts the file at path, which is a version of the one called name.
func (d *deltaEstimate) add(ctx context.Context, name, path string) error {
	f, file, err := d.open(path)
	if err != nil {
		return err
	}
	defer f.Close() // it was only read
	base := simulate.Base{Name: name}
	if last, ok := d.last[name]; ok {
		// Whoever removed it meanwhile took no more than the base.
		if f, before, err := d.open(last); err == nil {
			defer f.Close()
			base.File = before
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	d.last[name] = path
	sums, err := d.store.Add(ctx, name, file, base)
	d.sums.Add(sums)
	return err
}

func (d *deltaEstimate) open(path string) (*os.File, simulate.File, error) {
	f, err := d.root.Open(path)
	if err != nil {
		return nil, simulate.File{}, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		return nil, simulate.File{}, errors.Join(err, f.Close())
	}
	return f, simulate.File{ReaderAt: f, Size: st.Size()}, nil
}

// sum tells the total of it.
func (d *deltaEstimate) sum(t *AssessTotal) {
	if d.sums.Raw > 0 {
		t.Deltas = int64(float64(t.Bytes) * float64(d.sums.Stored) / float64(d.sums.Raw))
	}
	t.SampledTwice, t.SampledDeltas, t.SampledPlanes = d.sums.Duplicate, d.sums.Delta, d.sums.Planes
	t.SampledDeepest = d.sums.Deepest
}

// versionName is what all versions of a file have in common. The step may be
// part of a name within the checkpoint; other numbers tell files apart, such as
// those of ranks.
func versionName(path, checkpoint, step string) string {
	within := numbers.ReplaceAllStringFunc(path[len(checkpoint):], func(number string) string {
		if number == step {
			return "#"
		}
		return number
	})
	return numbers.ReplaceAllString(checkpoint, "#") + within
}

// sortBySteps puts checkpoints in the order in which they were written.
func sortBySteps(entries []fs.DirEntry) {
	key := func(e fs.DirEntry) (name, step string) {
		step, _ = snapshot.StepName(e.Name(), !e.IsDir())
		return numbers.ReplaceAllString(e.Name(), "#"), step
	}
	slices.SortStableFunc(entries, func(a, b fs.DirEntry) int {
		nameA, stepA := key(a)
		nameB, stepB := key(b)
		// Numbers without zeros in front: the longer is the larger.
		return cmp.Or(cmp.Compare(nameA, nameB), cmp.Compare(len(stepA), len(stepB)), cmp.Compare(stepA, stepB))
	})
}
