package stage

import (
	"errors"
	"sync"
	"time"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// Usage says what the store takes and what it may, in bytes.
type Usage struct {
	Limit    int64 // the store's limit, or the disk's size where that is smaller
	Used     int64 // by the store
	Staged   int64 // of that, by staging files
	Hot      int64 // of that, by copies of what is stored: they can be evicted
	Unstored int64 // what waits to be stored, and will need as much pack space
	Reserve  int64
	// Free is what neither the store nor, on its disk, anybody else has;
	// Reserve and Unstored are not taken off it.
	Free int64
	// Growth is by how many bytes a second the part of Used that cannot be
	// evicted grows at present, and Lasts how long Free does at that rate; 0
	// when it does not grow, or too little is known yet.
	Growth float64
	Lasts  time.Duration
}

// Usage counts.
func (t *Tree) Usage() (Usage, error) {
	if _, err := t.space.room(); err != nil {
		return Usage{}, err
	}
	hot, err := t.hot.get(t, 0)
	if err != nil {
		return Usage{}, err
	}
	t.space.mu.Lock()
	sp, unstored := t.space.mu.space, t.space.mu.unstored
	t.space.mu.Unlock()
	u := Usage{Limit: int64(sp.Total), Used: int64(t.usage.used()), Staged: t.usage.staged(), Hot: hot,
		Unstored: int64(unstored), Reserve: int64(t.space.reserve), Free: int64(sp.Free)}
	u.Growth, u.Lasts = t.watcher.forecast(u.Free - u.Reserve - u.Unstored + t.evictable(hot))
	return u, nil
}

// evictable is what can be given up, hot copies among it.
func (t *Tree) evictable(hot int64) int64 {
	if t.cfg.Evictable != nil {
		hot += t.cfg.Evictable()
	}
	return hot
}

// StatFS gives the store's size, and what of it a job may count on: what is
// free less the reserve and the pack space that staged bytes will need, plus
// what can be evicted. Bavail is half of that: a byte is staged before it is
// stored.
func (t *Tree) StatFS() (StatFS, error) {
	sp, err := t.space.roomWithin(countAge) // git, stress-ng and others ask all the time
	if err != nil {
		return StatFS{}, err
	}
	hot, err := t.hot.get(t, hotAge)
	if err != nil {
		return StatFS{}, err
	}
	free := min(sp.Total, sp.Free+uint64(max(0, t.evictable(hot))))
	const b = 4096
	return StatFS{Blocks: sp.Total / b, Bfree: free / b, Bavail: free / 2 / b,
		Files: sp.Files, Ffree: sp.FilesFree, Bsize: b}, nil
}

// Room says how many bytes are free to writers, and what should be: the
// low-water mark, twice the reserve or a sixteenth of the store's size,
// whichever is less. Without inodes, nothing is free.
func (t *Tree) Room() (free, low uint64, err error) {
	sp, err := t.space.room()
	if sp.Files > 0 && sp.FilesFree < minInodes {
		sp.Free = 0
	}
	return sp.Free, t.space.low, err
}

// hotBytes is what hot copies take, as counted not long ago.
type hotBytes struct {
	mu    sync.Mutex
	bytes int64
	at    time.Time
	took  time.Duration
}

// hotAge is how old the number of statfs may be. A count that takes long is
// made the more seldom.
const hotAge = time.Second

// get counts, unless that was done within age.
func (h *hotBytes) get(t *Tree, age time.Duration) (int64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if age > 0 && time.Since(h.at) < max(age, countShare*h.took) {
		return h.bytes, nil
	}
	start, sum := time.Now(), int64(0)
	if err := t.Hot(func(_ uint64, n int64) bool { sum += n; return true }); err != nil {
		return 0, err
	}
	h.bytes, h.at, h.took = sum, time.Now(), time.Since(start)
	return sum, nil
}

// IsHot says whether a generation is stored and still has its own copy.
func (t *Tree) IsHot(gen uint64) (bool, error) {
	_, err := t.db.Get(schema.Numbered(schema.PrefixHot, gen))
	if errors.Is(err, state.ErrNotFound) {
		return false, nil
	}
	return err == nil, wrapDisk(err)
}

// Unlinked calls fn for each file that nobody can open any more and that is
// still there, since somebody has it open: with its last name, and the bytes of
// its data. (Snapshots may show some of them, too.)
func (t *Tree) Unlinked(fn func(name string, bytes int64)) error {
	inos, err := t.numbered(schema.PrefixOrphan)
	for _, ino := range inos {
		rec, _, e := t.readInode(ino, newest)
		if errors.Is(e, ErrNotExist) || e == nil && (rec.Deleted || !isReg(rec)) {
			continue // closed meanwhile, or a directory
		}
		if e != nil {
			return errors.Join(err, e)
		}
		fn(rec.Name, rec.Live.Alloc)
	}
	return err
}

// watcher takes a sample of what the store uses once in a while, and has the
// meter count again.
type watcher struct {
	quit chan struct{}
	wg   sync.WaitGroup
	mu   sync.Mutex
	growth
}

const (
	sampleEvery  = 10 * time.Second
	recountEvery = 5 * time.Minute
	recountShare = 100 // of the time goes to counting, at most one part in this
)

func (w *watcher) start(t *Tree) {
	w.quit = make(chan struct{})
	w.wg.Add(1)
	go w.run(t)
}

func (w *watcher) stop() {
	close(w.quit)
	w.wg.Wait()
}

func (w *watcher) run(t *Tree) {
	defer w.wg.Done()
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for next := time.Now().Add(recountEvery); ; {
		t.fault("take a sample of the space used", w.sample(t, time.Now()))
		if now := time.Now(); now.After(next) {
			t.fault("count staging files", t.usage.count())
			next = time.Now().Add(max(recountEvery, recountShare*time.Since(now)))
		}
		select {
		case <-w.quit:
			return
		case <-tick.C:
		}
	}
}

// sample notes what is used and can't be evicted.
func (w *watcher) sample(t *Tree, now time.Time) error {
	hot, err := t.hot.get(t, hotAge)
	if err != nil {
		return err
	}
	n := int64(t.usage.used()) - t.evictable(hot)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.growth.add(now, n)
	return nil
}

// forecast gives the rate of growth, and how long n bytes last at it.
func (w *watcher) forecast(n int64) (rate float64, lasts time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return max(0, w.growth.rate()), w.growth.lasts(max(0, n))
}
