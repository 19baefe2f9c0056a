package snapshot

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"stepfs/chunkstore"
	"stepfs/chunkstore/bucket"
	"stepfs/internal/schema"
	"stepfs/internal/state"
	"stepfs/snapshot/include"
	"stepfs/snapshot/rules"
)

// Events tells the owner of a manager what happened. Each func may be nil;
// none may block.
type Events struct {
	Sealed func(Info)
	// Judged: a step that was sealed before the check of its files had ended
	// has its verdict.
	Judged func(Info)
	// Forgotten: a person or the policy forgot a snapshot; its Forgotten field
	// says why. Expired: it is gone for good, as is a barrier that was old enough.
	Forgotten func(Info)
	Expired   func(i Info, reason string)
	// BarriersExpired: so many of what Expired was called for, together.
	BarriersExpired func(n int, reason string)
	// SpaceLow: free bytes and hot copies together are less than should be free.
	// It comes again only after there was twice that.
	SpaceLow func(free, low uint64)
	// RolledBack: these entries of a directory are other ones now, which no
	// caller of the live tree asked for.
	RolledBack func(dir uint64, names []string)
	// Verified: a snapshot was read back; its Verified field says how it went.
	Verified func(Info)
	// Published: whoever has the bucket has the step.
	Published func(Info)
	// Renaming: what was stored before the store joined its bucket, that many bytes
	// by now, is stored anew before it is published. Told once.
	Renaming func(bytes int64)
	Fault    func(what string, err error)
}

// Config opens a manager. DB, Tree and Chunks are required.
type Config struct {
	DB     *state.Engine
	Tree   Tree
	Chunks Chunks
	Events Events

	Rules     []*rules.Rule // of the store's owner; they go before those that are built in
	SealGrace time.Duration // how long stragglers may come after a step's commit point; default 300 ms
	SealQuiet time.Duration // a step that is not committed is sealed after this time without a change; default 30 s
	CheckTime time.Duration // how long the check of a step's files may hold up its sealing; default 400 ms
	Workers   int           // contents ingested at a time; default a quarter of the cores, at least 1
	// BarrierAge is how long the content of a barrier that is no step waits
	// for ingest: most is dropped before. Default 1 h.
	BarrierAge time.Duration
	// HotLimit is how many bytes the hot copies of stored files may take; 0:
	// as many as there is room for. Either way they go when room gets scarce.
	HotLimit int64
	// CacheLimit is how many bytes hot copies and packs may take together, as far
	// as packs are published; 0: as many as there is room for.
	CacheLimit int64
	// Include is what is taken from outside into each sealed snapshot; nil: nothing.
	Include  *include.Set
	NoSeal   bool // no step is sealed but by Snapshot
	HoldSeal bool // no step is sealed by itself until SealOn
	ReadOnly bool // no sealing, no ingest, nothing evicted, nothing expires by itself

	Policy *Policy // what is kept; default DefaultPolicy
	// Undo is how long a forget can be undone before the snapshot is pruned,
	// unless somebody asks for that sooner. Default 10 min; negative: not at all.
	Undo time.Duration
	// UseGrace is how long a snapshot that somebody looked into is not pruned.
	// Default 1 min; negative: not at all.
	UseGrace time.Duration
	// VerifyOnSeal: each step is read back by itself once it is stored.
	VerifyOnSeal bool
	// ScrubRate is how many bytes a second the scrub reads; 0: so many that the
	// whole store is read in 30 days; negative: nothing is scrubbed.
	ScrubRate int64
	// Collector frees chunks behind Tree.Prune. Nil: nobody does.
	Collector Collector
	// KeepSteps: no step is given up to make room (--on-full=stop).
	KeepSteps bool

	// Uploads are to the bucket in which steps are published; nil: they are not.
	Uploads *chunkstore.Uploads
	Publish Publish // which of them
	// DurableRemote: a barrier, and a snapshot that somebody asks for, are only
	// acknowledged once they are in the bucket (publish_barrier.go).
	DurableRemote bool
	// ForgetInBucket: what the policy forgets is forgotten in the bucket, too
	// (publish_forget.go).
	ForgetInBucket bool
	CatalogRefs    int // of how many steps a catalog in the bucket tells; default bucket.CatalogRefs

	inspect inspector // how the files of a step are checked; default inspectStep

	Now   func() time.Time     // the wall clock; default time.Now
	Ticks func() time.Duration // the monotonic clock; default that of the process
}

func (c Config) withDefaults() Config {
	if c.Policy == nil {
		p := DefaultPolicy()
		c.Policy = &p
	}
	if c.Undo == 0 {
		c.Undo = 10 * time.Minute
	}
	if c.UseGrace == 0 {
		c.UseGrace = time.Minute
	}
	if c.CatalogRefs == 0 {
		c.CatalogRefs = bucket.CatalogRefs
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Ticks == nil {
		start := time.Now()
		c.Ticks = func() time.Duration { return time.Since(start) }
	}
	if c.SealQuiet == 0 {
		c.SealQuiet = 30 * time.Second
	}
	if c.CheckTime == 0 {
		c.CheckTime = 400 * time.Millisecond
	}
	if c.inspect == nil {
		c.inspect = inspectStep
	}
	if c.SealGrace == 0 {
		c.SealGrace = 300 * time.Millisecond
	}
	if c.BarrierAge == 0 {
		c.BarrierAge = time.Hour
	}
	return c
}

// Manager takes snapshots and looks after them. Its methods are safe for
// concurrent use.
type Manager struct {
	*Registry
	cfg  Config
	db   *state.Engine
	tree Tree

	turn sync.Mutex // held by the group that is cutting
	mu   struct {
		sync.Mutex
		joining *group // the group that barriers may still join
		closed  bool   // nothing new may begin
	}
	// keeping is held while snapshots are held, forgotten, brought back or
	// removed. It is taken before everything else.
	keeping sync.Mutex
	clock   *clock
	keeper  *keeper

	included *included
	outlooks outlooks
	verify   *verifying
	sealer   *sealer
	unjudged unjudged
	store    *storer
	evict    *evictor
	packs    *packCache
	scrub    *scrubber
	cuts     knownCuts

	publisher *publisher

	cancel context.CancelFunc
	wg     sync.WaitGroup // background work, and barriers that nobody may wait for any more
}

// Open opens the registry and starts sealing and ingest.
func Open(cfg Config) (*Manager, error) {
	if cfg.Uploads == nil && cfg.DurableRemote {
		return nil, ErrNoBucket
	}
	cfg = cfg.withDefaults()
	reg, err := openRegistry(&cfg)
	if err != nil {
		return nil, fmt.Errorf("open the registry of snapshots: %w", err)
	}
	clock, err := openClock(&cfg)
	if err != nil {
		return nil, fmt.Errorf("open the store's clock: %w", err)
	}
	m := &Manager{Registry: reg, cfg: cfg, db: cfg.DB, tree: cfg.Tree, clock: clock}
	m.unjudged = unjudged{reg.pending, make(chan struct{}, 1)}
	m.verify = newVerifying()
	m.included = newIncluded(m)
	m.keeper = newKeeper(m)
	m.sealer = newSealer(m)
	m.store = newStorer(m)
	m.evict = newEvictor(m)
	m.packs = newPackCache(m)
	m.scrub = newScrubber(m)
	m.publisher = newPublisher(m)
	if cfg.ReadOnly {
		m.cancel = func() {}
		return m, nil
	}
	if !cfg.NoSeal {
		if err := m.sealer.load(); err != nil {
			return nil, fmt.Errorf("load steps to be sealed: %w", err)
		}
	}
	if err := m.store.load(); err != nil {
		return nil, fmt.Errorf("load steps to be stored: %w", err)
	}
	if err := m.keeper.load(); err != nil {
		return nil, fmt.Errorf("count what is kept: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	work := []func(context.Context){m.judge, m.store.run, m.evict.run, m.keeper.run, m.scrub.run}
	if !cfg.NoSeal {
		work = append(work, m.sealer.run)
	}
	if cfg.Include != nil {
		work = append(work, m.included.begin)
	}
	if cfg.Uploads != nil {
		if err := m.publisher.load(); err != nil {
			return nil, fmt.Errorf("load steps to be published: %w", err)
		}
		work = append(work, m.publisher.run)
	}
	if cfg.CacheLimit > 0 || cfg.Uploads != nil {
		work = append(work, m.packs.run)
	}
	if cfg.VerifyOnSeal {
		work = append(work, m.verifySealed)
	}
	m.HealSoon() // what was found when the store was opened
	for _, run := range work {
		m.wg.Go(func() { run(ctx) })
	}
	return m, nil
}

// begin notes work that Close has to wait for.
func (m *Manager) begin() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.closed {
		return ErrClosed
	}
	m.wg.Add(1)
	return nil
}

// Close stops the background work and waits for barriers that are under way;
// what is not stored yet stays staged.
func (m *Manager) Close() error {
	m.verify.end() // first: whoever is told ErrClosed may rely on it
	m.mu.Lock()
	m.mu.closed = true
	m.mu.Unlock()
	m.cancel()
	m.wg.Wait()
	if m.cfg.ReadOnly {
		return nil
	}
	m.sealer.resolve() // the next daemon finds what waits
	if m.db.Err() == nil {
		return m.clock.sample(0, m.sealer.recordResolved)
	}
	return nil
}

func (m *Manager) fault(what string, err error) {
	if err != nil && m.cfg.Events.Fault != nil {
		m.cfg.Events.Fault(what, err)
	}
}

// Snapshot takes a snapshot of a scope now and seals it under a name. The
// reasons "mkdir" and "command" want a name that is free; any other makes a
// new revision of one that exists.
func (m *Manager) Snapshot(ctx context.Context, scope, name, reason string, tags []string) (Info, error) {
	return m.SnapshotAs(ctx, scope, name, reason, 0, tags)
}

// SnapshotAs is Snapshot on behalf of a user. With Config.DurableRemote it returns
// once the step is in the bucket, if it is to be; it has the step in any case that
// there is one.
func (m *Manager) SnapshotAs(ctx context.Context, scope, name, reason string, uid uint32, tags []string) (Info, error) {
	i, err := m.snapshotAs(ctx, scope, name, reason, uid, tags)
	if err == nil && m.cfg.DurableRemote {
		err = m.publisher.stepInBucket(ctx, i.Seq)
	}
	return i, err
}

func (m *Manager) snapshotAs(ctx context.Context, scope, name, reason string, uid uint32, tags []string) (Info, error) {
	if err := checkName(name); err != nil {
		return Info{}, err
	}
	scope = strings.Trim(scope, "/")
	ino, dir, err := m.tree.Find(scope)
	if err != nil || !dir {
		return Info{}, fmt.Errorf("%w: scope %q is not a directory of the live tree", ErrNotExist, scope)
	}
	explicit := reason == "mkdir" || reason == "command" || reason == "rollback"
	if explicit && m.taken(scope, name) {
		return Info{}, fmt.Errorf("%w: %s", ErrExist, name)
	}
	return m.seal(ctx, sealing{Snapshot: schema.Snapshot{ScopeIno: ino, Scope: scope, Name: name, Reason: reason,
		Verdict: VerdictUnverified, Explicit: explicit, UID: uid, Tags: tags}})
}

// taken says whether name below scope leads somewhere already.
func (m *Manager) taken(scope, name string) bool {
	if _, err := m.Resolve(scope, name); err == nil {
		return true
	}
	for _, s := range m.Scopes(scope) {
		if s == name {
			return true
		}
	}
	return false
}

// Remove takes the name off a snapshot that was made under one: "name" or
// "scope/name". The snapshot stays as a barrier until retention drops it.
func (m *Manager) Remove(ctx context.Context, path string, uid uint32) error {
	scope, name := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		scope, name = path[:i], path[i+1:]
	}
	i, err := m.Resolve(scope, name)
	switch {
	case err != nil:
		return err
	case !i.Explicit || strings.Contains(name, "@"):
		return fmt.Errorf("%w: %s is a step", ErrReadOnly, path)
	case uid != 0 && uid != i.UID:
		return fmt.Errorf("%w: %s belongs to user %d", ErrPerm, path, i.UID)
	}
	return m.removeName(i)
}

// removeName makes a barrier of a snapshot.
func (m *Manager) removeName(i Info) error {
	m.keeping.Lock()
	defer m.keeping.Unlock()
	var last bool
	pos, err := m.db.Update(schema.KindRegistry, func(tx *state.Tx) error {
		s, err := readSnapshot(tx, i.Seq)
		if err != nil {
			return err
		}
		if s.Name != i.Name || s.Scope != i.Scope || s.Forgotten != nil {
			return ErrNotExist // removed meanwhile
		}
		if len(s.Holds) > 0 {
			return &HeldError{i.Path(), infoOf(i.Seq, s).Holds}
		}
		if last, err = m.lastOf(i.Scope, i.Name, []uint64{i.Seq}); err != nil {
			return err
		}
		s.Name, s.Verdict, s.Explicit, s.Spared = "", "", false, false
		tx.Put(schema.Numbered(schema.PrefixSnapshot, i.Seq), s.Encode())
		tx.Delete(schema.NameKey(i.Scope, i.Name, i.Seq))
		return nil
	})
	if err != nil {
		return err
	}
	if last {
		m.dropNames([]string{i.Scope})
	}
	m.keeper.barrier(i.Seq)
	return errors.Join(m.renamed(i.Scope), m.db.Sync(pos))
}

// below says whether dir is anc or lies below it.
func (m *Manager) below(dir, anc uint64) bool {
	for depth := 0; dir != anc; depth++ {
		up, err := m.tree.Parent(dir)
		if err != nil || up == dir || depth > maxDepth {
			return false
		}
		dir = up
	}
	return true
}

// maxDepth bounds walks towards the root.
const maxDepth = 4096
