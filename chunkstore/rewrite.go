package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"stepfs/chunkstore/pack"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// copyLive writes what lives in the packs into a new one, and makes that the
// place of what still lives in them once it is durable.
func (c *collector) copyLive(ctx context.Context, g *group) error {
	pw := c.newPackWriter(lane{naming: g.naming}, g.stillThere)
	for _, p := range g.packs {
		if !g.rewrite || p.left {
			continue
		}
		g.copied.chunks += p.kept.chunks
		g.copied.bytes += p.kept.bytes
		if err := c.copyFrom(ctx, pw, g, p); err != nil {
			pw.discard()
			return err
		}
	}
	if err := c.remake(ctx, pw, g); err != nil {
		pw.discard()
		return err
	}
	if len(pw.entries) == 0 {
		pw.discard()
		return nil
	}
	if err := pw.seal(); err != nil {
		return err
	}
	c.mu.Lock()
	g.made = pw.info
	c.stats.Written += int64(pw.info.rec.Size)
	c.mu.Unlock()
	return nil
}

// stillThere says whether a chunk that was copied is to be read from its copy:
// not if it was stored anew meanwhile, since then somebody depends on that
// place. One that has died is dead in its new place.
func (g *group) stillThere(l *ledger, e pack.Entry) (bool, error) {
	loc, err := l.s.getChunk(l.tx, e.ID)
	if errors.Is(err, state.ErrNotFound) {
		return false, nil
	}
	here := func(p *oldPack) bool { return p.number == loc.Pack }
	return err == nil && (slices.ContainsFunc(g.packs, here) || slices.ContainsFunc(g.lent, here)), err
}

func (c *collector) copyFrom(ctx context.Context, pw *packWriter, g *group, p *oldPack) error {
	if len(p.entries) == 0 {
		return nil
	}
	path := c.fs.PathJoin(c.dir, p.name.FileName())
	f, err := c.files.acquire(path)
	if err != nil {
		return c.unfit(p, err)
	}
	defer c.files.release(f)
	for _, e := range p.entries {
		if _, moved := g.moved[e.ID]; moved {
			continue
		}
		if ok, err := c.livesIn(p, e, g.kept[e.ID]); err != nil {
			return err
		} else if !ok {
			continue
		}
		if err := c.copyChunk(pw, p, f, e); err != nil {
			return err
		}
		if err := c.rate.wait(ctx, int64(e.Stored)); err != nil {
			return err
		}
	}
	return nil
}

// copyChunk puts one chunk into pw, encoded as it is or now, once it has proved
// to be what its name says. One that does not stays where it is.
func (c *collector) copyChunk(pw *packWriter, p *oldPack, f *packFile, e pack.Entry) error {
	room := pack.PartHeaderSize + len(e.Ext)
	b := c.buffers.get(room + int(e.Stored))
	defer c.buffers.put(b)
	copy(b.bytes[pack.PartHeaderSize:], e.Ext)
	payload := b.bytes[room:]
	if err := c.verify(f, e, payload); err != nil {
		if under := (*baseError)(nil); errors.Is(err, ErrCorrupt) && !errors.As(err, &under) {
			c.damage.badChunk(e.ID)
		}
		return c.unfit(p, fmt.Errorf("pack %s, chunk %x at %d: %w", p.name.FileName(), e.ID, e.Offset, err))
	}
	if err := c.fill(pw); err != nil {
		return err
	}
	part := encoded{enc: e.Enc, ext: e.Ext, out: b.bytes}
	if e.Enc == pack.EncRaw && p.encode {
		part = c.encodeAnew(b.bytes, nil)
		defer c.buffers.put(part.scratch)
	}
	if err := pw.write(part, e); err != nil {
		return err
	}
	c.stats.Copied += int64(e.Stored)
	return nil
}

// fill makes the file of a pack that Collect writes. Not create: one pack of
// ours at a time waits for no slot, and takes none from ingest however slowly it
// is filled.
func (c *collector) fill(pw *packWriter) error {
	if pw.file != nil {
		return nil
	}
	return pw.open()
}

// encodeAnew encodes a chunk of which nobody knows any more where it lay in its
// file: where its elements begin is found by trying.
func (c *collector) encodeAnew(part []byte, from *base) encoded {
	coder := c.coders.get()
	defer c.coders.put(coder)
	return c.encode(coder, part, coder.Phase(part[pack.PartHeaderSize:]), from)
}

// verify reads a payload and proves it.
func (c *collector) verify(f *packFile, e pack.Entry, payload []byte) error {
	if err := readStored(f, payload, e.PayloadOffset()); err != nil {
		return damaged(err)
	}
	plain := payload
	if e.Enc != pack.EncRaw {
		out := c.buffers.get(int(e.Raw))
		defer c.buffers.put(out)
		under, err := c.under(e.ID, chunkLoc(0, e), true)
		if err == nil {
			defer c.buffers.put(under)
			err = c.decode(e.Enc, payload, out.bytes, under.content())
		}
		if err != nil {
			return damaged(err)
		}
		plain = out.bytes
	}
	if !c.named(plain, e.ID) {
		return damaged(errWrongName)
	}
	return nil
}

// damaged makes what is wrong with stored bytes an ErrCorrupt; an error of the
// disk, which says nothing about them, stays what it is.
func damaged(err error) error {
	var io *ioError
	if errors.As(err, &io) {
		return io.err
	}
	var under *baseError
	if errors.As(err, &under) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrCorrupt, err)
}

// livesIn says whether a chunk is read from this place and is not dead, or kept
// although it is, as far as can be seen outside of a transaction: sweep looks again.
func (c *collector) livesIn(p *oldPack, e pack.Entry, kept bool) (bool, error) {
	loc, err := c.getChunk(c.db, e.ID)
	if errors.Is(err, state.ErrNotFound) {
		return false, nil
	}
	if err != nil || !p.has(loc, e) || kept {
		return kept && err == nil && p.has(loc, e), err
	}
	_, err = c.db.Get(schema.ChunkDeadKey(c.cfg.Domain, e.ID))
	if errors.Is(err, state.ErrNotFound) {
		return true, nil
	}
	return false, err
}

// has says whether loc is the part e of the pack.
func (p *oldPack) has(loc schema.ChunkLoc, e pack.Entry) bool {
	return loc.Pack == p.number && (!p.listed || loc.Offset == e.PayloadOffset())
}
