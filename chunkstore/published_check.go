package chunkstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
)

// readers is how many chunks ReadAll decodes at a time.
const readers = 4

// Lost says of which packs nothing is known, and why.
func (p *Published) Lost() []error { return p.where.lost }

// Chunks is how many there are, each pack's copy by itself.
func (p *Published) Chunks() int { return len(p.where.chunks) }

// Has says what is wrong with a chunk, as far as footers tell; nil: it is there,
// of this length, and all that it is made from.
func (p *Published) Has(id ID, rawLen uint32) error {
	chain, err := p.where.chain(id)
	if err == nil && chain[0].raw != rawLen {
		err = fmt.Errorf("%w: chunk %x has %d bytes, %d were expected", ErrCorrupt, id, chain[0].raw, rawLen)
	}
	return err
}

// ChunkRead is what came of reading a chunk where it lies.
type ChunkRead struct {
	Object string // the pack's key
	Stored uint32 // bytes
	Err    error  // what is wrong with it; nil: nothing
}

// ReadAll reads every chunk in every pack, in the order in which they lie, and
// holds it against its name. fn hears of each, one call at a time. That one is
// damaged or missing ends nothing; an error of fn does, or one that says nothing
// of what is stored.
func (p *Published) ReadAll(ctx context.Context, fn func(ChunkRead) error) error {
	order := make([]*located, len(p.where.chunks))
	for k := range order {
		order[k] = &p.where.chunks[k]
	}
	slices.SortFunc(order, func(a, b *located) int { return cmp.Or(cmp.Compare(a.pack, b.pack), cmp.Compare(a.off, b.off)) })
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for k, l := range order {
		if ctx.Err() != nil {
			break
		}
		p.spans.ahead(p.where, order[k:min(k+64, len(order))])
		g.Go(func() error {
			err := p.readWhere(ctx, l)
			if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrMissing) {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			return fn(ChunkRead{p.where.key(l), l.stored, err})
		})
	}
	return g.Wait()
}

// readWhere reads a chunk from one of its places.
func (p *Published) readWhere(ctx context.Context, l *located) error {
	chain, err := p.where.chainOf(l)
	if err != nil {
		return err
	}
	b, err := p.loadChain(ctx, chain)
	p.buffers.put(b)
	return err
}
