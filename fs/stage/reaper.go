package stage

import (
	"errors"
	"sync"
	"time"

	"stepfs/internal/schema"
)

// reaper frees, in the background, what neither the live tree nor a snapshot
// names any more of an inode's content. An inode is queued, durably, by the
// transaction that drops something.
//
// To reap an inode is to look at all of its versions and stripes. A file with
// a long history that changes all the time would have the reaper do nothing
// else; so an inode rests after it was reaped, as long as makes that cost a
// small part of one core.
type reaper struct {
	mu    sync.Mutex
	cond  *sync.Cond
	queue []uint64
	in    map[uint64]bool
	added map[uint64]uint64    // by inode: how often it was queued since it was reaped last
	rest  map[uint64]time.Time // by inode: not before
	rush  int                  // somebody waits: nothing rests
	busy  bool
	quit  bool
	wg    sync.WaitGroup
}

const (
	// reapBatch is how many inodes share one journal sync and unlink run.
	reapBatch = 256
	// reapAgain is how long after a failure, such as a full disk, an inode is
	// tried again.
	reapAgain = time.Second
	// reapRest is how many times as long as it took an inode rests.
	reapRest = 20
)

func (r *reaper) init() {
	r.cond, r.in = sync.NewCond(&r.mu), map[uint64]bool{}
	r.added, r.rest = map[uint64]uint64{}, map[uint64]time.Time{}
}

// add queues an inode with the transaction that drops some of its content.
func (r *reaper) add(tx *txn, ino uint64) {
	tx.Put(schema.Numbered(schema.PrefixReap, ino), nil)
	r.mu.Lock()
	r.added[ino]++
	r.mu.Unlock()
	tx.then(func() { r.push(ino) })
}

func (r *reaper) push(ino uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.in[ino] || r.quit {
		return
	}
	if d := time.Until(r.rest[ino]); d > 0 && r.rush == 0 {
		time.AfterFunc(d, func() { r.push(ino) })
		return
	}
	r.in[ino] = true
	r.queue = append(r.queue, ino)
	r.cond.Broadcast()
}

// later queues an inode that could not be reaped now.
func (r *reaper) later(ino uint64) { time.AfterFunc(reapAgain, func() { r.push(ino) }) }

// load queues what an earlier daemon left to do.
func (r *reaper) load(t *Tree) error {
	inos, err := t.numbered(schema.PrefixReap)
	for _, ino := range inos {
		r.push(ino)
	}
	return err
}

func (r *reaper) start(t *Tree) {
	r.wg.Add(1)
	go r.run(t)
}

func (r *reaper) stop() {
	r.mu.Lock()
	r.quit = true
	r.cond.Broadcast()
	r.mu.Unlock()
	r.wg.Wait()
}

// reapAll returns once all that is queued is reaped, rest or no rest, but for
// what fails.
func (t *Tree) reapAll() error {
	r := &t.reaper
	r.setRush(1)
	defer r.setRush(-1)
	for range 100 {
		r.idle()
		inos, err := t.numbered(schema.PrefixReap)
		if err != nil || len(inos) == 0 {
			return err
		}
		for _, ino := range inos {
			r.push(ino)
		}
	}
	return nil
}

func (r *reaper) setRush(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rush += n
}

// idle returns once the queue is empty.
func (r *reaper) idle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for (len(r.queue) > 0 || r.busy) && !r.quit {
		r.cond.Wait()
	}
}

func (r *reaper) run(t *Tree) {
	defer r.wg.Done()
	for {
		batch := r.take()
		if batch == nil {
			return
		}
		for _, ino := range batch {
			if err := r.one(t, ino); err != nil {
				t.fault("free dead content", err)
				r.later(ino)
			}
		}
		t.fault("unlink dead staging files", t.unlinkDoomed())
		r.mu.Lock()
		r.busy = false
		r.cond.Broadcast()
		r.mu.Unlock()
	}
}

// one reaps an inode and has it rest.
func (r *reaper) one(t *Tree, ino uint64) error {
	begin := time.Now()
	shells, err := t.reap(ino)
	for _, gen := range shells {
		err = errors.Join(err, t.Evict(gen))
	}
	took := time.Since(begin)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil && r.added[ino] != 0 { // queued meanwhile, or by what then failed
		defer time.AfterFunc(reapRest*took, func() { r.push(ino) })
	}
	if took > time.Millisecond {
		r.rest[ino] = time.Now().Add(reapRest * took)
	} else {
		delete(r.rest, ino)
	}
	return err
}

// take waits for work and gives a batch of it; nil means to stop.
func (r *reaper) take() []uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.queue) == 0 && !r.quit {
		r.cond.Wait()
	}
	if r.quit {
		return nil
	}
	n := min(len(r.queue), reapBatch)
	batch := r.queue[:n:n]
	r.queue = r.queue[n:]
	for _, ino := range batch {
		delete(r.in, ino)
	}
	r.busy = true
	return batch
}

// begin gives how often an inode was queued so far, and done, in a
// transaction, says whether it was not queued since: then the queue's key may
// go with what was done.
func (r *reaper) begin(ino uint64) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.added[ino]
}

func (r *reaper) done(ino, begun uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.added[ino] != begun {
		return false
	}
	delete(r.added, ino)
	return true
}
