package stage

import (
	"cmp"
	"math"
	"slices"

	"stepfs/internal/check"
	"stepfs/internal/schema"
)

// stripes checks that every stripe that a needed content reads finds its bytes.
func (n *inodeCheck) stripes(g *check.Group) error {
	if g.Has(schema.PrefixStripe) && n.needs.versions == 0 && !n.queued {
		n.r.Leak("stripes-unowned", n.name(), "there are stripes of it, and no version")
	}
	last, next := int64(-1), uint64(math.MaxUint64) // next: the version that follows this one
	return g.Each(schema.PrefixStripe, func(k, v []byte) error {
		s, ver, err := schema.ParseStripeKey(k)
		if err != nil {
			return n.corrupt(err)
		}
		if int64(s) != last {
			last, next = int64(s), math.MaxUint64
		}
		end := n.reach(s, ver, next)
		next = ver
		if n.frags, err = schema.AppendStripe(n.frags[:0], v); err != nil {
			return n.corrupt(err)
		}
		for _, f := range n.frags {
			if err := n.fragment(s, f, end); err != nil {
				return err
			}
		}
		return nil
	})
}

// reach is up to where a needed content reads a version of a stripe, whose
// successor is next; 0: none does.
func (n *inodeCheck) reach(s uint32, ver, next uint64) (end int64) {
	k, _ := slices.BinarySearchFunc(n.need, ver, func(c schema.Content, g uint64) int { return cmp.Compare(c.Gen, g) })
	for ; k < len(n.need) && n.need[k].Gen < next && end < int64(s+1)*stripeSize; k++ {
		if n.need[k].Base <= ver {
			end = max(end, n.need[k].Len)
		}
	}
	return end
}

// fragment claims the bytes of a fragment, up to the file offset limit.
func (n *inodeCheck) fragment(s uint32, f schema.Fragment, limit int64) error {
	off := int64(s)*stripeSize + int64(f.Off)
	end := min(off+int64(f.Len), limit)
	switch {
	case off >= end:
		return n.claims.add(f.Gen, claimNamed, 0, 0)
	case f.Gen == 0:
		n.r.Damage("content-missing", n.name(), "bytes %d to %d are in generation 0, which is none", off, end)
		return nil
	}
	return n.claims.add(f.Gen, claimBytes, off, end)
}
