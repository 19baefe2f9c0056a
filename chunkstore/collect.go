package chunkstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"stepfs/chunkstore/pack"
	"stepfs/internal/pace"
	"stepfs/internal/schema"
)

// Collecting, in groups of packs:
//
//	retire   from here on a hit in the pack is a miss. A pack that some Pending
//	         depends on is passed over. Both are decided under Store.mu.
//	copy     what lives in the packs goes, verified, into a new pack. When that
//	         is durable, one transaction indexes it and makes it the place of
//	         the chunks that still live in the old ones.
//	sweep    in small transactions: what is dead in the old packs goes. A chunk
//	         that came alive since it was looked at is seen here, under the
//	         ordering lock: it stays, and its pack with it. The last
//	         transaction removes the record of a pack that is empty now.
//	sync     of the journal, and only then
//	unlink   the file.
//
// The invariant: what somebody holds, and what a Pending that was waited for and
// not released names, is read from a file that is there; so it is after a power
// cut at any moment, of what was held then. machine_test.go tries to break it.
//
// Every transaction leaves an index that is whole, so an end at any point, be
// it ctx, an error or a crash, needs no repair: packs that were not emptied
// are live again, a new pack that nobody reads is dead, and so is an old one
// whose unlink a power cut took back.
//
// Rejected: one transaction for the whole group. It would hold the ordering
// lock for as many dead chunks as there are, and barriers wait for that lock.

// CollectOptions say how Collect goes about it. The zero value is good.
type CollectOptions struct {
	Rate      int64   // live bytes copied per second; 0: no limit
	Gentle    bool    // rest in between
	DeadShare float64 // packs are written again when at least this much of them is dead; 0: half
	Encode    bool    // also write those again that hold what was left unencoded (Hurry), unless there is hurry still
	Progress  func(CollectStats)

	group int // packs that are retired at a time; 0: groupPacks
}

// CollectStats say what Collect has done.
type CollectStats struct {
	Packs   int   // removed
	Freed   int64 // bytes of their files
	Chunks  int   // dead ones that are gone
	Copied  int64 // payload bytes of live chunks that were written again
	Written int64 // bytes of the new packs
	Pinned  int   // packs passed over this time, since somebody depends on them
	Remade  int   // live chunks that were made from another base, or from none
	Damaged int   // packs that can't be written again; what lives in them stays
}

const (
	groupPacks   = 64       // are retired at a time ...
	groupEntries = 4 * 8192 // ... with so many chunks
)

// Collect removes packs in which nothing lives, then writes those again of
// which much is dead. One runs at a time, others wait. With nothing to do it
// costs a look at each pack's counts in memory. On an error, ctx's included,
// the stats say what was done before it.
func (s *Store) Collect(ctx context.Context, o CollectOptions) (CollectStats, error) {
	if o.DeadShare < 0 || o.DeadShare > 1 || o.Rate < 0 {
		return CollectStats{}, fmt.Errorf("%w: collect at %d bytes a second, share %v", ErrConfig, o.Rate, o.DeadShare)
	}
	if o.DeadShare == 0 {
		o.DeadShare = 0.5
	}
	if o.group == 0 {
		o.group = groupPacks
	}
	if err := s.beginCollect(ctx); err != nil {
		return CollectStats{}, err
	}
	defer s.endCollect()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-s.closing:
			cancel(ErrClosed)
		case <-ctx.Done():
		}
	}()
	c := &collector{Store: s, opts: o, rate: limiter{rate: o.Rate}, pace: pace.New(ctx, o.Gentle), tried: map[*packInfo]struct{}{}}
	if err := c.run(ctx); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return c.stats, fmt.Errorf("collect packs: %w", err)
	}
	return c.stats, nil
}

func (s *Store) beginCollect(ctx context.Context) error {
	select {
	case s.collecting <- struct{}{}:
		return nil
	case <-s.closing:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Store) endCollect() { <-s.collecting }

// collector is one run of Collect.
type collector struct {
	*Store
	opts  CollectOptions
	rate  limiter
	pace  *pace.Pace
	stats CollectStats
	full  bool                   // there is no room for a new pack: what is wholly dead has gone, the rest waits
	tried map[*packInfo]struct{} // that resist
}

func (c *collector) run(ctx context.Context) error {
	// What goes may be the last that needed something: so again, until there is
	// nothing left to do but with packs that resist. A chain has so many ends.
	for range pack.MaxDepth + 1 {
		if more, err := c.pass(ctx); !more || err != nil {
			return err
		}
	}
	return nil
}

// pass goes over all packs once.
func (c *collector) pass(ctx context.Context) (worked bool, err error) {
	if err := c.refresh(); err != nil {
		return false, err
	}
	empty, sparse := c.candidates()
	for len(empty) > 0 || len(sparse) > 0 && !c.full {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		var g group
		if len(empty) > 0 {
			g.naming = empty[0].rec.Naming
			g.old, empty = c.cut(empty)
		} else {
			g.naming = sparse[0].rec.Naming
			g.old, sparse = c.cut(sparse)
			g.rewrite = true
		}
		if err := c.collect(ctx, &g); err != nil {
			return false, err
		}
		if c.opts.Progress != nil {
			c.opts.Progress(c.stats)
		}
		worked = true
	}
	return worked, nil
}

// note remembers what a pack has to keep, now that it has been looked through.
// One that stays for another reason is not tried again by this Collect.
func (c *collector) note(p *oldPack) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.info.changes == p.seen {
		p.info.kept = p.kept
	}
	if p.kept.chunks == 0 || !p.left {
		c.tried[p.info] = struct{}{}
	}
}

// candidate is a pack as it looked when Collect began.
type candidate struct {
	info *packInfo
	rec  schema.PackRecord
	kept deadCount
}

// dead is what of the pack could go, as far as is known.
func (c candidate) dead() (chunks, bytes uint64) {
	return c.rec.DeadChunks - min(c.kept.chunks, c.rec.DeadChunks), c.rec.Dead - min(c.kept.bytes, c.rec.Dead)
}

// live is what the pack would take if it were written again.
func (c candidate) live() int64 {
	chunks, bytes := c.dead()
	return int64(c.rec.Stored-bytes) + int64(c.rec.Chunks-chunks)*pack.Overhead
}

// share is how much of the pack is dead; for small objects, what they take
// beside their payload counts.
func (c candidate) share() float64 {
	chunks, bytes := c.dead()
	dead := float64(bytes) + float64(chunks)*pack.Overhead
	return dead / (dead + float64(c.live()))
}

// candidates gives the packs in which nothing lives, and those worth writing
// again, the largest gain first, by naming.
func (c *collector) candidates() (empty, sparse []candidate) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for number, info := range c.mu.table {
		n := candidate{info, info.rec, info.kept}
		dead, _ := n.dead()
		_, tried := c.tried[info]
		switch {
		case !c.collectable(number) || tried:
		case dead == n.rec.Chunks:
			empty = append(empty, n)
		case info.unfit || info.away || c.damage.isLost(number):
		case dead > 0 && n.share() >= c.opts.DeadShare, c.encodes(info):
			sparse = append(sparse, n)
		}
	}
	order := func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.rec.Naming, b.rec.Naming), cmp.Compare(b.rec.Dead, a.rec.Dead), cmp.Compare(a.info.number, b.info.number))
	}
	slices.SortFunc(empty, order)
	slices.SortFunc(sparse, order)
	return empty, sparse
}

// encodes says whether what is in a pack is to be encoded. mu is held.
func (c *collector) encodes(info *packInfo) bool {
	return c.opts.Encode && info.rec.Hasty > 0 && !c.hurried(Unencoded)
}

// cut takes as many candidates as make one group: what lives in them fits into
// one pack, so that several sparse ones become a full one. A pack has one naming.
func (c *collector) cut(in []candidate) (group []*packInfo, rest []candidate) {
	var live, alive, chunks int64
	for i, n := range in {
		live += n.live()
		dead, _ := n.dead()
		alive += int64(n.rec.Chunks - dead)
		chunks += int64(n.rec.Chunks)
		full := i >= c.opts.group || live > c.cfg.PackSize || alive > maxEntries || chunks > groupEntries || n.rec.Naming != in[0].rec.Naming
		if i > 0 && full {
			return group, in[i:]
		}
		group = append(group, n.info)
	}
	return group, nil
}

// limiter keeps copying at a rate.
type limiter struct {
	rate  int64
	start time.Time
	done  int64
}

// wait is called after n bytes.
func (p *limiter) wait(ctx context.Context, n int64) error {
	if p.rate == 0 {
		return ctx.Err()
	}
	if p.start.IsZero() {
		p.start = time.Now()
	}
	p.done += n
	due := p.start.Add(time.Duration(float64(p.done) / float64(p.rate) * float64(time.Second)))
	select {
	case <-time.After(time.Until(due)):
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}
