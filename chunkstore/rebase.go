package chunkstore

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"stepfs/chunkstore/pack"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// A chunk that nobody holds may be needed by what is made from it. How that
// space comes back:
//
//   - What is dead and needed by nothing that lives, however many chunks lie in
//     between, goes.
//   - A dead chunk that exactly one other needs goes, too: the other one is made
//     from what the dead one was made from, or from nothing, and so takes its
//     place. That takes less than both did.
//   - A dead chunk that two or more need stays. So of the chunks that deltas are
//     made from fewer are dead than are alive, and of a run of which one version
//     is left, that alone.
//
// What is written anew lies in a pack that is retiring (it is lent, if it is not
// collected itself): then no Pending depends on the place that it leaves.
//
// Rejected: making all others from the first one, so that nothing dead is ever
// kept. Each version that expires from a rotation would write the whole of the
// next again.

// rebasing is what a group does about bases.
type rebasing struct {
	lent  []*oldPack       // retiring, though not collected
	kept  map[ID]bool      // dead, and needed by two or more: copied like what lives
	moved map[ID]pack.Base // to be made from this base; depth 0: from none
	going map[ID]uint8     // dead, and how deep: swept apart from their packs
}

// stay has nothing made anew: there is no room for it. What was to go stays, for
// what is made from it.
func (g *group) stay() {
	clear(g.moved)
	clear(g.going)
}

// need is a chunk on the way from a base to what needs it.
type need struct {
	id   ID
	loc  schema.ChunkLoc
	link pack.Base
	dead bool
}

// deltas is what is made from what, as it was when a group was begun.
type deltas struct {
	*Store
	g  *group
	it *pebble.Iterator
}

// rebase decides about the dead bases in the packs of a group. A pack that is
// not worth its while because of what has to be kept is left as it is.
func (c *collector) rebase(ctx context.Context, g *group) error {
	g.kept, g.moved, g.going = map[ID]bool{}, map[ID]pack.Base{}, map[ID]uint8{}
	lower, upper := schema.ChunkBaseBounds()
	it, err := c.db.NewIter(lower, upper)
	if err != nil {
		return err
	}
	defer it.Close()
	if !it.First() {
		return it.Error() // a store without deltas
	}
	d := &deltas{c.Store, g, it}
	for _, p := range g.packs {
		if err := ctx.Err(); err != nil {
			return err
		}
		if p.listed {
			if err := c.rebasePack(d, p); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *collector) rebasePack(d *deltas, p *oldPack) error {
	var free []need
	for _, e := range p.entries {
		n, ok, err := d.look(e.ID)
		if err != nil {
			return err
		}
		if !ok || !n.dead || !p.has(n.loc, e) {
			continue
		}
		needed, _, err := d.needs(n)
		switch {
		case err != nil:
			return err
		case len(needed) >= 2:
			p.kept.add(e.Stored)
			d.g.kept[e.ID] = true
		default:
			free = append(free, n)
		}
	}
	if p.kept.chunks > 0 && (!d.g.rewrite || !p.encode && c.share(p) < c.opts.DeadShare) {
		p.left = true
		return nil
	}
	for _, n := range free {
		if err := c.free(d, n); err != nil {
			return err
		}
	}
	return nil
}

// share is how much of a pack could go, with what it has to keep.
func (c *collector) share(p *oldPack) float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return candidate{p.info, p.info.rec, p.kept}.share()
}

// look gives a chunk as the index has it.
func (d *deltas) look(id ID) (n need, ok bool, err error) {
	n.id = id
	if n.loc, err = d.getChunk(d.db, id); err == nil {
		n.link, err = linkOf(n.loc)
	}
	if err != nil {
		if errors.Is(err, state.ErrNotFound) {
			err = nil
		}
		return n, false, err
	}
	_, err = d.db.Get(schema.ChunkDeadKey(d.cfg.Domain, id))
	if n.dead = err == nil; errors.Is(err, state.ErrNotFound) {
		err = nil
	}
	return n, err == nil, err
}

// needs gives what lives, or is needed itself, among what is made from n, up to
// two; and, below those that were looked at, all that is needed by nothing.
func (d *deltas) needs(n need) (needed, useless []need, err error) {
	for id, link := range d.g.moved {
		if link.Depth > 0 && link.ID == n.id {
			return []need{{id: id}, {id: id}}, nil, nil // it has just got its place by n: n stays
		}
	}
	prefix := schema.ChunkBasePrefix(d.cfg.Domain, n.id)
	var made []ID // the iterator is needed for what is below, too
	for ok := d.it.SeekGE(prefix); ok; ok = d.it.Next() {
		domain, base, id, err := schema.ParseChunkBaseKey(d.it.Key())
		if err != nil {
			return nil, nil, err
		}
		if domain != d.cfg.Domain || base != n.id {
			break
		}
		_, moved := d.g.moved[id]
		if _, going := d.g.going[id]; !moved && !going {
			made = append(made, id)
		}
	}
	if err := d.it.Error(); err != nil {
		return nil, nil, err
	}
	for _, id := range made {
		x, ok, err := d.look(id)
		if err != nil {
			return nil, nil, err
		}
		if !ok || x.link.ID != n.id || x.link.Depth <= n.link.Depth {
			continue // damage: it is not for us to go round in circles
		}
		if x.dead {
			below, not, err := d.needs(x)
			if err != nil {
				return nil, nil, err
			}
			if useless = append(useless, not...); len(below) == 0 {
				useless = append(useless, x)
				continue
			}
		}
		if needed = append(needed, x); len(needed) == 2 {
			return needed, useless, nil
		}
	}
	return needed, useless, nil
}

// free has a dead chunk go, which one other needs at most. If something stands
// in the way, it stays.
func (c *collector) free(d *deltas, n need) error {
	going, last := []need{n}, n // last: what the one that is moved is made from now
	var move *need
	for move == nil {
		needed, useless, err := d.needs(last)
		if err != nil {
			return err
		}
		going = append(going, useless...)
		if len(needed) == 0 {
			break
		}
		if len(needed) > 1 { // below n, so last is needed itself
			move = &last
			going = slices.DeleteFunc(going, func(x need) bool { return x.id == last.id })
			break
		}
		if last = needed[0]; last.dead {
			going = append(going, last)
		} else {
			move = &last
		}
	}
	if len(going) == 1 && move == nil {
		return nil // the sweep of its pack has it
	}
	for _, x := range going {
		if ok, err := c.lend(d.g, x.loc.Pack); !ok || err != nil {
			return err
		}
	}
	if move != nil {
		if ok, err := c.lend(d.g, move.loc.Pack); !ok || err != nil {
			return err
		}
		link, err := d.above(*move, going)
		if err != nil {
			return err
		}
		link.Turn = move.link.Turn
		d.g.moved[move.id] = link
	}
	for _, x := range going {
		d.g.going[x.id] = x.link.Depth
	}
	return nil
}

// above gives what x is made from when more are going: the first on the way up
// that stays, and the window in that. It is less deep than those were.
func (d *deltas) above(x need, more []need) (pack.Base, error) {
	var window pack.Window
	for n := x; n.link.Depth > 0; {
		base, ok, err := d.look(n.link.ID)
		if err != nil || !ok {
			return pack.Base{}, err
		}
		if window, ok = window.Over(n.link.Window, x.loc.Raw); !ok {
			return pack.Base{}, nil
		}
		_, going := d.g.going[base.id]
		going = going || slices.ContainsFunc(more, func(y need) bool { return y.id == base.id })
		if !going && base.dead {
			needed, _, err := d.needs(base)
			if err != nil {
				return pack.Base{}, err
			}
			going = len(needed) < 2
		}
		if !going {
			if base.link.Depth >= n.link.Depth || base.loc.Raw != window.BaseRaw(x.loc.Raw) {
				return pack.Base{}, nil
			}
			return pack.Base{ID: base.id, Depth: base.link.Depth + 1, Window: window}, nil
		}
		n = base
	}
	return pack.Base{}, nil
}

// lend makes a pack retire for as long as the group is at work, so that what
// lies in it may move; false: somebody depends on it.
func (c *collector) lend(g *group, number uint64) (bool, error) {
	mine := func(p *oldPack) bool { return p.number == number }
	if slices.ContainsFunc(g.packs, mine) || slices.ContainsFunc(g.lent, mine) {
		return true, nil
	}
	c.mu.Lock()
	info := c.mu.table[number]
	ok := info != nil && info.pins == 0 && !info.evicting && c.collectable(number)
	if ok {
		info.retiring = true
		g.lent = append(g.lent, &oldPack{info: info, number: number, name: info.rec.Name})
	}
	c.mu.Unlock()
	if !ok {
		return false, nil
	}
	return true, c.setState([]*packInfo{info}, schema.PackRetiring)
}

// remake writes what is to be made from another base.
func (c *collector) remake(ctx context.Context, pw *packWriter, g *group) error {
	for id, link := range g.moved {
		if err := c.remakeOne(pw, id, link); errors.Is(err, ErrCorrupt) || errors.Is(err, ErrMissing) || errors.Is(err, ErrUnreachable) {
			continue // it was reported; what it is made from now is needed still
		} else if err != nil {
			return err
		}
		if err := c.rate.wait(ctx, int64(pw.entries[len(pw.entries)-1].Stored)); err != nil {
			return err
		}
	}
	return nil
}

func (c *collector) remakeOne(pw *packWriter, id ID, link pack.Base) error {
	loc, err := c.getChunk(c.db, id)
	if err != nil {
		return err
	}
	plain, err := c.whole(id, loc.Raw, pack.MaxDepth+1, true)
	if err != nil {
		return err
	}
	defer c.buffers.put(plain)
	var from *base
	if link.Depth > 0 {
		under, err := c.baseBytes(id, link, loc.Raw, true)
		if err != nil {
			return err
		}
		defer c.buffers.put(under)
		from = &base{link: link, plain: under}
	}
	b := c.buffers.get(pack.PartHeaderSize + int(loc.Raw))
	defer c.buffers.put(b)
	copy(b.bytes[pack.PartHeaderSize:], plain.bytes)
	if err := c.fill(pw); err != nil {
		return err
	}
	part := c.encodeAnew(b.bytes, from)
	defer c.buffers.put(part.scratch)
	c.stats.Remade++
	return pw.write(part, pack.Entry{ID: id, Type: pack.Type(loc.Type), Raw: loc.Raw})
}

// sweepGoing removes the dead of which nothing is made any more, those first
// that are made from others of them.
func (c *collector) sweepGoing(g *group) error {
	ids := slices.SortedFunc(maps.Keys(g.going), func(a, b ID) int { return cmp.Compare(g.going[b], g.going[a]) })
	packs := append(slices.Clone(g.packs), g.lent...)
	for batch := range slices.Chunk(ids, sweepChunks) {
		if err := c.pace.Rest(); err != nil {
			return err
		}
		var dead []ID
		_, err := c.db.Update(schema.KindPrune, func(tx *state.Tx) error {
			dead = dead[:0]
			l := c.ledger(tx)
			it, err := l.references()
			if err != nil {
				return err
			}
			defer it.Close()
			for _, id := range batch {
				i := -1
				if loc, err := c.getChunk(tx, id); err == nil {
					i = slices.IndexFunc(packs, func(p *oldPack) bool { return p.number == loc.Pack })
				}
				if i < 0 {
					continue // stored anew meanwhile
				}
				at := oldPack{number: packs[i].number} // wherever it is in there
				if fate, err := l.sweepOne(it, &at, pack.Entry{ID: id}); err != nil {
					return err
				} else if fate == died {
					dead = append(dead, id)
				}
			}
			l.flush()
			return nil
		})
		if err != nil {
			return err
		}
		c.stats.Chunks += len(dead)
		c.damage.forget(0, dead)
	}
	return nil
}
