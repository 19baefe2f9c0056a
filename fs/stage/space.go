package stage

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// spaceGauge answers writers whether the store has room: for what they write,
// for the pack space that staged bytes will need once more, and for the
// reserve. So the disk is full at write(2), when the job can be told, and not
// at ingest, when it can't.
//
// It asks the disk (the tree's meter, which knows the limit) again every
// spaceAge, or once spaceStep bytes were admitted. What staged bytes need it
// knows as an upper bound (all that was written since the last count), and
// counts only when that bound says no.
//
// A writer that would be refused waits for what is on its way out: hot copies
// and snapshots, which MakeRoom gives up, what is being stored and can be given
// up then, and what was deleted. When nothing of that is left, it is told
// at once, and after roomPatience in any case.
type spaceGauge struct {
	disk     *meter
	reserve  uint64
	low      uint64                // low-water mark: Tight is told when less is free to writers
	count    func() (int64, error) // bytes that no pack holds yet
	reaping  func() bool
	makeRoom func(ctx context.Context, free uint64) bool
	tight    func()
	patience time.Duration // roomPatience

	counting sync.Mutex // one count at a time; before mu
	mu       struct {
		sync.Mutex
		space    Space
		asked    time.Time // when the disk was asked
		admitted uint64    // since then
		unstored uint64    // when they were last counted
		counted  time.Time
		took     time.Duration // for counting them
		removed  uint64        // files by then
		written  uint64        // since then
		barren   time.Time     // when waiting for room was last in vain
	}
}

const (
	spaceAge  = 200 * time.Millisecond
	spaceStep = 16 << 20
	countAge  = 100 * time.Millisecond
	// countShare: a caller who can do with an older count has one made for a
	// twentieth of the time at most.
	countShare = 20
	// minInodes is how many inodes of the disk stay free for journal, index
	// and packs.
	minInodes = 256
	// roomPatience bounds how long a write waits for room, vainAge how long it
	// does while nothing is given up (a step may be about to be sealed, a reader
	// about to leave one), and barrenAge how long nobody waits again after that
	// was in vain. A job that writes faster than its bytes can be stored is
	// slowed down, not ended.
	roomPatience = 30 * time.Second
	vainAge      = time.Second
	barrenAge    = 5 * time.Second
	roomPoll     = 5 * time.Millisecond
	// releaseGrace is how long the kernel may take to tell that a file was
	// closed: until then a file that was deleted right after takes its room.
	releaseGrace = 50 * time.Millisecond
)

// DefaultReserve is what stays free of a store of that size for deletes,
// barriers, the journal and flushes of the index: 2%, between 64 MiB and
// 1 GiB. A quarter is the most, for disks too small for more.
func DefaultReserve(total uint64) uint64 {
	return min(max(64<<20, min(1<<30, total/50)), total/4)
}

func (s *spaceGauge) init(t *Tree) error {
	sp, err := t.usage.Space()
	if err != nil {
		return wrapDisk(err)
	}
	s.disk, s.reserve, s.count, s.patience = t.usage, t.cfg.Reserve, t.unstored, roomPatience
	s.reaping, s.makeRoom, s.tight = t.reaper.working, t.cfg.MakeRoom, t.cfg.Events.Tight
	if s.reserve == 0 {
		s.reserve = DefaultReserve(sp.Total)
	}
	s.low = min(2*s.reserve, sp.Total/16)
	s.mu.space, s.mu.asked = sp, time.Now()
	return nil
}

// admit says ErrNoSpace if n more bytes would eat into what is spoken for. The
// caller holds no lock of an inode: those who make room need them.
func (s *spaceGauge) admit(n int64) error {
	err := s.try(uint64(n))
	if !errors.Is(err, ErrNoSpace) {
		return err
	}
	if s.isBarren() && !s.reaping() && !s.outdated() {
		return err
	}
	return s.await(uint64(n))
}

// await is admit for a writer that may have to wait.
func (s *spaceGauge) await(n uint64) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), s.patience)
	defer cancel()
	ask, grace := s.makeRoom != nil, time.Now().Add(releaseGrace)
	if s.isBarren() {
		ask, grace = false, time.Time{}
	}
	vain := time.Now() // when room was last made
	for {
		// Looked at before the try: what comes to an end in between has made room.
		coming := s.reaping() || time.Now().Before(grace)
		s.stale()
		if err = s.try(n); !errors.Is(err, ErrNoSpace) {
			return err
		}
		made := ask && s.makeRoom(ctx, 2*n+1) // staged, and then stored
		if made {
			vain = time.Now()
		}
		ask = ask && time.Since(vain) < vainAge
		if ctx.Err() != nil || !ask && !coming {
			break
		}
		if !made {
			time.Sleep(roomPoll)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.barren = time.Now()
	return err
}

// isBarren says whether waiting has just been in vain.
func (s *spaceGauge) isBarren() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Since(s.mu.barren) < barrenAge
}

// outdated says whether less may be needed, or more be free, than at the last
// count: something was written, perhaps over what was there, or removed.
func (s *spaceGauge) outdated() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.written > 0 || s.disk.removed() != s.mu.removed
}

// stale has the next try ask and count again.
func (s *spaceGauge) stale() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.asked, s.mu.counted = time.Time{}, time.Time{}
}

// try is admit without waiting. What is refused leaves no trace.
func (s *spaceGauge) try(n uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.admitted+n > spaceStep || time.Since(s.mu.asked) > spaceAge {
		if err := s.ask(); err != nil {
			return err
		}
	}
	if !s.fits(n) && time.Since(s.mu.counted) > countAge {
		if err := s.recount(); err != nil {
			return err
		}
	}
	if s.fits(n) {
		s.mu.admitted += n
		s.mu.written += n
		return nil
	}
	sp := s.mu.space
	if sp.Files > 0 && sp.FilesFree < minInodes {
		return fmt.Errorf("%w: %d inodes free", ErrNoSpace, sp.FilesFree)
	}
	return fmt.Errorf("%w: %d bytes free, %d of them reserved, %d for packs of what is staged", ErrNoSpace,
		sp.Free, s.reserve, s.mu.unstored+s.mu.written+n)
}

// fits says whether n more bytes have room: staged, and then packed. mu is held.
func (s *spaceGauge) fits(n uint64) bool {
	sp := s.mu.space
	return sp.Free >= s.reserve+s.mu.admitted+s.mu.unstored+s.mu.written+2*n && (sp.Files == 0 || sp.FilesFree >= minInodes)
}

// ask asks the disk. mu is held.
func (s *spaceGauge) ask() error {
	sp, err := s.disk.Space()
	if err != nil {
		return wrapDisk(err)
	}
	s.mu.space, s.mu.asked, s.mu.admitted = sp, time.Now(), 0
	if s.tight != nil && s.roomy().Free < s.low {
		s.tight()
	}
	return nil
}

// recount counts what staged bytes need. mu is held, and released meanwhile.
func (s *spaceGauge) recount() error {
	s.mu.Unlock()
	s.counting.Lock()
	defer s.counting.Unlock()
	s.mu.Lock()
	before := s.mu.written
	removed := s.disk.removed()
	s.mu.Unlock()
	start := time.Now()
	sum, err := s.count()
	s.mu.Lock()
	if err != nil {
		return err
	}
	s.mu.took = time.Since(start)
	// What was written while it was counted may or may not be in the sum.
	s.mu.unstored, s.mu.counted, s.mu.removed = uint64(sum), time.Now(), removed
	s.mu.written -= min(s.mu.written, before)
	return s.ask()
}

// roomy gives the disk's state, as last asked, with what writers may still use
// as free. mu is held.
func (s *spaceGauge) roomy() Space {
	sp := s.mu.space
	sp.Free -= min(sp.Free, s.reserve+s.mu.unstored+s.mu.written)
	sp.FilesFree -= min(sp.FilesFree, minInodes)
	return sp
}

// room counts and asks, and gives the disk's state with what writers may still
// use as free.
func (s *spaceGauge) room() (Space, error) { return s.roomWithin(0) }

// roomWithin is room with a count that may be of some time ago, the longer the
// longer it took: what was written since is taken off, and what was stored or
// deleted since is not yet added.
func (s *spaceGauge) roomWithin(age time.Duration) (Space, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	update := s.recount
	if age > 0 && time.Since(s.mu.counted) < max(age, countShare*s.mu.took) {
		update = s.ask
	}
	if err := update(); err != nil {
		return Space{}, err
	}
	return s.roomy(), nil
}

// unstored counts the bytes that will need pack space: frozen content that
// waits for ingest, and what is being written.
func (t *Tree) unstored() (sum int64, err error) {
	err = t.Pending(func(f *Frozen) bool {
		if f.Lasting() || t.cfg.Wanted != nil && t.cfg.Wanted(f.Epoch(), f.Until()) {
			sum += f.p.Content.Alloc
		}
		return true
	})
	for _, n := range t.inodes.open() {
		n.mu.RLock()
		switch rec := n.rec; {
		case rec == nil || !isReg(rec) || rec.Excluded || sameBytes(&rec.Live, &n.stored):
		case rec.Committed == nil || rec.Committed.Gen != rec.Live.Gen:
			sum += rec.Live.Alloc
		default:
			sum += max(0, rec.Live.Alloc-rec.Committed.Alloc)
		}
		n.mu.RUnlock()
	}
	return sum, err
}

// working says whether something dead is on its way out.
func (r *reaper) working() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.queue) > 0 || r.busy
}
