package chunkstore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"sync"

	"golang.org/x/sync/errgroup"

	"stepfs/chunkstore/bucket"
	"stepfs/chunkstore/pack"
	"stepfs/chunkstore/remote"
)

const (
	ownFooters = 32      // so many packs are asked for their footers, and no index
	askAtOnce  = 32      // requests for footers at a time,
	indexOnce  = 8       // and for index objects
	keptWhole  = 4 << 20 // bytes of small packs, which came with their footers
)

// located says where a chunk lies in the packs of a ref. There is one for each
// chunk, so it is small.
type located struct {
	id    ID
	off   int64  // of the payload, in the pack
	crc   uint32 // of the payload
	pack  uint32 // place in whereabouts.packs
	base  int32  // place in whereabouts.bases; -1: none
	depth uint8  // so many bases it takes, one from the other; notMade: they are not all there
	enc   pack.Encoding

	stored, raw uint32 // lengths
	taken       int64  // under spans.mu: how much had been read once it was
}

// whereabouts is where the chunks of a ref lie. It does not change.
type whereabouts struct {
	packs  []bucket.Pack
	chunks []located   // by ID
	best   map[int]int // of an ID that is there twice: its first place in chunks, and the least deep one, if it is another
	bases  []pack.Base
	lost   []error // of packs of which nothing is known

	// Small packs, by their place: all of them came with their footers. What is in
	// them is not held against anything yet.
	whole map[uint32][]byte
}

// notMade is the depth of a delta whose bases are not all in the packs of the ref.
const notMade = math.MaxUint8

// locateAll reads the footers of a ref's packs: out of index objects, the newest
// first, where there are many, and from the packs' ends what is not found there.
// That a pack is there is only known when something is read from it. One that is
// not there, or damaged, keeps nobody from reading the others.
func locateAll(ctx context.Context, b remote.Bucket, ref *bucket.Ref) (*whereabouts, error) {
	f := &finder{bucket: b, ref: ref, missing: make(map[string]int, len(ref.Packs)), why: map[int]error{}, found: whereabouts{whole: map[uint32][]byte{}}}
	for k, p := range ref.Packs {
		f.missing[p.Key()] = k
	}
	many := len(ref.Packs) > ownFooters
	if many {
		if err := f.askIndex(ctx); err != nil {
			return nil, err
		}
	}
	if err := f.askPacks(ctx); err != nil {
		return nil, err
	}
	if !many && !f.done() {
		if err := f.askIndex(ctx); err != nil { // it may know what the pack's end does not tell any more
			return nil, err
		}
	}
	w := &f.found
	for _, k := range f.missing {
		w.lost = append(w.lost, f.why[k])
	}
	w.packs = ref.Packs
	w.measure()
	return w, nil
}

// finder is what locateAll knows so far.
type finder struct {
	bucket remote.Bucket
	ref    *bucket.Ref

	mu      sync.Mutex
	missing map[string]int // key of a pack whose footer is not known: its place
	why     map[int]error  // place of a pack: what was wrong with it
	found   whereabouts
	kept    int // bytes in found.whole
}

// add takes the footer of a pack, unless it is known.
func (f *finder) add(p bucket.Pack, entries []pack.Entry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	k, ok := f.missing[p.Key()]
	if !ok || f.ref.Packs[k].Size != p.Size {
		return
	}
	delete(f.missing, p.Key())
	for _, e := range entries {
		l := located{id: e.ID, off: e.PayloadOffset(), crc: e.CRC, pack: uint32(k), base: -1, enc: e.Enc, stored: e.Stored, raw: e.Raw}
		if e.Enc == pack.EncDelta {
			link, err := pack.ParseBase(e.Ext)
			if err != nil {
				continue // no footer that was parsed has such a one
			}
			l.base, l.depth = int32(len(f.found.bases)), link.Depth
			f.found.bases = append(f.found.bases, link)
		}
		f.found.chunks = append(f.found.chunks, l)
	}
}

// keep keeps a pack that came whole, as far as there is room.
func (f *finder) keep(k int, whole []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if whole != nil && f.kept+len(whole) <= keptWhole {
		f.found.whole[uint32(k)] = whole
		f.kept += len(whole)
	}
}

func (f *finder) done() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.missing) == 0
}

// askIndex looks for footers in the index objects of the writers of the packs.
// They are no more than a cache: one that is damaged, or has gone, is passed over.
func (f *finder) askIndex(ctx context.Context) error {
	var writers []bucket.Writer
	for _, p := range f.ref.Packs {
		if !slices.Contains(writers, p.Writer) {
			writers = append(writers, p.Writer)
		}
	}
	for _, w := range writers {
		seqs, err := listNumbered(ctx, f.bucket, bucket.IndexPrefix, w)
		if err != nil {
			return err
		}
		slices.Reverse(seqs)
		for batch := range slices.Chunk(seqs, indexOnce) {
			if f.done() {
				return nil
			}
			g, ctx := errgroup.WithContext(ctx)
			for _, seq := range batch {
				g.Go(func() error { return f.askOne(ctx, w, seq) })
			}
			if err := g.Wait(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *finder) askOne(ctx context.Context, w bucket.Writer, seq uint64) error {
	x, err := bucket.ReadIndex(ctx, f.bucket, w, seq)
	if errors.Is(err, bucket.ErrFormat) || errors.Is(err, remote.ErrNotExist) || errors.Is(err, remote.ErrDamaged) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, p := range x.Packs {
		if entries, err := p.Entries(); err == nil {
			f.add(x.Pack(p), entries)
		}
	}
	return nil
}

// listNumbered gives the numbers of a writer's objects, in ascending order.
func listNumbered(ctx context.Context, b remote.Bucket, prefix string, w bucket.Writer) (seqs []uint64, err error) {
	for o, err := range b.List(ctx, prefix+w.String()+"/", "") {
		if err != nil {
			return nil, err
		}
		if _, seq, ok := bucket.ParseNumbered(prefix, o.Key); ok {
			seqs = append(seqs, seq)
		}
	}
	return seqs, nil
}

// askPacks reads the footers that are not known yet from the packs.
func (f *finder) askPacks(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(askAtOnce)
	for k, p := range f.ref.Packs {
		f.mu.Lock()
		at, missing := f.missing[p.Key()]
		f.mu.Unlock()
		if !missing || at != k {
			continue
		}
		g.Go(func() error {
			footer, whole, err := bucket.ReadTail(ctx, f.bucket, p)
			kind := kindOf(err)
			switch {
			case kind != nil:
				f.mu.Lock()
				f.why[k] = fmt.Errorf("%w: a pack of ref %s: %w", kind, f.ref.Key(), err)
				f.mu.Unlock()
			case err != nil:
				return err
			default:
				f.add(p, footer.Entries)
				f.keep(k, whole)
			}
			return nil
		})
	}
	return g.Wait()
}

// kindOf says whether an error of a request means that stored bytes are missing
// or damaged, and not merely that they could not be had now.
func kindOf(err error) error {
	switch {
	case errors.Is(err, remote.ErrNotExist):
		return ErrMissing
	case errors.Is(err, remote.ErrDamaged), errors.Is(err, bucket.ErrFormat), errors.Is(err, pack.ErrFormat):
		return ErrCorrupt
	}
	return nil
}

// key is the object in which a chunk lies.
func (w *whereabouts) key(l *located) string { return w.packs[l.pack].Key() }

// measure finds out how deep chunks are in these packs, of which each was written
// for itself: of a chunk that is in two of them one may be made from what is in
// none, and what is whole in one may be a delta in another, even of what is made
// from it there. A delta gets its depth behind its base, and is less deep than
// nothing that had one before: so chains end.
func (w *whereabouts) measure() {
	slices.SortFunc(w.chunks, func(a, b located) int {
		return cmp.Or(bytes.Compare(a.id[:], b.id[:]), cmp.Compare(a.depth, b.depth), cmp.Compare(a.pack, b.pack))
	})
	var open []int
	for k := range w.chunks {
		if w.chunks[k].base >= 0 {
			open = append(open, k)
		}
	}
	// As written a base is less deep than what is made from it: one pass, mostly.
	slices.SortStableFunc(open, func(a, b int) int { return cmp.Compare(w.chunks[a].depth, w.chunks[b].depth) })
	for _, k := range open {
		w.chunks[k].depth = notMade
	}
	w.best = map[int]int{}
	for pass, more := 0, true; more && pass <= pack.MaxDepth; pass++ {
		left := open[:0]
		for _, k := range open {
			if l := &w.chunks[k]; !w.reaches(l) {
				left = append(left, k)
			} else if at := w.first(l.id); l.depth < w.chunks[w.leastFrom(at)].depth {
				w.best[at] = k
			}
		}
		more, open = len(left) < len(open) && len(left) > 0, left
	}
}

// reaches says whether the base of a delta can be had by now, and how deep it
// then is itself.
func (w *whereabouts) reaches(l *located) bool {
	link := w.bases[l.base]
	at := w.first(link.ID)
	if at < 0 {
		return false
	}
	base := &w.chunks[w.leastFrom(at)]
	if base.depth >= pack.MaxDepth || !baseFits(link, base, l) {
		return false
	}
	l.depth = base.depth + 1
	return true
}

// baseFits says whether base may be that of l, as far as lengths tell.
func baseFits(link pack.Base, base, l *located) bool {
	return base.raw == link.BaseRaw(l.raw) && link.Size(l.raw) <= pack.MaxRaw
}

// first gives the first place of an ID in chunks; -1: it is in none.
func (w *whereabouts) first(id ID) int {
	k, ok := sort.Find(len(w.chunks), func(k int) int { return bytes.Compare(id[:], w.chunks[k].id[:]) })
	if !ok {
		return -1
	}
	return k
}

// leastFrom gives the least deep place of the ID whose first one is at.
func (w *whereabouts) leastFrom(at int) int {
	if k, other := w.best[at]; other {
		return k
	}
	return at
}

// find gives the place of a chunk that is the least deep.
func (w *whereabouts) find(id ID) (*located, error) {
	at := w.first(id)
	switch {
	case at >= 0:
		return &w.chunks[w.leastFrom(at)], nil
	case len(w.lost) > 0:
		return nil, fmt.Errorf("chunk %x: %w", id, errors.Join(w.lost[:min(len(w.lost), 3)]...))
	}
	return nil, fmt.Errorf("%w: chunk %x is in no pack of the ref", ErrMissing, id)
}

// chain gives the chunk, what it is made from, and so on.
func (w *whereabouts) chain(id ID) ([]*located, error) {
	l, err := w.find(id)
	if err != nil {
		return nil, err
	}
	return w.chainOf(l)
}

func (w *whereabouts) chainOf(l *located) ([]*located, error) {
	chain := []*located{l}
	for l.base >= 0 {
		link := w.bases[l.base]
		base, err := w.find(link.ID)
		if err == nil && (!baseFits(link, base, l) || len(chain) > pack.MaxDepth) {
			err = fmt.Errorf("%w: its base %x has %d bytes, and it, number %d of its chain, has %d and takes that for %d", ErrCorrupt, base.id, base.raw, len(chain), l.raw, link.BaseRaw(l.raw))
		}
		if err != nil {
			return nil, fmt.Errorf("chunk %x, in %s, needs its base: %w", l.id, w.key(l), err)
		}
		chain, l = append(chain, base), base
	}
	return chain, nil
}
