package chunkstore

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/pack"
	"stepfs/chunkstore/remote"
)

const (
	maxOthers       = 2 << 20 // chunks of others that are known, of 20 bytes each; the newest
	maxOtherFooters = 200_000 // and entries of footers
	othersEvery     = time.Minute
	indexPerChunk   = 40 // bytes that a chunk takes in an index object at least: name and sum are noise
	indexesAtOnce   = 4
)

// others knows what other writers have in the bucket, as far as index objects say:
// it is read once, and then what is new. It is a cache, and proves nothing. What
// is relied on is proved by the end of its pack, which is read then: the pack is
// there, and has the chunk. That it stays is for the lease to say, when the ref is
// put (bucket/prune). It is not safe for concurrent use.
type others struct {
	b      remote.Bucket
	self   bucket.Writer
	domain uint32
	max    int // maxOthers

	looked time.Time
	seen   map[bucket.Writer]uint64 // the last index object of each that was read
	packs  []bucket.Pack            // in the order in which they came
	gone   uint32                   // so many before them are not known any more
	chunks map[shortID]uint32       // the pack of each

	footers map[bucket.Pack]map[ID]pack.Base // of packs that were proved
	entries int                              // in them
}

// shortID begins a chunk's name: all of it is looked at in the footer.
type shortID [16]byte

func newOthers(b remote.Bucket, self bucket.Writer, domain uint32) *others {
	return &others{b: b, self: self, domain: domain, max: maxOthers, seen: map[bucket.Writer]uint64{}, chunks: map[shortID]uint32{}, footers: map[bucket.Pack]map[ID]pack.Base{}}
}

// find gives the pack of another writer in which a chunk lies, and what it is made
// from there; ok is false if there is none that may be used.
func (o *others) find(ctx context.Context, id ID, may func(bucket.Pack) bool) (p bucket.Pack, link pack.Base, ok bool, err error) {
	at, known := o.chunks[shortID(id[:])]
	if !known {
		return p, link, false, nil
	}
	if p = o.packs[at-o.gone]; !may(p) {
		return p, link, false, nil
	}
	footer, err := o.footer(ctx, p)
	link, ok = footer[id]
	return p, link, ok, err
}

// footer gives what is in a pack: nothing, if it is not there or damaged.
func (o *others) footer(ctx context.Context, p bucket.Pack) (map[ID]pack.Base, error) {
	if f, known := o.footers[p]; known {
		return f, nil
	}
	foot, err := bucket.ReadFooter(ctx, o.b, p)
	switch {
	case err != nil && kindOf(err) == nil:
		return nil, err
	case err != nil || foot.Domain != o.domain:
		foot.Entries = nil
	}
	f := make(map[ID]pack.Base, len(foot.Entries))
	for _, e := range foot.Entries {
		link := pack.Base{}
		if e.Enc == pack.EncDelta {
			if link, err = pack.ParseBase(e.Ext); err != nil {
				continue
			}
		}
		f[e.ID] = link
	}
	if o.entries += len(f) + 1; o.entries > maxOtherFooters {
		clear(o.footers)
		o.entries = len(f) + 1
	}
	o.footers[p] = f
	return f, nil
}

// refresh reads the index objects of others that have come, if it was not done a
// moment ago.
func (o *others) refresh(ctx context.Context) error {
	if !o.looked.IsZero() && time.Since(o.looked) < othersEvery {
		return nil
	}
	fresh, err := o.listed(ctx)
	if err != nil {
		return err
	}
	for batch := range slices.Chunk(fresh, indexesAtOnce) {
		read := make([]*bucket.Index, len(batch))
		g, ctx := errgroup.WithContext(ctx)
		for k, i := range batch {
			g.Go(func() (err error) {
				read[k], err = bucket.ReadIndex(ctx, o.b, i.writer, i.seq)
				if errors.Is(err, bucket.ErrFormat) || errors.Is(err, bucket.ErrVersion) || errors.Is(err, remote.ErrNotExist) || errors.Is(err, remote.ErrDamaged) {
					return nil // then it saves nothing
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		for k, i := range batch {
			o.add(read[k])
			o.seen[i.writer] = max(o.seen[i.writer], i.seq)
		}
	}
	o.looked = time.Now()
	return nil
}

// otherIndex is an index object that was not read yet.
type otherIndex struct {
	writer bucket.Writer
	seq    uint64
	size   int64
	made   time.Time
}

// listed gives those of other writers, the oldest first, and of very many the
// newest.
func (o *others) listed(ctx context.Context) (fresh []otherIndex, err error) {
	for x, err := range o.b.List(ctx, bucket.WritersPrefix, "") {
		if err != nil {
			return nil, err
		}
		w, ok := bucket.ParseWriterKey(x.Key)
		if !ok || w == o.self {
			continue
		}
		after := ""
		if seq := o.seen[w]; seq > 0 {
			after = bucket.IndexKey(w, seq)
		}
		for x, err := range o.b.List(ctx, bucket.IndexPrefix+w.String()+"/", after) {
			if err != nil {
				return nil, err
			}
			if _, seq, ok := bucket.ParseNumbered(bucket.IndexPrefix, x.Key); ok {
				fresh = append(fresh, otherIndex{w, seq, x.Size, x.Modified})
			}
		}
	}
	slices.SortFunc(fresh, func(a, b otherIndex) int { return cmp.Or(a.made.Compare(b.made), cmp.Compare(a.seq, b.seq)) })
	room := int64(o.max) * indexPerChunk
	for k := len(fresh) - 1; k >= 0; k-- {
		if room -= fresh[k].size; room < 0 {
			return fresh[k+1:], nil
		}
	}
	return fresh, nil
}

// add takes what is in an index object; nil: nothing.
func (o *others) add(x *bucket.Index) {
	if x == nil || x.Domain != o.domain {
		return
	}
	for _, p := range x.Packs {
		entries, err := p.Entries()
		if err != nil {
			continue
		}
		at := o.gone + uint32(len(o.packs))
		o.packs = append(o.packs, x.Pack(p))
		for _, e := range entries {
			o.chunks[shortID(e.ID[:])] = at
		}
	}
	for len(o.chunks) > o.max {
		o.halve()
	}
}

// halve forgets the packs that came first.
func (o *others) halve() {
	n := (len(o.packs) + 1) / 2
	o.gone += uint32(n)
	o.packs = slices.Clone(o.packs[n:])
	for id, at := range o.chunks {
		if at < o.gone {
			delete(o.chunks, id)
		}
	}
}
