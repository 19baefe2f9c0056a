package stage

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// reaper frees, in the background, what neither the live tree nor a snapshot
// names any more of an inode's content. An inode is queued, durably, by the
// transaction that drops something.
//
// Invariant: the record that makes a generation dead is synced before its
// staging file is unlinked; the dead generation stays listed (PrefixDoomed)
// until then.
type reaper struct {
	mu    sync.Mutex
	cond  *sync.Cond
	queue []uint64
	in    map[uint64]bool
	busy  bool
	quit  bool
	wg    sync.WaitGroup
}

func (r *reaper) initLocked() {
	if r.cond == nil {
		r.cond, r.in = sync.NewCond(&r.mu), map[uint64]bool{}
	}
}

// add queues an inode with the transaction that drops some of its content.
func (r *reaper) add(tx *txn, ino uint64) {
	tx.Put(schema.Numbered(schema.PrefixReap, ino), nil)
	tx.then(func() { r.push(ino) })
}

func (r *reaper) push(ino uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.initLocked()
	if !r.in[ino] {
		r.in[ino] = true
		r.queue = append(r.queue, ino)
		r.cond.Broadcast()
	}
}

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
	r.initLocked()
	r.quit = true
	r.cond.Broadcast()
	r.mu.Unlock()
	r.wg.Wait()
}

// wait returns once the queue is empty.
func (r *reaper) wait() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.initLocked()
	for (len(r.queue) > 0 || r.busy) && !r.quit {
		r.cond.Wait()
	}
}

// reapBatch is how many inodes share one journal sync and unlink run.
const reapBatch = 256

func (r *reaper) run(t *Tree) {
	defer r.wg.Done()
	for {
		batch := r.take()
		if batch == nil {
			return
		}
		for _, ino := range batch {
			shells, err := t.reap(ino)
			for _, gen := range shells {
				err = errors.Join(err, t.Evict(gen))
			}
			if err != nil {
				t.fault("free dead content", err)
				t.reaper.later(ino)
			}
		}
		t.fault("unlink dead staging files", t.unlinkDoomed())
		r.mu.Lock()
		r.busy = false
		r.cond.Broadcast()
		r.mu.Unlock()
	}
}

// take waits for work and gives a batch of it; nil means to stop.
func (r *reaper) take() []uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.initLocked()
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

// reapAgain is how long after a failure, such as a full disk, an inode is
// tried again.
const reapAgain = time.Second

// later queues an inode that could not be reaped now.
func (r *reaper) later(ino uint64) { time.AfterFunc(reapAgain, func() { r.push(ino) }) }

// reap frees what is dead of one inode. It gives the generations that contents
// are still numbered by but of whose bytes nothing is named.
func (t *Tree) reap(ino uint64) (shells []uint64, err error) {
	n, err := t.get(ino)
	switch {
	case errors.Is(err, ErrNotExist):
	case err != nil:
		return nil, err
	default:
		defer t.put(n)
		n.mu.Lock()
		defer n.mu.Unlock()
		n.tail = stripeCache{}
	}
	versions, err := t.versions(ino)
	if err != nil {
		return nil, err
	}
	need, gone, err := t.needed(versions)
	if err != nil {
		return nil, err
	}
	waits, err := t.committed(versions)
	if err != nil {
		return nil, err
	}
	_, err = t.update(schema.KindReap, func(tx *txn) error {
		shells = nil
		lost, err := t.unqueue(tx, ino)
		if err != nil {
			return err
		}
		dead, live, err := t.reapStripes(tx, ino, need)
		if err != nil {
			return err
		}
		for _, gen := range lost {
			dead[gen] = true
		}
		for gen := range live {
			if !waits[gen] { // its content is gone, though some of its bytes are not
				tx.Delete(schema.Numbered(schema.PrefixPending, gen))
			}
		}
		for gen := range dead {
			switch {
			case live[gen]:
			case names(need, gen):
				shells = append(shells, gen)
			default:
				if err := t.dropGen(tx, ino, gen); err != nil {
					return err
				}
			}
		}
		for _, v := range gone {
			tx.Delete(schema.InodeKey(ino, v.seq))
		}
		if len(versions) == len(gone) {
			t.dropInode(tx, ino)
		}
		return nil
	})
	return shells, err
}

// unqueue takes an inode off the durable queue and gives the generations that
// lost their last name with the transactions that put it there.
func (t *Tree) unqueue(tx *txn, ino uint64) (lost []uint64, err error) {
	prefix := schema.Numbered(schema.PrefixReap, ino)
	it, err := tx.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return nil, wrapDisk(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		if k := it.Key(); len(k) > len(prefix) {
			_, gen, err := schema.ParseUnsettledKey(k) // of the same form
			if err != nil {
				return nil, wrapDisk(err)
			}
			lost = append(lost, gen)
		}
		tx.Delete(append([]byte(nil), it.Key()...))
	}
	return lost, wrapDisk(it.Error())
}

// dropInode removes what hangs on an inode that no version is left of.
func (t *Tree) dropInode(tx *txn, ino uint64) {
	tx.Delete(schema.Numbered(schema.PrefixSymlink, ino))
	from := schema.XattrInode(ino)
	tx.DeleteRange(from, schema.After(from))
}

// reapStripes deletes the versions of stripes that no needed content reads:
// version v of a stripe, whose successor is v2, is read by contents with
// Base <= v <= Gen < v2. It gives the generations that deleted versions named,
// and those that kept ones name.
func (t *Tree) reapStripes(tx *txn, ino uint64, need []schema.Content) (dead, live map[uint64]bool, err error) {
	dead, live = map[uint64]bool{}, map[uint64]bool{}
	prefix := schema.StripeInode(ino)
	it, err := tx.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return nil, nil, wrapDisk(err)
	}
	defer it.Close()
	last, next := int64(-1), newest // next: the version that follows this one
	for ok := it.First(); ok; ok = it.Next() {
		s, gen, err := schema.ParseStripeKey(it.Key())
		if err != nil {
			return nil, nil, wrapDisk(err)
		}
		if int64(s) != last {
			last, next = int64(s), newest
		}
		used := false
		for _, c := range need {
			used = used || c.Base <= gen && gen <= c.Gen && c.Gen < next
		}
		next = gen
		fs, err := schema.DecodeStripe(it.Value())
		if err != nil {
			return nil, nil, wrapDisk(fmt.Errorf("inode %d stripe %d: %w", ino, s, err))
		}
		set := live
		if !used {
			tx.Delete(append([]byte(nil), it.Key()...))
			set = dead
			set[gen] = true
		}
		for _, f := range fs {
			set[f.Gen] = true
		}
	}
	return dead, live, wrapDisk(it.Error())
}

// dropGen takes inode ino's hold on a generation away, and dooms the
// generation when no other inode has one.
func (t *Tree) dropGen(tx *txn, ino, gen uint64) error {
	key := schema.Numbered(schema.PrefixGen, gen)
	v, err := tx.Get(key)
	if errors.Is(err, state.ErrNotFound) {
		return nil
	}
	if err != nil {
		return wrapDisk(err)
	}
	g, err := schema.DecodeGeneration(v)
	if err != nil {
		return wrapDisk(fmt.Errorf("generation %d: %w", gen, err))
	}
	others, err := t.otherRefs(tx, gen, ino)
	if err != nil {
		return err
	}
	tx.Delete(schema.GenRefKey(gen, ino))
	if g.Ino == ino {
		t.dropMark(tx, ino, gen)
		tx.Delete(schema.Numbered(schema.PrefixPending, gen))
		g.Ino = 0
	}
	if others || g.Ino != 0 {
		tx.Put(key, g.Encode())
		return nil
	}
	t.doomGen(tx, gen, g)
	return nil
}

// doomGen deletes all that the index knows of a generation.
func (t *Tree) doomGen(tx *txn, gen uint64, g schema.Generation) {
	tx.Delete(schema.Numbered(schema.PrefixGen, gen))
	tx.Delete(schema.Numbered(schema.PrefixHot, gen))
	for _, p := range [...]byte{schema.PrefixInline, schema.PrefixChunkMap} {
		if g.Inline && p == schema.PrefixInline || g.Stored > 0 && p == schema.PrefixChunkMap {
			from := schema.Numbered(p, gen)
			tx.DeleteRange(from, schema.After(from))
		}
	}
	if g.File {
		tx.Put(schema.Numbered(schema.PrefixDoomed, gen), nil)
	}
}

func (t *Tree) otherRefs(tx *txn, gen, ino uint64) (bool, error) {
	prefix := schema.Numbered(schema.PrefixGenRef, gen)
	it, err := tx.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return false, wrapDisk(err)
	}
	defer it.Close()
	own := string(schema.GenRefKey(gen, ino))
	for ok := it.First(); ok; ok = it.Next() {
		if string(it.Key()) != own {
			return true, nil
		}
	}
	return false, wrapDisk(it.Error())
}

// unlinkDoomed unlinks the staging files of dead generations, once their
// death is durable.
func (t *Tree) unlinkDoomed() error {
	gens, err := t.numbered(schema.PrefixDoomed)
	if err != nil || len(gens) == 0 {
		return err
	}
	if err := t.db.Sync(t.db.Pos()); err != nil {
		return wrapDisk(err)
	}
	for _, gen := range gens {
		if err := errors.Join(t.gens.forget(gen), t.cfg.Disk.Remove(gen)); err != nil {
			return wrapDisk(err)
		}
	}
	_, err = t.update(schema.KindReap, func(tx *txn) error {
		for _, gen := range gens {
			tx.Delete(schema.Numbered(schema.PrefixDoomed, gen))
		}
		return nil
	})
	return err
}
