package chunkstore

import (
	"context"
	"errors"
	"slices"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/pack"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// What is there already. A chunk whose pack has not been sent may lie in the pack
// of another writer. Then the ref names that one, and no pack has to be sent for
// this chunk. It may be a delta there, of something else than here: so all of its
// chain is looked for, chunk by chunk, in the store's own packs that have arrived,
// or are sent anyway, and in those of others. Whoever reads takes of each chunk the
// place that can be made (whereabouts.go): of what the ref names the chain that was
// found is one.
//
// The invariant: of each chunk that was added the ref names the packs of a whole
// chain, and the lease allows each of them when the ref is put (bucket/prune).
// Others' packs have no other protection until the ref is there: when they are
// condemned first, the ref is refused (ErrTheirs), and what they held is sent.

// theirs are the packs of other writers that a snapshot needs.
type theirs struct {
	off     bool // nothing is looked for
	fresh   bool // index objects were looked for
	packs   []bucket.Pack
	named   map[bucket.Pack]struct{}
	arrived map[uint64]bool // of the store's own packs, by number, as far as it was asked
}

func (t *theirs) has(p bucket.Pack) bool {
	_, ok := t.named[p]
	return ok
}

func (t *theirs) add(p bucket.Pack) {
	if t.has(p) {
		return
	}
	if t.named == nil {
		t.named = map[bucket.Pack]struct{}{}
	}
	t.named[p] = struct{}{}
	t.packs = append(t.packs, p)
}

// lookLimit is how many chunks are looked at for the chain of one, at most.
const lookLimit = 64

// link is one chunk of a chain.
type link struct {
	id   ID
	own  bool
	pack bucket.Pack // of another writer, if not
	base pack.Base
}

// addThere adds what it takes to read a chunk, if nothing has to be sent for that.
// path is what is made from it and will be sent: the chain does not lead there.
// The first chunk, which is the root, is always sent: a ref's first pack holds it.
func (n *Needs) addThere(ctx context.Context, id ID, path []ID) (ok bool, err error) {
	if n.theirs.off || len(n.packs) == 0 {
		return false, nil
	}
	for range 3 { // what was found here may be moved meanwhile
		left := lookLimit
		chain, err := n.look(ctx, id, path, &left)
		if chain == nil || err != nil {
			return false, err
		}
		if ok, err := n.take(ctx, chain); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// take adds the packs of a chain.
func (n *Needs) take(ctx context.Context, chain []link) (ok bool, err error) {
	for _, l := range chain {
		if !l.own {
			continue
		}
		loc, err := n.pinned(ctx, l.id)
		if err != nil {
			return false, err
		}
		if base, err := linkOf(loc); err != nil || base != l.base {
			return false, err
		}
	}
	for _, l := range chain {
		if !l.own {
			n.theirs.add(l.pack)
		}
	}
	return true, nil
}

// look finds the chain of a chunk; nil: there is none.
func (n *Needs) look(ctx context.Context, id ID, path []ID, left *int) ([]link, error) {
	if *left--; *left < 0 || len(path) > pack.MaxDepth || slices.Contains(path, id) {
		return nil, nil
	}
	for _, find := range []func(context.Context, ID) (link, bool, error){n.lookHere, n.lookElsewhere} {
		l, ok, err := find(ctx, id)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		if l.base.Depth == 0 {
			return []link{l}, nil
		}
		rest, err := n.look(ctx, l.base.ID, append(path[:len(path):len(path)], id), left)
		if err != nil {
			return nil, err
		}
		if rest != nil {
			return append([]link{l}, rest...), nil
		}
	}
	return nil, nil
}

// lookHere finds a chunk in a pack of the store's own that is there, or will be.
func (n *Needs) lookHere(_ context.Context, id ID) (l link, ok bool, err error) {
	s := n.u.s
	loc, err := s.getChunk(s.db, id)
	if errors.Is(err, state.ErrNotFound) {
		return l, false, nil
	}
	if err != nil {
		return l, false, err
	}
	if ok, err = n.comes(loc.Pack); !ok || err != nil {
		return l, false, err
	}
	base, err := linkOf(loc)
	return link{id: id, own: true, base: base}, err == nil, err
}

// comes says whether a pack of the store's own is in the bucket, or is needed by
// the snapshot in any case.
func (n *Needs) comes(number uint64) (bool, error) {
	if _, needed := n.known[number]; needed {
		return true, nil
	}
	if arrived, asked := n.theirs.arrived[number]; asked {
		return arrived, nil
	}
	s := n.u.s
	s.mu.Lock()
	p := &neededPack{info: s.mu.table[number]}
	there := p.info != nil && !p.info.retiring
	if there {
		p.name = p.info.rec.Name
	}
	s.mu.Unlock()
	if !there {
		return false, nil
	}
	rec, err := uploadOf(s.db, p.name)
	if err != nil {
		return false, err
	}
	arrived := false
	if rec != nil && rec.State != schema.UploadReserved {
		p.rec = *rec
		arrived = n.mayUse(p.pack())
	}
	if n.theirs.arrived == nil {
		n.theirs.arrived = map[uint64]bool{}
	}
	n.theirs.arrived[number] = arrived
	return arrived, nil
}

func (n *Needs) mayUse(p bucket.Pack) bool { return n.u.attached.Load().lease.MayUse(p) }

// lookElsewhere finds a chunk in a pack of another writer.
func (n *Needs) lookElsewhere(ctx context.Context, id ID) (l link, ok bool, err error) {
	o := n.u.attached.Load().others
	if !n.theirs.fresh {
		if err := o.refresh(ctx); err != nil {
			return l, false, err
		}
		n.theirs.fresh = true
	}
	p, base, ok, err := o.find(ctx, id, n.mayUse)
	return link{id: id, pack: p, base: base}, ok, err
}
