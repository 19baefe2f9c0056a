package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"stepfs/fs/stage"
	"stepfs/internal/storedir"
	"stepfs/snapshot"
)

// local is a service on a store that this process has open: the daemon's own,
// or that of a command on a store that is not mounted.
type local struct {
	dir   *storedir.Dir
	parts *parts
	owned bool // Close ends dir, too: there is no daemon around it

	snapDirName string // what a mount would call it; of an owned one

	// changed tells the kernel that entries of a directory are others now; nil
	// without a mount.
	changed  func(dir uint64, names []string)
	describe func(*Status) // adds what the daemon knows; nil without one
	readOnly bool          // the live tree is mounted read-only
	faults   *faultLog

	policyMu sync.Mutex // held while the policy is changed
}

var _ service = (*local)(nil)

// openLocal opens a store for one command.
func openLocal(path string, how storedir.Options) (service, error) {
	dir, err := storedir.Open(path, how)
	if err != nil {
		return nil, err
	}
	if dir.Created() {
		fmt.Fprintf(os.Stderr, "stepfs: created the store %s\n", dir.Path())
	}
	var l *local
	o, err := localOptions(how.Command, dir.Config().Settings)
	if err == nil && o.remote != "" { // nothing goes where somebody else says
		err = checkConfigOwner(dir.Join(storedir.ConfigName))
	}
	if err == nil {
		l, err = openParts(dir, o, nil)
	}
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	l.owned, l.snapDirName = true, o.snapDirName
	return l, nil
}

// Close closes the store in order, so that the next Open need not replay.
func (l *local) Close() error {
	err := l.parts.close()
	if l.owned {
		err = errors.Join(err, l.dir.Close())
	}
	return err
}

// syncAll makes everything that was acknowledged durable.
func (l *local) syncAll(context.Context) error {
	if err := l.parts.tree.SettleCommitted(context.Background()); err != nil {
		return err
	}
	return l.parts.engine.Sync(l.parts.engine.Pos())
}

// openFiles counts the files that somebody writes.
func (l *local) openFiles() (n int) {
	l.parts.tree.OpenForWriting(func(uint64, uint64) { n++ })
	return n
}

// listPage is how many snapshots are asked for at a time.
const listPage = 1000

// Snapshots lists in the order in which they were taken.
func (l *local) Snapshots(ctx context.Context, q SnapshotQuery, fn func(SnapshotInfo) error) error {
	if q.Barriers {
		return l.barriers(ctx, fn)
	}
	scopes := l.parts.manager.AllScopes()
	if q.Scope != nil {
		scopes = []string{strings.Trim(*q.Scope, "/")}
	}
	var all []snapshot.Info
	for _, scope := range scopes {
		var steps []snapshot.Info
		var err error
		if q.Forgotten {
			steps, err = l.parts.manager.Forgotten(scope)
		} else {
			steps, err = l.steps(ctx, scope, q.Revisions)
		}
		if err != nil {
			return err
		}
		all = append(all, steps...)
	}
	slices.SortFunc(all, func(a, b snapshot.Info) int { return cmp.Compare(a.Seq, b.Seq) })
	for _, i := range all {
		if err := l.tell(ctx, i, fn); err != nil {
			return err
		}
	}
	return nil
}

// tell hands fn a snapshot.
func (l *local) tell(ctx context.Context, i snapshot.Info, fn func(SnapshotInfo) error) error {
	s, err := l.snapshotInfo(ctx, i, 0)
	if err != nil {
		return err
	}
	return fn(s)
}

// steps gives the steps of one scope, with every revision of each if asked.
func (l *local) steps(ctx context.Context, scope string, revisions bool) (all []snapshot.Info, err error) {
	for after := ""; ; {
		page, err := l.parts.manager.Steps(scope, after, listPage)
		if err = errors.Join(err, ctx.Err()); err != nil || len(page) == 0 {
			return all, err
		}
		after = page[len(page)-1].Name
		if !revisions {
			all = append(all, page...)
			continue
		}
		for _, i := range page {
			revs, err := l.parts.manager.Revisions(scope, i.Name, 0)
			if err != nil {
				return nil, err
			}
			all = append(all, revs...)
		}
	}
}

func (l *local) barriers(ctx context.Context, fn func(SnapshotInfo) error) error {
	for after := uint64(0); ; {
		page, err := l.parts.manager.Barriers(after, listPage)
		if err != nil {
			return err
		}
		for _, i := range page {
			after = i.Seq
			if err := l.tell(ctx, i, fn); err != nil {
				return err
			}
		}
		if len(page) == 0 {
			return nil
		}
	}
}

// Find resolves what people call a snapshot. "@77" is the barrier 77.
func (l *local) Find(ctx context.Context, scope, name string) (SnapshotInfo, error) {
	i, err := l.find(scope, name)
	if errors.Is(err, snapshot.ErrNotExist) {
		return SnapshotInfo{}, fmt.Errorf("there is no snapshot %s%s", name, inScope(scope))
	}
	if err != nil {
		return SnapshotInfo{}, err
	}
	return l.acted(ctx, i), nil
}

func (l *local) find(scope, name string) (snapshot.Info, error) {
	if name == "latest" {
		if i, ok := l.parts.manager.Latest(scope); ok {
			return i, nil
		}
	}
	if number, ok := strings.CutPrefix(name, "@"); ok {
		if seq, err := strconv.ParseUint(number, 10, 64); err == nil {
			return l.parts.manager.Get(seq)
		}
	}
	return l.parts.manager.Resolve(scope, name)
}

func inScope(scope string) string {
	if scope == "" {
		return ""
	}
	return " in scope " + scope
}

func (l *local) Snapshot(ctx context.Context, r SnapshotRequest) (SnapshotInfo, error) {
	if step := l.dir.Config().Settings[adoptingSetting]; step != "" {
		return SnapshotInfo{}, fmt.Errorf("the live tree is what there is of %s so far: stepfs mount --%s goes on with it", step, adoptFlag)
	}
	if r.Path != "" {
		i, err := l.parts.manager.Adopt(ctx, r.Path)
		if err != nil {
			return SnapshotInfo{}, err
		}
		return l.acted(ctx, i), nil
	}
	i, err := l.parts.manager.SnapshotAs(ctx, r.Scope, r.Name, "command", uint32(os.Geteuid()), r.Tags)
	switch {
	case errors.Is(err, snapshot.ErrExist):
		return SnapshotInfo{}, fmt.Errorf("a snapshot %s%s exists already", r.Name, inScope(r.Scope))
	case errors.Is(err, snapshot.ErrBadName):
		return SnapshotInfo{}, err // it says all
	case err != nil:
		return SnapshotInfo{}, fmt.Errorf("taking snapshot %s: %w", r.Name, err)
	}
	return l.acted(ctx, i), nil
}

// Rollback returns the snapshot of what was there before.
func (l *local) Rollback(ctx context.Context, r RollbackRequest) (SnapshotInfo, error) {
	if l.readOnly {
		return SnapshotInfo{}, errors.New("not rolling back: the store is mounted read-only")
	}
	i, err := l.parts.manager.Rollback(ctx, r.Scope, r.Step)
	switch {
	case errors.Is(err, snapshot.ErrNotExist):
		return SnapshotInfo{}, fmt.Errorf("there is no snapshot %s%s", r.Step, inScope(r.Scope))
	case errors.Is(err, snapshot.ErrBusy):
		return SnapshotInfo{}, fmt.Errorf("not rolling back: %w; stop the job first", err)
	case err != nil:
		return SnapshotInfo{}, fmt.Errorf("rolling back to %s: %w", r.Step, err)
	}
	return l.acted(ctx, i), nil
}

func (l *local) Source(_ context.Context, s SnapshotInfo) (source, error) {
	i, err := l.parts.manager.Get(s.Sequence)
	if err != nil {
		return nil, fmt.Errorf("opening snapshot %s: %w", s.ID, err)
	}
	root := i.ScopeIno
	if root == 0 {
		root = stage.RootIno
	}
	return &viewSource{l.parts.tree.At(i.Seq), root}, nil
}

// Explain says why a path of the live tree was sealed, or not.
func (l *local) Explain(_ context.Context, r ExplainRequest) (ExplainInfo, error) {
	x, err := l.parts.manager.Explain(r.Path)
	if err != nil {
		return ExplainInfo{}, err
	}
	out := ExplainInfo{Path: x.Path, Step: x.Step, Scope: x.Scope, Waits: x.Waits, Lines: x.Lines}
	if x.Sealed != nil {
		out.Sealed = new(describeSnapshot(*x.Sealed))
	}
	return out, nil
}

// unstored is how much waits for ingest.
func (l *local) unstored() (n int64, err error) {
	err = l.parts.tree.Pending(func(f *stage.Frozen) bool {
		if f.Lasting() || l.parts.manager.Wanted(f.Epoch(), f.Until()) {
			n += f.Bytes()
		}
		return true
	})
	return n, err
}

func (l *local) Status(ctx context.Context) (Status, error) {
	cfg := l.dir.Config()
	s := Status{
		Store: l.dir.Path(), ID: cfg.ID, Version: version(), OpenFiles: l.openFiles(),
		Filesystem: l.dir.Kind().Name, Advice: l.dir.Advice(), RecentFault: l.faults.recent(),
	}
	if err := l.parts.engine.Err(); err != nil {
		s.Fault = err.Error()
	}
	space, err := l.dir.Space()
	if err != nil {
		return Status{}, err
	}
	s.SpaceTotal, s.SpaceFree = space.Total, space.Avail
	if err := l.describeUse(&s); err != nil {
		return Status{}, err
	}
	if err := l.describeSnapshots(ctx, &s); err != nil {
		return Status{}, err
	}
	if err := l.describeRemote(&s); err != nil {
		return Status{}, err
	}
	if l.describe != nil {
		l.describe(&s)
	}
	return s, nil
}

func (l *local) Stats(context.Context) (Stats, error) {
	c := l.parts.chunks.Stats()
	s := Stats{
		Packs: c.Packs, Chunks: c.Chunks, Raw: c.Raw, Stored: c.Stored, PackBytes: c.Size, AwayBytes: c.Away, AwayPacks: c.AwayPacks, Dead: int64(c.Dead),
		Ingested: c.Ingested, Duplicate: c.Duplicate, Inherited: c.Inherited, Written: c.Written, Hurried: c.Hurried,
		SavedZstd: c.SavedZstd, SavedPlanes: c.SavedPlanes, SavedDeltas: c.SavedDeltas,
		Read: c.Read, Loads: c.Loads, CacheHits: c.CacheHits,
		LostPacks: c.LostPacks, BadPacks: c.BadPacks, DamagedChunks: c.DamagedChunks,
	}
	return s, l.countUse(&s)
}

func (l *local) Drain(ctx context.Context, r DrainRequest, fn func(DrainProgress) error) error {
	total, err := l.unstored()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	tell := func(p DrainProgress) {
		if err := fn(p); err != nil {
			cancel(err) // nobody listens any more
		}
	}
	stored := func(left int64) {
		total = max(total, left)
		tell(DrainProgress{Total: total, Remaining: left})
	}
	if !r.Remote {
		err = l.parts.manager.Drain(ctx, stored)
	} else {
		var last DrainProgress
		err = l.parts.manager.DrainRemote(ctx, stored, func(left int, why error) {
			p := DrainProgress{Total: total, Unpublished: left}
			if why != nil {
				p.Waiting = why.Error()
			}
			if p != last {
				tell(p)
			}
			last = p
		})
	}
	if errors.Is(err, snapshot.ErrNoBucket) {
		err = fmt.Errorf("%w: mount it with --remote URL", err)
	}
	if err != nil {
		return fmt.Errorf("draining: %w", err)
	}
	last := DrainProgress{Total: total, Done: true}
	if r.Mend {
		m, err := l.parts.manager.MendRemote(ctx)
		if err != nil {
			return err
		}
		last.Packs, last.Resent, last.Lost = m.Packs, m.Sent, m.Lost
	}
	return fn(last)
}

// infoAge is how old the account of what a snapshot alone needs may be where it
// changes all the time and nobody has asked for it.
const infoAge = time.Second

// snapshotInfo describes a snapshot.
func (l *local) snapshotInfo(ctx context.Context, i snapshot.Info, age time.Duration) (SnapshotInfo, error) {
	s := describeSnapshot(i)
	var err error
	if s.New, err = l.parts.manager.Freeable(ctx, i.Seq, age); err != nil {
		return s, fmt.Errorf("counting what %s alone needs: %w", i.Path(), err)
	}
	at, ok, err := l.parts.manager.Published(i.Seq)
	if ok {
		s.Published = new(at.UTC())
	}
	return s, err
}

// acted describes a snapshot to which something is, or was, done: that a number
// can't be had does not keep it from that.
func (l *local) acted(ctx context.Context, i snapshot.Info) SnapshotInfo {
	s, _ := l.snapshotInfo(ctx, i, infoAge)
	return s
}

// describeSnapshot is snapshotInfo without what it alone needs.
func describeSnapshot(i snapshot.Info) SnapshotInfo {
	s := SnapshotInfo{
		ID: i.ID(), Step: i.Name, Scope: i.Scope, Revision: i.Revision, Sequence: i.Seq,
		Time: i.Time.UTC(), Reason: i.Reason, Verdict: i.Verdict,
		Rule: i.Rule, Findings: i.Findings, Checking: i.Pending, Marks: i.Marks, Tags: i.Tags,
		Logical: i.Logical, Stored: i.Stored, State: i.State, Pinned: i.Pinned(),
	}
	for _, h := range i.Holds {
		s.Holds = append(s.Holds, HoldInfo{h.Name, h.By, h.UID, h.Reason, h.Time.UTC()})
	}
	if f := i.Forgotten; f != nil {
		s.Forgotten = &ForgottenInfo{f.By, f.Reason, f.Time.UTC()}
	}
	if v := i.Verified; v != nil {
		s.Verified = &VerifiedInfo{v.Time.UTC(), v.OK(), v.Took.Seconds(), v.Bytes, v.Problems}
	}
	if s.Tags == nil {
		s.Tags = []string{} // consumers should not have to tell null from none
	}
	return s
}

// faultLog keeps what went wrong in the background, for the status; all of it
// goes to the log as well.
type faultLog struct {
	told func(what string, err error) // hears of each, too; may be nil

	mu   sync.Mutex
	last []string
}

const keptFaults = 8

func (f *faultLog) add(what string, err error) {
	slog.Error(what, "error", err)
	if f.told != nil {
		f.told(what, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = append(f.last, fmt.Sprintf("%s %s: %v", time.Now().UTC().Format(time.RFC3339), what, err))
	f.last = f.last[max(0, len(f.last)-keptFaults):]
}

func (f *faultLog) recent() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.last...)
}
