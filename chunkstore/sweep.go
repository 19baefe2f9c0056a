package chunkstore

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2"

	"stepfs/chunkstore/pack"
	"stepfs/internal/journal"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// sweepChunks are swept in one transaction: a fraction of a millisecond
// of the ordering lock.
const sweepChunks = 16

// remove empties the packs of a group in the index, and unlinks those that are
// empty once that is durable.
func (c *collector) remove(g *group) error {
	c.pace.Skip()
	var pos journal.Pos
	var gone []*oldPack
	var err error
	for _, p := range g.packs {
		if p.left {
			c.note(p)
			continue
		}
		var end journal.Pos
		if end, err = c.sweep(p); err != nil {
			break
		}
		if p.gone {
			gone, pos = append(gone, p), end
		} else {
			c.note(p)
		}
	}
	if len(gone) == 0 {
		return err
	}
	if serr := c.db.Sync(pos); serr != nil {
		return errors.Join(err, serr)
	}
	for _, p := range gone {
		err = errors.Join(err, c.unlink(p))
	}
	return err
}

// sweep removes what is dead in a pack, and the pack's record if nothing else
// is left.
func (c *collector) sweep(p *oldPack) (journal.Pos, error) {
	left := 0
	for batch := range slices.Chunk(p.entries, sweepChunks) {
		if err := c.pace.Rest(); err != nil {
			return 0, err
		}
		var dead []ID
		kept := 0
		_, err := c.db.Update(schema.KindPrune, func(tx *state.Tx) (err error) {
			dead, kept, err = c.sweepSome(tx, p, batch)
			return err
		})
		if err != nil {
			return 0, err
		}
		left += kept
		c.stats.Chunks += len(dead)
		c.damage.forget(0, dead)
	}
	if left > 0 {
		return 0, nil
	}
	return c.removeRecord(p)
}

func (c *collector) sweepSome(tx *state.Tx, p *oldPack, batch []pack.Entry) (dead []ID, kept int, err error) {
	l := c.ledger(tx)
	it, err := l.references()
	if err != nil {
		return nil, 0, err
	}
	defer it.Close()
	for _, e := range batch {
		fate, err := l.sweepOne(it, p, e)
		if err != nil {
			return nil, 0, err
		}
		switch fate {
		case died:
			dead = append(dead, e.ID)
		case stays:
			kept++
		}
	}
	l.flush()
	return dead, kept, nil
}

// fate is what becomes of a chunk of a retiring pack.
type fate int

const (
	elsewhere fate = iota // it is read from another place
	died
	stays // alive
)

// sweepOne decides about one chunk. Only one with a dead key, no reference, and
// nothing made from it dies: should the first two ever disagree, it lives.
func (l *ledger) sweepOne(it *pebble.Iterator, p *oldPack, e pack.Entry) (fate, error) {
	loc, err := l.s.getChunk(l.tx, e.ID)
	if errors.Is(err, state.ErrNotFound) || err == nil && !p.has(loc, e) {
		return elsewhere, nil
	}
	if err != nil {
		return 0, err
	}
	d, err := l.dead(e.ID)
	if err != nil {
		return 0, err
	}
	held, err := l.held(it, e.ID)
	if err != nil {
		return 0, err
	}
	if d == nil || held {
		return stays, nil
	}
	if made, err := l.isBase(e.ID); made || err != nil {
		return stays, err
	}
	if link, err := linkOf(loc); err == nil && link.Depth > 0 {
		l.unlink(link.ID, e.ID)
	}
	l.unmark(e.ID)
	l.s.unkeep(d.Pack)
	l.tx.Delete(schema.ChunkKey(l.s.cfg.Domain, e.ID))
	return died, nil // it counts as dead in the pack already
}

// removeRecord makes the index forget an empty pack. One whose chunks are not
// all known must be empty by its counts too.
func (c *collector) removeRecord(p *oldPack) (journal.Pos, error) {
	gone := false
	pos, err := c.db.Update(schema.KindPrune, func(tx *state.Tx) error {
		l := c.ledger(tx)
		rec, err := l.pack(p.number)
		if err != nil {
			return err
		}
		if gone = p.listed || rec != nil && rec.DeadChunks == rec.Chunks; gone {
			up, err := uploadOf(tx, p.name)
			if err != nil {
				return err
			}
			p.stub = up != nil && up.State >= schema.UploadNamed
			tx.Delete(schema.PackKey(p.number))
			tx.Delete(schema.PackUploadKey(p.name)) // what lies in a bucket stays there
			l.packs[p.number] = nil
		}
		return nil
	})
	if err != nil || !gone {
		return 0, err
	}
	p.gone, p.away = true, c.isAway(p.number)
	c.leave(p.info)
	return pos, nil
}

// unlink removes the file of a pack whose record is durably gone. Readers that
// have it open go on.
func (c *collector) unlink(p *oldPack) error {
	path := c.fs.PathJoin(c.dir, p.name.FileName())
	err := c.fs.Remove(path)
	c.files.forget(path)
	c.freeName(p.name)
	c.damage.forget(p.number, nil)
	if p.stub && (err == nil || oserror.IsNotExist(err)) {
		err = c.removeStub(p.name)
	}
	if err != nil && !oserror.IsNotExist(err) {
		return fmt.Errorf("remove pack: %w", err) // adopted at the next Open, and collected then
	}
	c.stats.Packs++
	if !p.away {
		c.stats.Freed += int64(p.size)
	}
	return nil
}
