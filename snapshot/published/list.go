package published

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

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

	from *catalogSource // nil: its ref was read
}

// ID is what the snapshot is called for ever, by its writer.
func (s *Step) ID() string { return fmt.Sprintf("%s@%d", s.Record.Name, s.Sequence) }

// Time is when it was taken.
func (s *Step) Time() time.Time { return time.Unix(0, s.Record.Time) }

// Listing is all that is published in a bucket.
type Listing struct {
	Steps []Step // by writer, and in the order in which each published them
	// Unreadable are refs that are there, and damaged, or of another version.
	Unreadable []error
	// Catalogs is how many have told what is in Steps. Of a step that one told of,
	// Is has to be asked.
	Catalogs int
}

// List gives what refs say, out of catalogs where there are any.
func List(ctx context.Context, b remote.Bucket) (*Listing, error) {
	return newListing(ctx, &refReader{bucket: b})
}

// ListRefs is List, with every ref read.
func ListRefs(ctx context.Context, b remote.Bucket) (*Listing, error) {
	return newListing(ctx, &refReader{bucket: b, plain: true})
}

func newListing(ctx context.Context, r *refReader) (*Listing, error) {
	var l Listing
	var mu sync.Mutex
	from := map[*catalogSource]bool{}
	err := r.steps(ctx, func(s *Step, err error) {
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			l.Unreadable = append(l.Unreadable, err)
			return
		}
		if s.from != nil {
			from[s.from] = true
		}
		l.Steps = append(l.Steps, *s)
	})
	l.Catalogs = len(from)
	slices.SortFunc(l.Steps, func(a, b Step) int {
		return cmp.Or(slices.Compare(a.Writer[:], b.Writer[:]), cmp.Compare(a.Ref, b.Ref))
	})
	slices.SortFunc(l.Unreadable, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return &l, err
}

func stepOf(f *bucket.Ref) (Step, error) { return stepListed(f.Writer, f.Listed()) }

// stepListed is the step of a ref of which a catalog, or the ref itself, says this.
func stepListed(w bucket.Writer, l bucket.Listed) (Step, error) {
	rec, err := schema.DecodeSnapshot(l.Record)
	if err != nil {
		return Step{}, fmt.Errorf("%s: %w", bucket.RefKey(w, l.Seq), err)
	}
	return Step{Writer: w, Ref: l.Seq, Sequence: l.Snapshot, Record: rec, Packs: int(l.Packs), PackBytes: l.PackBytes}, nil
}
