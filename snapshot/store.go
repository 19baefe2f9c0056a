package snapshot

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sort"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"stepfs/chunkstore"
	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// storer has frozen content stored in the background: sealed steps first, in
// the order of their sealing; content of plain barriers only once it is older
// than BarrierAge, since most of it is dropped before; everything when
// somebody drains. A sealed step whose content is stored gets its Merkle tree
// written and is marked as stored.
type storer struct {
	m *Manager

	mu      sync.Mutex
	cond    *sync.Cond
	steps   []uint64 // sealed, not stored, oldest first
	drains  int      // callers of Drain
	round   uint64   // rounds that are done
	lastErr error    // of the last round
	left    int64    // bytes that wait, as last counted
	nudge   chan struct{}
}

// batchBytes is how much is ingested between two flushes of the chunk store:
// enough to fill packs, little enough that staging can be evicted meanwhile.
const batchBytes = 512 << 20

// niceness of the threads that ingest: the training job comes first.
const niceness = 10

func newStorer(m *Manager) *storer {
	s := &storer{m: m, nudge: make(chan struct{}, 1)}
	s.cond = sync.NewCond(&s.mu)
	return s
}

// load finds the steps that an earlier daemon sealed and did not store.
func (s *storer) load() error {
	for after := uint64(0); ; {
		is, err := s.m.Barriers(after, 1024)
		if err != nil {
			return err
		}
		for _, i := range is {
			if i.Name != "" && i.State != StateStored {
				s.steps = append(s.steps, i.Seq)
			}
			after = i.Seq
		}
		if len(is) < 1024 {
			return nil
		}
	}
}

// sealed queues a step.
func (s *storer) sealed(seq uint64) {
	s.mu.Lock()
	s.steps = append(s.steps, seq)
	s.mu.Unlock()
	s.wake()
}

func (s *storer) wake() {
	select {
	case s.nudge <- struct{}{}:
	default:
	}
}

// run stores what is due until ctx ends.
func (s *storer) run(ctx context.Context) {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for ctx.Err() == nil {
		more, err := s.pass(ctx)
		if err != nil && ctx.Err() == nil {
			s.m.fault("store", err)
		}
		s.mu.Lock()
		s.round++
		s.lastErr = err
		s.cond.Broadcast()
		s.mu.Unlock()
		if more && err == nil {
			continue
		}
		select {
		case <-ctx.Done():
		case <-s.nudge:
			if err != nil { // e.g. a full disk: not in a tight loop
				sleep(ctx, time.Second)
			}
		case <-tick.C:
		}
	}
	s.mu.Lock()
	s.lastErr = context.Canceled
	s.round++
	s.cond.Broadcast()
	s.mu.Unlock()
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// pass stores one batch, finishes steps that are complete with it, and evicts
// hot copies when the disk wants room. more says that it did not do all.
func (s *storer) pass(ctx context.Context) (more bool, err error) {
	limit, draining := s.target()
	batch, more, err := s.collect(limit, draining)
	if err != nil {
		return false, err
	}
	var errs []error
	if len(batch) > 0 {
		errs = append(errs, s.ingest(ctx, batch, limit))
	}
	if !more {
		// Even after an error: one content that can't be read does not keep a
		// step back that does not name it.
		done, err := s.finish(ctx, limit)
		errs = append(errs, err)
		more = done
	}
	errs = append(errs, s.makeRoom())
	return more, errors.Join(errs...)
}

// target gives the newest cut whose content is due: that of the oldest sealed
// step that is not stored, or of everything.
func (s *storer) target() (seq uint64, draining bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.steps) > 0 {
		seq = s.steps[0]
	}
	return seq, s.drains > 0
}

// collect gives the contents that are due, at most a batch.
func (s *storer) collect(limit uint64, draining bool) (batch []Frozen, more bool, err error) {
	old := time.Now().Add(-s.m.cfg.BarrierAge).UnixNano()
	var bytes, left int64
	err = s.m.tree.Pending(func(f Frozen) bool {
		left += f.Bytes()
		if f.Epoch() > limit && !draining && f.Time() > old {
			return true
		}
		if bytes >= batchBytes || len(batch) >= 4096 {
			more = true
			return !more || draining
		}
		batch = append(batch, f)
		bytes += f.Bytes()
		return true
	})
	s.mu.Lock()
	s.left = left
	s.mu.Unlock()
	return batch, more, err
}

// stored is one content with its chunks under way.
type stored struct {
	f       Frozen
	pending *chunkstore.Pending
	key     string
}

// ingest splits a batch with a few workers, waits until all its chunks are
// durable, and swaps each content from staged to stored.
func (s *storer) ingest(ctx context.Context, batch []Frozen, step uint64) error {
	// Large contents first: the workers then end together.
	sort.SliceStable(batch, func(i, j int) bool { return batch[i].Bytes() > batch[j].Bytes() })
	jobs := make(chan Frozen)
	results := make(chan result, len(batch))
	var wg sync.WaitGroup
	for range s.workers() {
		wg.Add(1)
		go func() {
			defer wg.Done()
			beNice()
			for f := range jobs {
				st, err := s.split(ctx, f)
				results <- result{st, err}
			}
		}()
	}
	for _, f := range batch {
		jobs <- f
	}
	close(jobs)
	wg.Wait()
	close(results)
	return s.swap(ctx, results, step)
}

type result struct {
	stored
	err error
}

// swap ends a batch. A content that failed does not keep the others back.
func (s *storer) swap(ctx context.Context, results <-chan result, step uint64) error {
	errs := []error{s.m.cfg.Chunks.Flush(ctx)}
	var fresh, packed int64
	for r := range results {
		if r.err == nil {
			r.err = r.pending.Wait(ctx)
		}
		if r.err == nil {
			r.err = r.f.Store(ctx, extents(r.pending.Refs()), r.key)
			fresh += r.pending.NewBytes()
			packed += r.pending.StoredBytes()
		}
		errs = append(errs, r.err)
	}
	if step != 0 && (fresh > 0 || packed > 0) {
		errs = append(errs, s.m.amend(step, func(i *schema.Snapshot) { i.New += fresh; i.Stored += packed }))
	}
	return errors.Join(errs...)
}

// extents gives whole chunks as extents.
func extents(refs []chunkstore.Ref) []schema.ChunkExtent {
	es := make([]schema.ChunkExtent, len(refs))
	for k, r := range refs {
		es[k] = schema.ChunkExtent{Off: r.Off, Len: r.Len, Raw: r.Len, ID: r.ID}
	}
	return es
}

func (s *storer) workers() int {
	if n := s.m.cfg.Workers; n > 0 {
		return n
	}
	return max(1, runtime.NumCPU()/4)
}

// beNice lowers the priority of the calling goroutine's thread, which ends
// with the goroutine. Without the right to, it stays as it is.
func beNice() {
	runtime.LockOSThread()
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), niceness)
}

// source makes a frozen content a chunkstore.Source.
type source struct {
	Frozen
	segs []chunkstore.Segment
}

func (s source) Segments() []chunkstore.Segment { return s.segs }

// split hands one content to the chunk store. It is settled first: what is
// stored is read from its hot copy, which a power cut must not tear.
func (s *storer) split(ctx context.Context, f Frozen) (stored, error) {
	st := stored{f: f}
	if err := f.Settle(); err != nil {
		return st, fmt.Errorf("settle before ingest: %w", err)
	}
	segs, err := f.Segments()
	if err != nil {
		return st, err
	}
	var prior []chunkstore.Ref
	if path, ok := f.Path(); ok {
		st.key = maskNumbers(path)
		es, err := s.m.tree.Prior(st.key)
		if err != nil {
			return st, err
		}
		for _, e := range es {
			if e.Skip == 0 && e.Len == e.Raw {
				prior = append(prior, chunkstore.Ref{Off: e.Off, Len: e.Len, ID: e.ID})
			}
		}
	}
	st.pending, err = s.m.cfg.Chunks.Ingest(ctx, source{f, segs}, prior)
	return st, err
}

// finish marks the oldest waiting step as stored if all that it names is:
// with its accounts, and its tree in packs. done says that it did.
func (s *storer) finish(ctx context.Context, limit uint64) (done bool, err error) {
	s.mu.Lock()
	ready := len(s.steps) > 0 && s.steps[0] == limit
	s.mu.Unlock()
	if !ready {
		return false, nil
	}
	info, err := s.m.Get(limit)
	if err == nil && info.Name != "" {
		err = s.m.writeTree(ctx, info)
	}
	if err != nil && !errors.Is(err, ErrNotExist) {
		return false, fmt.Errorf("write the tree of %s: %w", info.ID(), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps = s.steps[1:]
	return true, nil
}

// amend changes a snapshot's record.
func (m *Manager) amend(seq uint64, change func(s *schema.Snapshot)) error {
	_, err := m.db.Update(schema.KindRegistry, func(tx *state.Tx) error {
		v, err := tx.Get(schema.Numbered(schema.PrefixSnapshot, seq))
		if err != nil {
			return err
		}
		s, err := schema.DecodeSnapshot(v)
		if err != nil {
			return err
		}
		change(s)
		tx.Put(schema.Numbered(schema.PrefixSnapshot, seq), s.Encode())
		return nil
	})
	if err != nil {
		return fmt.Errorf("change the record of snapshot %d: %w", seq, err)
	}
	return nil
}

// evictBatch is how many generations are evicted between two journal syncs.
const evictBatch = 16

// makeRoom evicts hot copies, oldest first, while they take more than they may
// or the disk has less free than it should.
func (s *storer) makeRoom() error {
	type copy struct {
		gen   uint64
		bytes int64
	}
	var hot []copy
	var sum int64
	err := s.m.tree.Hot(func(gen uint64, bytes int64) bool {
		hot = append(hot, copy{gen, bytes})
		sum += bytes
		return true
	})
	for err == nil && len(hot) > 0 {
		want, err := s.wantsRoom(sum)
		if err != nil || !want {
			return err
		}
		n := min(len(hot), evictBatch)
		for _, c := range hot[:n] {
			if err := s.m.tree.Evict(c.gen); err != nil {
				return err
			}
			sum -= c.bytes
		}
		hot = hot[n:]
		if err := s.m.tree.UnlinkEvicted(); err != nil {
			return err
		}
	}
	return err
}

// wantsRoom says whether hot copies of so many bytes are too many.
func (s *storer) wantsRoom(hot int64) (bool, error) {
	if limit := s.m.cfg.HotLimit; limit > 0 && hot > limit {
		return true, nil
	}
	total, free, err := s.m.tree.FreeSpace()
	return free < total/hotFree, err
}

// hotFree: hot copies leave at least this part of the disk free.
const hotFree = 8

// Progress says how many bytes wait to be stored.
func (m *Manager) Progress() (left int64, steps int) {
	m.store.mu.Lock()
	defer m.store.mu.Unlock()
	return m.store.left, len(m.store.steps)
}

// Drain returns once everything that was frozen before is stored and the
// steps that were sealed have their trees in packs. fn, which may be nil,
// hears after each round how many bytes still wait.
func (m *Manager) Drain(ctx context.Context, fn func(left int64)) error {
	s := m.store
	s.mu.Lock()
	s.drains++
	start := s.round
	s.mu.Unlock()
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.cond.Broadcast()
	})
	defer stop()
	defer func() {
		s.mu.Lock()
		s.drains--
		s.mu.Unlock()
	}()
	for {
		s.wake()
		s.mu.Lock()
		seen := s.round
		for s.round == seen && ctx.Err() == nil {
			s.cond.Wait()
		}
		left, steps, err, rounds := s.left, len(s.steps), s.lastErr, s.round-start
		s.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && rounds >= 2:
			return err
		}
		if fn != nil {
			fn(left)
		}
		if rounds < 2 {
			continue // the round that was under way may not have seen the newest
		}
		if left, err := m.waiting(); err != nil || left == 0 && steps == 0 {
			return err
		}
	}
}

// waiting counts the bytes of what is not stored, and one for what has none.
func (m *Manager) waiting() (left int64, err error) {
	err = m.tree.Pending(func(f Frozen) bool { left += f.Bytes() + 1; return true })
	return left, err
}
