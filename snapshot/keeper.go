package snapshot

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"stepfs/internal/schema"
)

// keeper removes, in the background, what the policy does not keep: it forgets
// steps, prunes what is forgotten and drops barriers (barriers.go), and has the
// live tree and the chunk store free what that leaves.
//
// Its cost is that of what it removes: a scope is looked through when it got a
// snapshot or the policy changed, forgotten snapshots are known by number, and
// barriers are visited oldest first, each once.
type keeper struct {
	m     *Manager
	nudge chan struct{}
	pass  chan struct{} // holds one token, which whoever removes something takes

	mu        sync.Mutex
	policy    Policy
	loaded    bool
	scopes    map[string]bool          // to be looked through
	forgotten map[uint64]time.Duration // not pruned yet -> store time of the forget
	barriers  int                      // records without a name
	behind    map[uint64]bool          // barriers with numbers below cursor
	cursor    uint64                   // barriers from here on were not visited yet
	hurry     bool                     // somebody asked for a prune: no undo any more
	free      bool                     // the tree may have something to free
	busy      bool                     // what is due is in use
	freed     freedBytes
}

func newKeeper(m *Manager) *keeper {
	k := &keeper{m: m, nudge: make(chan struct{}, 1), pass: make(chan struct{}, 1), policy: *m.cfg.Policy,
		scopes: map[string]bool{}, forgotten: map[uint64]time.Duration{}, behind: map[uint64]bool{}, free: true}
	k.pass <- struct{}{}
	return k
}

// load counts what there is.
func (k *keeper) load() error {
	it, err := k.m.db.NewIter([]byte{schema.PrefixSnapshot}, []byte{schema.PrefixSnapshot + 1})
	if err != nil {
		return err
	}
	defer it.Close()
	scopes := k.m.AllScopes()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.loaded {
		return nil
	}
	for ok := it.First(); ok; ok = it.Next() {
		seq, err := schema.ParseNumbered(it.Key())
		if err != nil {
			return err
		}
		s, err := schema.DecodeSnapshot(it.Value())
		if err != nil {
			return fmt.Errorf("snapshot %d: %w", seq, err)
		}
		if s.Name == "" {
			k.barriers++
		}
		if s.Forgotten != nil {
			k.forgotten[seq] = time.Duration(s.Forgotten.Clock)
		}
	}
	for _, scope := range scopes {
		k.scopes[scope] = true
	}
	k.loaded = true
	return it.Error()
}

func (k *keeper) wake() {
	select {
	case k.nudge <- struct{}{}:
	default:
	}
}

// made notes a snapshot that was published.
func (k *keeper) made(seq uint64, s *schema.Snapshot) {
	if s.Name != "" {
		k.changed(s.Scope)
	} else {
		k.barrier(seq) // no reason to wake up: it is too young to expire
	}
}

// barrier counts one more barrier. Its number may be below the cursor: commits
// end out of order, and removing its name makes a barrier of an old snapshot.
func (k *keeper) barrier(seq uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.loaded {
		return
	}
	k.barriers++
	if seq < k.cursor {
		k.behind[seq] = true
	}
}

// changed has a scope looked through.
func (k *keeper) changed(scope string) {
	k.mu.Lock()
	k.scopes[scope] = true
	k.mu.Unlock()
	k.wake()
}

func (k *keeper) forgot(is []Info, now time.Duration) {
	k.mu.Lock()
	for _, i := range is {
		k.forgotten[i.Seq] = now
	}
	k.mu.Unlock()
	k.wake()
}

func (k *keeper) remembered(is []Info) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, i := range is {
		delete(k.forgotten, i.Seq)
	}
}

// expired notes what is gone.
func (k *keeper) expired(gone []Info) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, i := range gone {
		delete(k.forgotten, i.Seq)
		if i.Name == "" && k.loaded {
			k.barriers--
			delete(k.behind, i.Seq)
		}
	}
	k.free = k.free || len(gone) > 0
}

// Policy gives the policy in force.
func (m *Manager) Policy() Policy {
	m.keeper.mu.Lock()
	defer m.keeper.mu.Unlock()
	return m.keeper.policy
}

// SetPolicy puts another policy in force.
func (m *Manager) SetPolicy(p Policy) {
	k := m.keeper
	scopes := m.AllScopes()
	k.mu.Lock()
	k.policy = p
	for _, scope := range scopes {
		k.scopes[scope] = true
	}
	k.mu.Unlock()
	k.wake()
}

// Ticks of the keeper and its samples of the clock.
const (
	ticksPerBarrier  = 60 // of the time for which barriers are kept
	minTick, maxTick = time.Second, time.Minute
	retryFailed      = 10 * time.Second // at least, after an error
)

func (k *keeper) tick() time.Duration {
	return min(max(k.m.Policy().Barriers/ticksPerBarrier, minTick), maxTick)
}

// wait is how long the keeper sleeps when nobody nudges it.
func (k *keeper) wait() time.Duration {
	k.mu.Lock()
	busy := k.busy
	k.mu.Unlock()
	if busy {
		return minTick
	}
	return k.tick()
}

// run removes what is due until ctx ends. What fails is tried again at the
// next tick.
func (k *keeper) run(ctx context.Context) {
	for {
		k.freeing() // what the job deleted may have been stored, too
		_, err := k.once(ctx, false, nil)
		if ctx.Err() != nil {
			return
		}
		k.m.fault("expire snapshots", err)
		wait := k.wait()
		if err != nil {
			pause(ctx, retryFailed) // whoever nudges meanwhile
		}
		select {
		case <-ctx.Done():
			return
		case <-k.nudge:
		case <-time.After(wait):
		}
	}
}

// freeing notes that the tree may have something to free.
func (k *keeper) freeing() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.free = true
}

// once removes what is due now and gives how many snapshots that were; with
// hurry, also what was forgotten a moment ago. fn, which may be nil, hears of
// each batch.
func (k *keeper) once(ctx context.Context, hurry bool, fn func(n int)) (n int, err error) {
	select {
	case <-k.pass:
		defer func() { k.pass <- struct{}{} }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	k.m.idleUses()
	count := func(some int) {
		n += some
		if fn != nil && some > 0 {
			fn(some)
		}
	}
	staged, packs := k.m.tree.Reaped(), k.packsFreed()
	defer func() { k.ran(Pruned{Done: n, Staged: k.m.tree.Reaped() - staged, Packs: k.packsFreed() - packs}) }()
	errs := []error{k.m.clock.sample(k.tick(), k.m.sealer.recordResolved), k.policies(ctx)}
	errs = append(errs, k.pruneForgotten(ctx, hurry, count), k.dropBarriers(ctx, count))
	errs = append(errs, k.release(ctx, false, hurry, fn))
	return n, errors.Join(errs...)
}

// policies forgets steps in the scopes that changed.
func (k *keeper) policies(ctx context.Context) (err error) {
	k.mu.Lock()
	scopes := k.scopes
	k.scopes = map[string]bool{}
	p := k.policy
	k.mu.Unlock()
	for _, scope := range slices.Sorted(maps.Keys(scopes)) {
		rules := p.For(scope)
		if rules.keepsAll() {
			continue
		}
		if err = ctx.Err(); err == nil {
			_, err = k.m.applyPolicy(scope, k.m.cfg.ForgetInBucket, false)
		}
		if err != nil {
			break
		}
		delete(scopes, scope)
	}
	if err != nil {
		k.mu.Lock()
		maps.Copy(k.scopes, scopes) // to be tried again
		k.mu.Unlock()
	}
	return err
}

// pruneForgotten removes forgotten snapshots whose time for undoing is over.
func (k *keeper) pruneForgotten(ctx context.Context, hurry bool, count func(int)) error {
	now := k.m.clock.now()
	k.mu.Lock()
	hurry, k.hurry = hurry || k.hurry, false
	var due []uint64
	for seq, at := range k.forgotten {
		if hurry || now-at >= k.m.cfg.Undo {
			due = append(due, seq)
		}
	}
	k.mu.Unlock()
	slices.Sort(due)
	left := len(due)
	for batch := range slices.Chunk(due, expireBatch) {
		vs := make([]victim, len(batch))
		for n, seq := range batch {
			vs[n].seq = seq
		}
		gone, err := k.batch(ctx, vs, count)
		if err != nil {
			return err
		}
		left -= len(gone)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.busy = left > 0
	return nil
}

// batch removes a batch and pauses for as long as that took: others want the
// ordering lock and the disk, too.
func (k *keeper) batch(ctx context.Context, vs []victim, count func(int)) (gone []Info, err error) {
	if err := ctx.Err(); err != nil || len(vs) == 0 {
		return nil, err
	}
	start := time.Now()
	gone, err = k.m.expire(vs, false)
	count(len(gone))
	if len(gone) > 0 {
		pause(ctx, time.Since(start))
	}
	return gone, err
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// release has the tree and the chunk store free what nobody sees any more.
// With urgent, a writer waits for some room; with whole, somebody waits for all
// that there is to free, and what the tree would let rest does not wait either.
// fn, which may be nil, hears of packs that are gone.
func (k *keeper) release(ctx context.Context, urgent, whole bool, fn func(n int)) (err error) {
	k.mu.Lock()
	more := k.free
	k.free = false
	k.mu.Unlock()
	for more && err == nil {
		more, err = k.m.tree.Prune(ctx, urgent)
	}
	if whole && err == nil {
		err = k.m.tree.ReapAll(ctx)
	}
	if err != nil {
		k.mu.Lock()
		k.free = true
		k.mu.Unlock()
		return fmt.Errorf("free what expired snapshots saw: %w", err)
	}
	if c := k.m.cfg.Collector; c != nil {
		err := c.Collect(ctx, urgent, func(bytes int64) {
			if k.gotBack(bytes); fn != nil && bytes != 0 {
				fn(0)
			}
		})
		if err != nil {
			return fmt.Errorf("free chunks: %w", err)
		}
	}
	return nil
}
