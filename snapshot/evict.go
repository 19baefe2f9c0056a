package snapshot

import (
	"context"
	"time"
)

// Hot copies of stored files are kept while there is room: reading one is
// faster than reading its chunks. They go, oldest first, as soon as less is
// free to writers than the tree's low-water mark, and until it is twice that:
// early enough that a writer at full speed meets no full disk while there is
// something to give up. What a writer that is refused asks for (Relieve) comes
// before that.
//
// The evictor is not part of the storer's passes: one of those may take as
// long as 512 MiB take to be split and packed.

const (
	// evictBatch is how many generations are evicted between two journal syncs.
	evictBatch = 16
	// evictList bounds how many are looked at between two looks at the index.
	evictList = 4096
	// evictPause is the least time between two looks at the room that is left
	// that no writer waits for, and evictRetry that after a failure.
	evictPause = 20 * time.Millisecond
	evictRetry = time.Second
)

// hotCopy is a stored generation that still has its own copy.
type hotCopy struct {
	gen   uint64
	bytes int64
}

// evictor makes room. One goroutine does it, for all who ask.
type evictor struct {
	m     *Manager
	nudge chan struct{} // it may be time
	asks  chan ask
	ended chan struct{}

	// Used by the goroutine of run alone. A round goes over all hot copies once.
	list []hotCopy // to be tried next
	last uint64    // generations up to this one are in list, or were tried
	sum  int64     // hot bytes, as last counted, less what was evicted since

	scarce bool // the owner was told, and there was not enough since

	stored uint64 // how many contents were stored when relieve last looked
}

// ask is a writer that waits for room.
type ask struct {
	free  uint64 // free to writers, in bytes
	freed chan bool
}

func newEvictor(m *Manager) *evictor {
	return &evictor{m: m, nudge: make(chan struct{}, 1), asks: make(chan ask), ended: make(chan struct{})}
}

// wake has it look whether it is time to evict.
func (e *evictor) wake() {
	select {
	case e.nudge <- struct{}{}:
	default:
	}
}

// Tight tells that room gets scarce. It does not wait.
func (m *Manager) Tight() { m.evict.wake() }

// Relieve makes room until free bytes are free to writers, and returns as soon
// as some was made, or true if there was enough. false says that nothing is
// left to give up, or that ctx ended first.
func (m *Manager) Relieve(ctx context.Context, free uint64) bool {
	if m.cfg.ReadOnly {
		return false
	}
	a := ask{free, make(chan bool, 1)}
	select {
	case m.evict.asks <- a:
	case <-m.evict.ended:
		return false
	case <-ctx.Done():
		return false
	}
	select {
	case freed := <-a.freed:
		return freed
	case <-ctx.Done():
		return false
	}
}

func (e *evictor) run(ctx context.Context) {
	defer close(e.ended)
	tick := time.NewTicker(idleTick)
	defer tick.Stop()
	nudge := e.nudge
	var rested <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-e.asks:
			freed, err := e.serve(ctx, a.free)
			a.freed <- freed && err == nil
			e.wake() // to make up for what the writer takes, or to meet the error again
		case <-tick.C:
			e.wake()
		case <-rested:
			nudge, rested = e.nudge, nil
		case <-nudge:
			pause, err := evictPause, e.makeRoom(ctx)
			if err != nil {
				e.m.fault("evict", err)
				pause = evictRetry
			}
			nudge, rested = nil, time.After(pause)
		}
	}
}

// serve makes one step towards free bytes, for a writer that waits.
func (e *evictor) serve(ctx context.Context, free uint64) (freed bool, err error) {
	have, low, err := e.m.tree.Room()
	if err != nil || have >= free {
		return err == nil, err
	}
	if free > 2*low { // a fallocate, say: nothing goes for what can't be had anyway
		if e.sum, err = e.hotBytes(); err != nil || have+uint64(e.sum) < free {
			return false, err
		}
	}
	again := e.last > 0
	if freed, err = e.step(ctx, free-have); err == nil && !freed && again {
		freed, err = e.step(ctx, free-have) // the rest of a round had nothing; a whole one may
	}
	return freed, err
}

// makeRoom evicts while there are more hot copies than there may be, or less
// room than there should be.
func (e *evictor) makeRoom(ctx context.Context) error {
	free, low, err := e.m.tree.Room()
	if err != nil {
		return err
	}
	limit := e.m.packs.hotLimit()
	e.scarce = e.scarce && free < 2*low
	if free >= low && limit == 0 {
		return nil
	}
	if e.sum, err = e.hotBytes(); err != nil {
		return err
	}
	e.watch(free+uint64(e.sum), low)
	e.endRound()
	for free < low || limit > 0 && e.sum > limit {
		need := low - min(low, free)
		if limit > 0 {
			need = max(need, uint64(max(0, e.sum-limit)))
		}
		freed, err := e.step(ctx, need)
		if err != nil || !freed {
			return err
		}
		e.answer()
		if free, low, err = e.m.tree.Room(); err != nil {
			return err
		}
		low *= 2 // now that it has begun
	}
	return nil
}

// watch tells the owner once when room gets scarce. Hot copies count as free: a
// store that is used as it should be fills up with them, and is no news.
func (e *evictor) watch(free, low uint64) {
	if e.scarce = e.scarce && free < 2*low; e.scarce || free >= low {
		return
	}
	e.scarce = true
	if e.m.cfg.Events.SpaceLow != nil {
		e.m.cfg.Events.SpaceLow(free, low)
	}
}

// answer has the writers that wait try again.
func (e *evictor) answer() {
	for {
		select {
		case a := <-e.asks:
			a.freed <- true
		default:
			return
		}
	}
}

// step gives up a batch of hot copies, no more of them than it takes to free
// need bytes, or, at the end of a round, what retention has to give. It says
// whether that freed anything.
func (e *evictor) step(ctx context.Context, need uint64) (freed bool, err error) {
	for !freed && ctx.Err() == nil {
		if len(e.list) == 0 {
			if err := e.refill(); err != nil {
				return false, err
			}
		}
		if len(e.list) == 0 {
			e.endRound()
			return e.relieve(ctx)
		}
		n, sum := 0, uint64(0)
		for n < len(e.list) && n < evictBatch && (n == 0 || sum < need) {
			sum += uint64(e.list[n].bytes)
			n++
		}
		batch := e.list[:n]
		e.list = e.list[n:]
		if freed, err = e.evict(batch); err != nil {
			return false, err
		}
	}
	return freed, ctx.Err()
}

func (e *evictor) endRound() { e.list, e.last = nil, 0 }

// evict gives hot copies up. One that holds something that is not stored stays, and
// so does one of which a chunk is damaged: first that is stored again from it.
func (e *evictor) evict(batch []hotCopy) (freed bool, err error) {
	for _, c := range batch {
		if err := e.m.tree.Evict(c.gen); err != nil {
			return false, err
		}
		hot, err := e.m.tree.IsHot(c.gen)
		if err != nil {
			return false, err
		}
		if !hot {
			freed = true
			e.sum -= c.bytes
		} else {
			e.m.healFrom(c.gen)
		}
	}
	if !freed {
		return false, nil
	}
	return true, e.m.tree.UnlinkEvicted()
}

// relieve asks for more when hot copies did not suffice. What is staged has
// room set aside for its packs, too, so storing early what snapshots hold gives
// half of that back; nobody waits for it, it takes its time.
func (e *evictor) relieve(ctx context.Context) (freed bool, err error) {
	free, low, err := e.m.tree.Room()
	if err != nil || free >= low {
		return false, err
	}
	e.m.store.press()
	if e.m.packs.press(ctx, 2*low-free) {
		return true, nil
	}
	if freed, err = e.m.giveUp(ctx); freed || err != nil {
		return freed, err
	}
	// What was stored since the last time, or is about to be, can be given up as
	// a hot copy.
	stored, more := e.m.store.progress(ctx)
	more = more || stored != e.stored
	e.stored = stored
	return more, nil
}

func (e *evictor) hotBytes() (sum int64, err error) {
	err = e.m.tree.Hot(func(_ uint64, bytes int64) bool { sum += bytes; return true })
	return sum, err
}

// refill lists what comes next in the round.
func (e *evictor) refill() error {
	err := e.m.tree.HotAfter(e.last, func(gen uint64, bytes int64) bool {
		e.list = append(e.list, hotCopy{gen, bytes})
		return len(e.list) < evictList
	})
	if n := len(e.list); n > 0 {
		e.last = e.list[n-1].gen
	}
	return err
}
