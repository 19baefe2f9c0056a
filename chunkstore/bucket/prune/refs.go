package prune

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/remote"
)

// requests is how many are made at a time.
const requests = 16

// needs is what all refs name together.
type needs struct {
	refs, forgotten int
	packs           map[bucket.PackID]struct{}
}

// refNumber says which ref.
type refNumber struct {
	writer bucket.Writer
	seq    uint64
}

// readNeeds reads all refs. The leases say how many there are of each writer at
// least, so that no list that is cut short or old passes for all of them.
func readNeeds(ctx context.Context, b remote.Bucket, leases []slotted) (*needs, error) {
	n := &needs{packs: map[bucket.PackID]struct{}{}}
	there, err := n.find(ctx, b, leases)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(requests)
	for _, r := range there {
		g.Go(func() error {
			f, err := readRef(ctx, b, r.writer, r.seq)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, bucket.ErrGone):
				n.forgotten++
				return nil
			case errors.Is(err, remote.ErrNotExist):
				return fmt.Errorf("%w: %s", errLost, bucket.RefKey(r.writer, r.seq))
			case err != nil:
				return err
			}
			n.refs++
			for _, p := range f.Packs {
				n.packs[p.ID()] = struct{}{}
			}
			return nil
		})
	}
	return n, g.Wait()
}

// find gives the refs that have to be read: those that are listed, but for the
// tombstones, and those that are not listed and have to be there.
func (n *needs) find(ctx context.Context, b remote.Bucket, leases []slotted) (there []refNumber, err error) {
	expected := map[bucket.Writer]uint64{} // the next ref of each writer that has not been seen
	for _, l := range leases {
		expected[l.Writer] = bucket.FirstRef
	}
	missing := func(w bucket.Writer, end uint64) error {
		if end > expected[w] && end-expected[w] > maxMissing {
			return fmt.Errorf("%w: %s, and %d more", errLost, bucket.RefKey(w, expected[w]), end-expected[w]-1)
		}
		for ; expected[w] < end; expected[w]++ {
			there = append(there, refNumber{w, expected[w]})
		}
		return nil
	}
	for o, err := range b.List(ctx, bucket.RefsPrefix, "") {
		if err != nil {
			return nil, err
		}
		w, seq, ok := bucket.ParseNumbered(bucket.RefsPrefix, o.Key)
		if !ok {
			continue
		}
		if expected[w] == 0 {
			return nil, fmt.Errorf("%s: its writer has no lease: it is an older program, or the lease was deleted", o.Key)
		}
		if err := missing(w, seq); err != nil {
			return nil, err
		}
		if o.Size == bucket.GoneSize {
			n.forgotten++
		} else {
			there = append(there, refNumber{w, seq})
		}
		expected[w] = seq + 1
	}
	for _, l := range leases {
		if err := missing(l.Writer, l.Next); err != nil {
			return nil, err
		}
	}
	return there, nil
}

// maxMissing is how many refs of a writer a list may have left out.
const maxMissing = 10_000

// set gives the packs as a set.
func (n *needs) set() bucket.PackSet {
	ids := make([]bucket.PackID, 0, len(n.packs))
	for id := range n.packs {
		ids = append(ids, id)
	}
	return bucket.NewPackSet(ids...)
}
