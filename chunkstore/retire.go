package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/cockroachdb/errors/oserror"

	"stepfs/chunkstore/pack"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// group is packs that are collected together.
type group struct {
	old     []*packInfo
	naming  uint8 // of all of them
	rewrite bool  // copy what lives in them; else a pack with something alive stays
	packs   []*oldPack
	made    *packInfo // the new pack
	copied  deadCount // what it has to keep
	rebasing
}

// oldPack is a retiring pack.
type oldPack struct {
	info    *packInfo
	number  uint64
	name    pack.Name
	size    uint64
	entries []pack.Entry
	// listed: entries are all chunks of the pack. Otherwise its footer can't be
	// read, and they are those that the index says are dead in it.
	listed bool
	encode bool      // what is unencoded in it is to be encoded
	gone   bool      // its record is removed
	away   bool      // its file was not here, then
	stub   bool      // there may be a stub of it
	kept   deadCount // dead, and needed by what is made from it
	seen   uint64    // packInfo.changes before that was counted
	left   bool      // not worth its while because of those
}

// collect takes one group through all steps.
func (c *collector) collect(ctx context.Context, g *group) (err error) {
	if err := c.retire(g); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.revive(g)) }()
	if err := c.list(ctx, g); err != nil {
		return err
	}
	if err := c.rebase(ctx, g); err != nil {
		return err
	}
	if c.full {
		g.stay()
	}
	if g.rewrite || len(g.moved) > 0 {
		err := c.copyLive(ctx, g)
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			c.full, err = true, nil
			g.stay()
			if g.rewrite {
				return nil
			}
		}
		if err != nil {
			return err
		}
	}
	if err := c.sweepGoing(g); err != nil {
		return err
	}
	if g.made != nil {
		c.mu.Lock()
		if g.made.changes == 0 {
			g.made.kept = g.copied
		}
		c.mu.Unlock()
	}
	return c.remove(g)
}

// retire decides which packs of the group go, and says so in their records.
func (c *collector) retire(g *group) error {
	taken := g.old[:0]
	c.mu.Lock()
	for _, info := range g.old {
		if info.pins > 0 || info.evicting || g.rewrite && info.away {
			c.stats.Pinned++
			c.tried[info] = struct{}{}
			continue
		}
		info.retiring = true
		taken = append(taken, info)
		rec := info.rec
		g.packs = append(g.packs, &oldPack{info: info, number: info.number, name: rec.Name, size: rec.Size, encode: c.encodes(info), seen: info.changes})
	}
	c.mu.Unlock()
	g.old = taken
	if err := c.setState(taken, schema.PackRetiring); err != nil {
		c.live(taken)
		return err
	}
	return nil
}

// revive makes packs that were not removed live again.
func (c *collector) revive(g *group) error {
	var left []*packInfo
	for _, p := range append(slices.Clone(g.packs), g.lent...) {
		if !p.gone {
			left = append(left, p.info)
		}
	}
	err := c.setState(left, schema.PackLive)
	c.live(left)
	return err
}

func (s *Store) live(packs []*packInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, info := range packs {
		info.retiring = false
	}
}

// setState puts the state into the records of packs.
func (s *Store) setState(packs []*packInfo, to schema.PackState) error {
	if len(packs) == 0 {
		return nil
	}
	_, err := s.db.Update(schema.KindPackState, func(tx *state.Tx) error {
		l := s.ledger(tx)
		for _, info := range packs {
			rec, err := l.pack(info.number)
			if err != nil {
				return err
			}
			if rec != nil && rec.State != to {
				rec.State = to
				l.changed[info.number] = struct{}{}
			}
		}
		l.flush()
		return nil
	})
	return err
}

// list finds out what is in each pack.
func (c *collector) list(ctx context.Context, g *group) error {
	var unreadable []*oldPack
	for _, p := range g.packs {
		if err := ctx.Err(); err != nil {
			return err
		}
		f, err := c.readFooter(p.name)
		switch {
		case err == nil:
			p.entries, p.listed = f.Entries, true
		case g.rewrite:
			// Reported each time that it is found, which is once until the next Open.
			if err := c.unfit(p, err); err != nil {
				return err
			}
		case errors.Is(err, pack.ErrFormat) || oserror.IsNotExist(err):
			unreadable = append(unreadable, p)
		default:
			return fmt.Errorf("read pack %s: %w", p.name.FileName(), err)
		}
	}
	return c.listDead(ctx, unreadable)
}

// unfit notes that a pack can't be written again. An error that is the disk's
// and not the pack's is given back.
func (c *collector) unfit(p *oldPack, err error) error {
	switch {
	case oserror.IsNotExist(err):
		c.damage.losePack(p.number)
		err = fmt.Errorf("%w: pack %s", ErrMissing, p.name.FileName())
	case errors.Is(err, pack.ErrFormat):
		err = fmt.Errorf("%w: %w", ErrCorrupt, err)
	case errors.Is(err, ErrUnreachable): // of a base: it was reported
	case !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrMissing) && !badSector(err): // the second of a base
		return err
	}
	if !errors.Is(err, ErrUnreachable) {
		_ = c.report(err) // gives it back
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !p.info.unfit {
		p.info.unfit = true
		c.stats.Damaged++
	}
	return nil
}

// listDead finds the chunks of packs that can't be read and in which nothing
// lives: by a look at all dead keys, which damage alone makes necessary.
func (c *collector) listDead(ctx context.Context, packs []*oldPack) error {
	if len(packs) == 0 {
		return nil
	}
	byNumber := make(map[uint64]*oldPack)
	for _, p := range packs {
		byNumber[p.number] = p
	}
	it, err := c.db.NewIter(schema.ChunkDeadBounds())
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok && ctx.Err() == nil; ok = it.Next() {
		domain, id, err := schema.ParseChunkDeadKey(it.Key())
		if err != nil {
			return err
		}
		d, err := schema.DecodeDeadChunk(it.Value())
		if err != nil {
			return err
		}
		if p := byNumber[d.Pack]; p != nil && domain == c.cfg.Domain {
			p.entries = append(p.entries, pack.Entry{ID: id, Stored: d.Stored})
		}
	}
	return errors.Join(it.Error(), ctx.Err())
}
