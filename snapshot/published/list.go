package published

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote"
	"stepfs/internal/schema"
)

// Step is a published snapshot, as its ref describes it.
type Step struct {
	Writer   bucket.Writer
	Ref      uint64 // number of the ref
	Sequence uint64 // number of the snapshot in the store that made it
	Record   *schema.Snapshot

	Packs     int   // that are needed to read it
	PackBytes int64 // their size, whoever else needs them
}

// ID is what the snapshot is called for ever, by its writer.
func (s *Step) ID() string { return fmt.Sprintf("%s@%d", s.Record.Name, s.Sequence) }

// Time is when it was taken.
func (s *Step) Time() time.Time { return time.Unix(0, s.Record.Time) }

// refsAtOnce is how many refs are read at a time.
const refsAtOnce = 32

// Listing is all that is published in a bucket.
type Listing struct {
	Steps []Step // by writer, and in the order in which each published them
	// Unreadable are refs that are there, and damaged, or of another version.
	Unreadable []error
}

// List reads all refs.
func List(ctx context.Context, b remote.Bucket) (*Listing, error) {
	var l Listing
	var mu sync.Mutex
	err := EachRef(ctx, b, func(f *bucket.Ref, err error) {
		s := Step{}
		if err == nil {
			s, err = stepOf(f)
		}
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			l.Unreadable = append(l.Unreadable, err)
			return
		}
		l.Steps = append(l.Steps, s)
	})
	slices.SortFunc(l.Steps, func(a, b Step) int {
		return cmp.Or(slices.Compare(a.Writer[:], b.Writer[:]), cmp.Compare(a.Ref, b.Ref))
	})
	slices.SortFunc(l.Unreadable, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return &l, err
}

// EachRef calls fn for each ref, several at a time and in no order; or with what
// is wrong with one that is there.
func EachRef(ctx context.Context, b remote.Bucket, fn func(*bucket.Ref, error)) error {
	return eachRef(ctx, b, func(refKey) bool { return true }, fn)
}

// refKey names a ref.
type refKey struct {
	writer bucket.Writer
	seq    uint64
}

// eachRef is EachRef of those that are wanted.
func eachRef(ctx context.Context, b remote.Bucket, wanted func(refKey) bool, fn func(*bucket.Ref, error)) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(refsAtOnce)
	for o, err := range b.List(gctx, bucket.RefsPrefix, "") {
		if err != nil {
			g.Go(func() error { return err })
			break
		}
		w, seq, ok := bucket.ParseNumbered(bucket.RefsPrefix, o.Key)
		if !ok || o.Size == bucket.GoneSize || !wanted(refKey{w, seq}) {
			continue // not ours, a tombstone, or known
		}
		g.Go(func() error {
			f, err := bucket.ReadRef(gctx, b, w, seq)
			switch {
			case errors.Is(err, bucket.ErrGone), errors.Is(err, remote.ErrNotExist):
				return nil // it was forgotten meanwhile
			case err == nil, errors.Is(err, bucket.ErrFormat), errors.Is(err, bucket.ErrVersion), errors.Is(err, remote.ErrDamaged):
				fn(f, err)
				return nil
			}
			return err
		})
	}
	return g.Wait()
}

func stepOf(f *bucket.Ref) (Step, error) {
	rec, err := schema.DecodeSnapshot(f.Record)
	if err != nil {
		return Step{}, fmt.Errorf("%s: %w", f.Key(), err)
	}
	s := Step{Writer: f.Writer, Ref: f.Seq, Sequence: f.Snapshot, Record: rec, Packs: len(f.Packs)}
	for _, p := range f.Packs {
		s.PackBytes += p.Size
	}
	return s, nil
}
