package stage

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"stepfs/internal/check"
	"stepfs/internal/schema"
)

// stripes checks that every stripe that a needed content reads finds its bytes.
func (n *inodeCheck) stripes(g *check.Group) error {
	if g.Has(schema.PrefixStripe) && n.needs.versions == 0 && !n.queued {
		n.r.Leak("stripes-unowned", n.name, "there are stripes of it, and no version")
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
		fs, err := schema.DecodeStripe(v)
		if err != nil {
			return n.corrupt(err)
		}
		for _, f := range fs {
			h, err := n.gen(f.Gen)
			if err == nil {
				err = n.fragment(s, f, h, end)
			}
			if err != nil {
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

// fragment checks that the bytes of a fragment, up to the file offset limit,
// are where they should be.
func (n *inodeCheck) fragment(s uint32, f schema.Fragment, h *holding, limit int64) error {
	off := int64(s)*stripeSize + int64(f.Off)
	end := min(off+int64(f.Len), limit)
	if off >= end {
		return nil
	}
	missing := func(why string) {
		n.r.Damage("content-missing", n.name, "bytes %d to %d are in generation %d, %s", off, end, f.Gen, why)
	}
	switch {
	case h == nil:
		missing("which is none")
	case h.unread:
	case !h.found:
		missing("of which there is no record")
	case !h.held:
		n.r.Damage("hold-missing", n.name, "bytes %d to %d are in generation %d, on which it has no hold: it may be freed", off, end, f.Gen)
	case h.rec.File: // the file is looked for by generation
		return n.storedWell(f.Gen, off, min(end, h.rec.Stored))
	case h.rec.Inline:
		whole, err := n.inBlocks(f.Gen, off, end)
		if err == nil && !whole {
			missing("whose blocks in the index are not all there")
		}
		if err != nil {
			return err
		}
		return n.storedWell(f.Gen, off, min(end, h.rec.Stored))
	case end > h.rec.Stored:
		missing(fmt.Sprintf("which is neither staged nor stored so far (%d bytes are)", h.rec.Stored))
	default:
		whole, err := n.inChunks(f.Gen, off, end)
		if err != nil || whole {
			return err
		}
		missing("whose chunk map has a gap there")
	}
	return nil
}

// storedWell checks that what is said to be stored is, though there is still a
// copy to read it from.
func (n *inodeCheck) storedWell(gen uint64, off, end int64) error {
	whole, err := n.inChunks(gen, off, end)
	if err == nil && !whole {
		n.r.Damage("stored-short", n.name, "bytes %d to %d are said to be stored by generation %d, whose chunk map has a gap there: they go with its copy", off, end, gen)
	}
	return err
}

// inBlocks says whether the blocks of an inline generation hold a range.
func (n *inodeCheck) inBlocks(gen uint64, off, end int64) (bool, error) {
	for off < end {
		blk := off / schema.InlineBlock
		stop := min(end, (blk+1)*schema.InlineBlock)
		v, err := n.r.View.Get(schema.InlineKey(gen, uint32(blk)))
		if err = ignoreGone(err); err != nil || int64(len(v)) < stop-blk*schema.InlineBlock {
			return false, err
		}
		off = stop
	}
	return true, nil
}

// mapPage is the page of a chunk map that was looked at last: a file is gone
// through from front to back.
type mapPage struct {
	gen  uint64
	page uint32
	es   []schema.ChunkExtent
}

// inChunks says whether the chunk map of a generation covers a range.
func (n *inodeCheck) inChunks(gen uint64, off, end int64) (bool, error) {
	for off < end {
		page := uint32(off / schema.ChunkPage)
		if p := &n.page; p.gen != gen || p.page != page || p.es == nil {
			v, err := n.r.View.Get(schema.ChunkMapKey(gen, page))
			if err = ignoreGone(err); err != nil || v == nil {
				return false, err
			}
			es, err := schema.DecodeChunkMap(v)
			if err != nil {
				return true, nil // said by generation
			}
			*p = mapPage{gen, page, es}
		}
		k := slices.IndexFunc(n.page.es, func(e schema.ChunkExtent) bool { return e.Off <= off && off < e.Off+int64(e.Len) })
		if k < 0 {
			return false, nil
		}
		e := n.page.es[k]
		off = e.Off + int64(e.Len)
	}
	return true, nil
}
