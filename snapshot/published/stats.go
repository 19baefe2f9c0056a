package published

import (
	"context"
	"strings"
	"sync"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote"
)

// Stats is what a bucket holds.
type Stats struct {
	Snapshots int   `json:"snapshots"`
	Writers   int   `json:"writers"` // that have published something that is there
	Logical   int64 `json:"logical_bytes"`

	Packs       int   `json:"packs"`
	PackBytes   int64 `json:"pack_bytes"`
	Needed      int   `json:"needed_packs"` // by some snapshot
	NeededBytes int64 `json:"needed_bytes"`

	Others     int   `json:"other_objects"` // refs, index objects and the rest
	OtherBytes int64 `json:"other_bytes"`
	Unreadable int   `json:"unreadable_refs"`
}

// Count reads all refs and lists all objects.
func Count(ctx context.Context, b remote.Bucket) (Stats, error) {
	var s Stats
	var mu sync.Mutex
	needed, writers := map[string]bool{}, map[bucket.Writer]bool{}
	err := EachRef(ctx, b, func(f *bucket.Ref, err error) {
		var step Step
		if err == nil {
			step, err = stepOf(f)
		}
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			s.Unreadable++
			return
		}
		s.Snapshots++
		s.Logical += step.Record.Logical
		writers[f.Writer] = true
		for _, p := range f.Packs {
			needed[p.Key()] = true
		}
	})
	if err != nil {
		return s, err
	}
	s.Writers = len(writers)
	for o, err := range b.List(ctx, "", "") {
		switch {
		case err != nil:
			return s, err
		case !strings.HasPrefix(o.Key, bucket.PacksPrefix):
			s.Others++
			s.OtherBytes += o.Size
			continue
		case needed[o.Key]:
			s.Needed++
			s.NeededBytes += o.Size
		}
		s.Packs++
		s.PackBytes += o.Size
	}
	return s, nil
}
