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
	work sync.Mutex // held by whoever reaps: the reaper itself, or Prune; before mu

	mu    sync.Mutex
	cond  *sync.Cond
	queue []uint64
	in    map[uint64]bool      // queued, or to be when its rest is over
	added map[uint64]uint64    // how often an inode was queued since it was reaped last; 0: nothing to do
	rest  map[uint64]time.Time // not before
	looks uint64               // the inode that is looked at
	again map[uint64]bool      // generations that it has come to share since
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
	// reapRest is how many times as long as it took an inode rests;
	// reapRestFound, when a quarter of what was looked at was dead: such work
	// follows what the job overwrites. With the longer rest a job that overwrites
	// fast would leave more behind in each than the one before had freed.
	reapRest, reapRestFound = 20, 4
)

func (r *reaper) init() {
	r.cond, r.in = sync.NewCond(&r.mu), map[uint64]bool{}
	r.added, r.rest = map[uint64]uint64{}, map[uint64]time.Time{}
}

// add queues an inode with the transaction that drops some of its content.
func (r *reaper) add(tx *txn, ino uint64) {
	r.note(tx, ino)
	tx.then(func() { r.push(ino) })
}

// note is add for who reaps the inode itself, at a pace of its own, or pushes it
// later: what the job deletes now does not wait behind what expires by the
// thousand, or it would be synced before it is gone.
func (r *reaper) note(tx *txn, ino uint64) {
	tx.Put(schema.Numbered(schema.PrefixReap, ino), nil)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.added[ino]++
}

// push queues an inode, now or when its rest is over.
func (r *reaper) push(ino uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.in[ino] || r.quit {
		return
	}
	r.in[ino] = true
	if d := time.Until(r.rest[ino]); d > 0 {
		time.AfterFunc(d, func() { r.wake(ino) })
		return
	}
	r.queue = append(r.queue, ino)
	r.cond.Broadcast()
}

// wake queues an inode whose rest is over.
func (r *reaper) wake(ino uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.rest, ino)
	r.queue = append(r.queue, ino)
	r.cond.Broadcast()
}

// load queues what an earlier daemon left to do.
func (r *reaper) load(t *Tree) error {
	inos, err := t.numbered(schema.PrefixReap)
	for _, ino := range inos {
		r.mu.Lock()
		r.added[ino]++
		r.mu.Unlock()
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

func (r *reaper) run(t *Tree) {
	defer r.wg.Done()
	for {
		batch := r.take()
		if batch == nil {
			return
		}
		for _, ino := range batch {
			t.fault("free dead content", r.one(t, ino))
		}
		t.fault("unlink dead staging files", t.unlinkDoomed())
		r.mu.Lock()
		r.busy = false
		r.cond.Broadcast()
		r.mu.Unlock()
	}
}

// one reaps an inode, if there is anything to do, and has it rest. What failed
// is queued again.
func (r *reaper) one(t *Tree, ino uint64) error {
	r.work.Lock()
	defer r.work.Unlock()
	if r.begin(ino) == 0 {
		return nil // done meanwhile
	}
	begin := time.Now()
	shells, rest, err := t.reap(ino)
	for _, gen := range shells {
		err = errors.Join(err, t.Evict(gen))
	}
	took := time.Since(begin)
	r.mu.Lock()
	defer r.mu.Unlock()
	wait := rest * took
	if took > time.Millisecond {
		r.rest[ino] = time.Now().Add(wait)
	}
	if err != nil {
		wait = reapAgain
	}
	if r.added[ino] != 0 { // queued meanwhile, or by what then failed, or this did
		time.AfterFunc(wait, func() { r.push(ino) })
	} else if took > time.Millisecond {
		time.AfterFunc(wait, func() { r.rested(ino) })
	}
	return err
}

// rested forgets a rest that is over.
func (r *reaper) rested(ino uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Until(r.rest[ino]) <= 0 {
		delete(r.rest, ino)
	}
}

// resting says whether an inode is left alone for now.
func (r *reaper) resting(ino uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Until(r.rest[ino]) > 0
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

// look begins to look at an inode, whose generations may turn out to be dead.
// It and shares run in transactions.
func (r *reaper) look(ino uint64) (begun uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.looks, r.again = ino, map[uint64]bool{}
	return r.added[ino]
}

// shares notes that an inode names a generation that another one does.
func (r *reaper) shares(ino, gen uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.looks == ino && r.again != nil {
		r.again[gen] = true
	}
}

// shared says whether the inode looked at has come to share a generation since.
func (r *reaper) shared(gen uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.again[gen]
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
