package snapshot

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"strings"

	"stepfs/chunkstore"
	"stepfs/internal/schema"
	"stepfs/snapshot/align"
	"stepfs/snapshot/inspect"
)

// How a content is to be cut, and what its chunks may be made from, by what lies in
// packs already: where it was cut in the bucket from which it comes (known_cuts.go);
// the version stored last under the same key, whose chunks lie at
// the same offsets, or where the tensors have moved to (align.Moved); or, if it is
// bf16, the fp32 that it is rounded from, in another file of its directory
// (align.Rounded). What a file says of its tensors is a hint, and what can't be read
// of any file is none: the content is stored, whatever comes of this.

const (
	// minTensors is how long a file has to be for its tensors to be looked at.
	minTensors = 1 << 20
	// How many files of a directory are looked at for the fp32 of a bf16 one.
	maxBeside, maxWide = 4096, 16
)

// plan gives the plan of a content. later says that it has to wait: what it may be
// the rounding of is due, too, and has to be stored first.
func (s *storer) plan(ctx context.Context, src source, key string) (plan chunkstore.Plan, later bool, err error) {
	if plan = chunkstore.Unmoved(s.m.cuts.take(src.Ino()), src.segs); plan.Whole {
		return plan, false, nil
	}
	before, err := s.m.version(ctx, key)
	if err != nil {
		return plan, false, err
	}
	plan = chunkstore.Unmoved(before.refs, src.segs)
	size := src.size()
	if s.hasty || size < minTensors || len(src.segs) > 1 {
		return plan, false, nil
	}
	tensors, err := inspect.Tensors(ctx, key, src, size)
	if err != nil || len(tensors) == 0 {
		return plan, false, ctx.Err()
	}
	min, max := s.m.cfg.Chunks.Limits()
	limits := align.Limits{Min: min, Max: max}
	if align.Narrow(tensors, size) {
		if !s.isLater(src.Ino()) {
			return plan, true, nil
		}
		if p := s.rounded(ctx, src, tensors, key, limits); len(p.Pieces) > 0 {
			return p, false, ctx.Err()
		}
	}
	if !plan.Whole && len(before.refs) > 0 {
		if old, err := inspect.Tensors(ctx, key, before, before.size()); err == nil {
			if p := align.Moved(tensors, old, size, before.refs, limits); len(p.Pieces) > 0 {
				return p, false, ctx.Err()
			}
		}
	}
	return plan, false, ctx.Err()
}

// rounded looks for a file beside that of key that a content is the rounding of.
func (s *storer) rounded(ctx context.Context, src source, tensors []inspect.Tensor, key string, limits align.Limits) chunkstore.Plan {
	dir := key[:strings.LastIndexByte(key, '/')+1]
	keys, err := s.m.tree.PriorKeys(dir, maxBeside)
	if err != nil {
		return chunkstore.Plan{}
	}
	looked := 0
	for _, k := range keys {
		if k == key || strings.Contains(k[len(dir):], "/") || looked == maxWide {
			continue
		}
		wide, err := s.m.version(ctx, k)
		if err != nil || wide.size() < src.size() {
			continue
		}
		looked++
		others, err := inspect.Tensors(ctx, k, wide, wide.size())
		if err != nil {
			continue
		}
		p, err := align.Rounded(src, tensors, src.size(), wide, others, wide.refs, limits)
		if err == nil && len(p.Pieces) > 0 {
			return p
		}
	}
	return chunkstore.Plan{}
}

func (s *storer) isLater(ino uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.later[ino]
}

// version is the content that was stored last under a key, for whoever wants to
// read a little of it: from its hot copy, or else from packs.
type version struct {
	ctx  context.Context
	m    *Manager
	gen  uint64
	refs []chunkstore.Ref
}

// version gives it; there may be none.
func (m *Manager) version(ctx context.Context, key string) (*version, error) {
	gen, es, err := m.tree.Prior(key)
	v := &version{ctx, m, gen, wholeRefs(es)}
	return v, err
}

// wholeRefs gives the chunks of which all is there.
func wholeRefs(es []schema.ChunkExtent) (refs []chunkstore.Ref) {
	for _, e := range es {
		if e.Skip == 0 && e.Len == e.Raw {
			refs = append(refs, chunkstore.Ref{Off: e.Off, Len: e.Len, ID: e.ID})
		}
	}
	return refs
}

// size is where its last chunk ends.
func (v *version) size() int64 {
	if len(v.refs) == 0 {
		return 0
	}
	return v.refs[len(v.refs)-1].End()
}

// errAway: only the bucket has it. Ingest does not wait for that.
var errAway = errors.New("the version before is only in the bucket")

// ReadAt reads it; where it has no chunks it is zero.
func (v *version) ReadAt(b []byte, off int64) (int, error) {
	var eof error
	if left := v.size() - off; int64(len(b)) > left {
		b, eof = b[:max(left, 0)], io.EOF
	}
	if ok, err := v.m.tree.ReadCopy(v.gen, b, off); ok && err == nil {
		return len(b), eof
	}
	clear(b)
	end := off + int64(len(b))
	first, _ := slices.BinarySearchFunc(v.refs, off+1, func(r chunkstore.Ref, at int64) int { return cmp.Compare(r.End(), at) })
	for _, r := range v.refs[first:] {
		if r.Off >= end {
			break
		}
		if here, err := v.m.cfg.Chunks.Here(r.ID); err != nil || !here {
			return 0, errors.Join(err, errAway)
		}
		from, to := max(off, r.Off), min(end, r.End())
		if err := v.m.cfg.Chunks.ReadAt(v.ctx, r.ID, r.Len, b[from-off:to-off], int(from-r.Off)); err != nil {
			return 0, err
		}
	}
	return len(b), eof
}
