package chunkstore

import (
	"context"
	"errors"
	"fmt"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/pack"
	"stepfs/chunkstore/remote"
)

// Published reads the chunks of one published snapshot out of a bucket: those in
// the packs that its ref names. It needs no store. Its methods are safe for
// concurrent use.
//
// Where chunks lie is read once, when it is opened (whereabouts.go). Payloads
// come in ranges, ahead of who reads (span.go), and stay encoded until a chunk is
// asked for; decoded chunks are cached as those of a Store. One that is stored as
// it is needs neither: it is held against its name when it comes, and read where
// it lies.
type Published struct {
	*Downloads
	where *whereabouts
	alone bool // the Downloads are its own
}

// Downloads is what the snapshots of one bucket that are open have in common:
// what is fetched and what is kept of it, within one limit for all.
type Downloads struct {
	decoder
	bucket remote.Bucket
	spans  *spans
	cache  *chunkCache
	loads  chan struct{} // chunks being decoded at a time, or waited for
}

// PublishedOptions bound what a Published keeps, or all of one Downloads. Zero
// means the default.
type PublishedOptions struct {
	AheadBytes int64 // encoded, fetched or being fetched: 64 MiB
	CacheBytes int64 // decoded: 64 MiB
}

func (o PublishedOptions) withDefaults() PublishedOptions {
	if o.AheadBytes <= 0 {
		o.AheadBytes = 64 << 20
	}
	if o.CacheBytes <= 0 {
		o.CacheBytes = 64 << 20
	}
	return o
}

// NewDownloads begins to read snapshots of a bucket. key is that of its config.
func NewDownloads(b remote.Bucket, key [32]byte, o PublishedOptions) *Downloads {
	o = o.withDefaults()
	d := &Downloads{decoder: newDecoder(namings{key}, o.AheadBytes), bucket: b, loads: make(chan struct{}, 8)}
	d.cache = newChunkCache(o.CacheBytes, d.buffers)
	d.spans = newSpans(o.AheadBytes, d.fetch, d.buffers.put)
	return d
}

// Close ends it. Nothing of it may be in use any more.
func (d *Downloads) Close() {
	d.spans.close()
	d.cache.drop()
	d.coders.close()
}

// Open finds out where the chunks of a snapshot lie.
func (d *Downloads) Open(ctx context.Context, ref *bucket.Ref) (*Published, error) {
	where, err := locateAll(ctx, d.bucket, ref)
	if err != nil {
		return nil, err
	}
	return &Published{Downloads: d, where: where}, nil
}

// OpenPublished is Open for who reads one snapshot alone.
func OpenPublished(ctx context.Context, b remote.Bucket, key [32]byte, ref *bucket.Ref, o PublishedOptions) (*Published, error) {
	d := NewDownloads(b, key, o)
	p, err := d.Open(ctx, ref)
	if err != nil {
		d.Close()
		return nil, err
	}
	p.alone = true
	return p, nil
}

// Close gives its memory back, and ends what it still fetches unless that is for
// others, too. Nothing of it may be in use any more.
func (p *Published) Close() {
	if p.alone {
		p.Downloads.Close()
		return
	}
	p.spans.forget(p.where)
}

// Ahead says which chunks will be read soon, in that order. They are fetched in
// the background, as far as there is room; it does not wait.
func (p *Published) Ahead(ids []ID) {
	var parts []*located
	for _, id := range ids {
		if e := p.cache.peek(id); e != nil {
			p.cache.release(e)
			continue
		}
		chain, err := p.where.chain(id)
		if err != nil {
			continue // whoever reads it is told
		}
		parts = append(parts, chain...)
	}
	p.spans.ahead(p.where, parts)
}

// ReadAt is as that of a Store: every byte comes from a chunk whose name was
// checked after decoding. Wrong bytes are fetched once more before they are
// ErrCorrupt; the error names chunk, pack and object.
func (p *Published) ReadAt(ctx context.Context, id ID, rawLen uint32, dst []byte, off int) error {
	if off < 0 || off > int(rawLen) || len(dst) > int(rawLen)-off {
		return fmt.Errorf("%w: %d bytes at %d of %d", ErrRange, len(dst), off, rawLen)
	}
	return p.read(ctx, id, rawLen, len(dst), func(plain []byte) error {
		copy(dst, plain[off:])
		return nil
	})
}

// Read is ReadAt without a copy: use is given the whole chunk, to be read until it
// returns.
func (p *Published) Read(ctx context.Context, id ID, rawLen uint32, use func(plain []byte) error) error {
	return p.read(ctx, id, rawLen, int(rawLen), use)
}

func (p *Published) read(ctx context.Context, id ID, rawLen uint32, n int, use func(plain []byte) error) error {
	l, err := p.where.find(id)
	if err != nil {
		return err
	}
	if l.raw != rawLen {
		return fmt.Errorf("%w: chunk %x, in %s, has %d bytes, %d were expected", ErrCorrupt, l.id, p.where.key(l), l.raw, rawLen)
	}
	if l.enc == pack.EncRaw {
		return p.readRaw(ctx, l, n, use)
	}
	for {
		mine := false
		e, err := p.cache.acquire(ctx, id, func() (*buffer, error) {
			mine = true
			return p.load(ctx, l)
		})
		if err == nil {
			defer p.cache.release(e)
			if len(e.buf.bytes) != int(rawLen) { // of another snapshot, whose footers say so
				return copyOut(id, nil, e.buf.bytes, 0, rawLen)
			}
			return use(e.buf.bytes)
		}
		if mine || ctx.Err() != nil || !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		// It was loaded for somebody else, who has gone away.
	}
}

// readRaw reads n bytes of a chunk that is stored as it is.
func (p *Published) readRaw(ctx context.Context, l *located, n int, use func(plain []byte) error) error {
	sp, payload, err := p.spans.take(ctx, p.where, l)
	if err != nil {
		return p.blame(l, err)
	}
	defer p.spans.releasePiece(sp, l, n)
	return use(payload)
}

// load fetches what a chunk is made of, decodes and verifies it.
func (p *Published) load(ctx context.Context, l *located) (*buffer, error) {
	chain, err := p.where.chainOf(l)
	if err != nil {
		return nil, err
	}
	return p.loadChain(ctx, chain)
}

func (p *Published) loadChain(ctx context.Context, chain []*located) (*buffer, error) {
	p.spans.demand(p.where, chain)
	select {
	case p.loads <- struct{}{}:
		defer func() { <-p.loads }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	b, err := p.decodeChain(ctx, chain, false)
	if errors.Is(err, errWrongName) {
		b, err = p.decodeChain(ctx, chain, true) // to say whose fault it is
	}
	return b, err
}

// decodeChain decodes a chunk: what it is made from first. One payload and two
// chunks are in memory at a time. Unless sure, only the last name is checked.
func (p *Published) decodeChain(ctx context.Context, chain []*located, sure bool) (b *buffer, err error) {
	for k := len(chain) - 1; k >= 0 && err == nil; k-- {
		under := b
		if l := chain[k]; l.base >= 0 {
			under = p.window(p.where.bases[l.base], under, l.raw)
		}
		b, err = p.decodeOne(ctx, chain[k], under.content(), sure || k == 0)
		p.buffers.put(under)
	}
	return b, err
}

func (p *Published) decodeOne(ctx context.Context, l *located, base []byte, sure bool) (*buffer, error) {
	sp, payload, err := p.spans.take(ctx, p.where, l)
	if err != nil {
		return nil, p.blame(l, err)
	}
	defer p.spans.release(sp, l)
	b := p.buffers.get(int(l.raw))
	if l.enc == pack.EncRaw {
		copy(b.bytes, payload) // as long: the footer was held against that
	} else if err = p.decode(l.enc, payload, b.bytes, base); err != nil {
		err = fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if err == nil && sure && l.enc != pack.EncRaw && !p.named(b.bytes, l.id) {
		err = fmt.Errorf("%w: %w", ErrCorrupt, errWrongName)
	}
	if err != nil {
		p.buffers.put(b)
		return nil, p.blame(l, err)
	}
	return b, nil
}

// blame names chunk and object in an error, and its kind.
func (p *Published) blame(l *located, err error) error {
	if kind := kindOf(err); kind != nil {
		err = fmt.Errorf("%w: %w", kind, err)
	}
	return fmt.Errorf("chunk %x, in %s at %d: %w", l.id, p.where.key(l), l.off, err)
}

// fetch gets a range of a pack, which may have come whole with its footer.
func (d *Downloads) fetch(ctx context.Context, s *span) error {
	if whole := s.where.whole[s.pack]; whole != nil && d.copySpan(whole, s) {
		return nil
	}
	return d.fetchSpan(ctx, d.bucket, s.where.packs[s.pack].Key(), s)
}
