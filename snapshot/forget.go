package snapshot

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// A forgotten snapshot is not listed any more and never latest, but whole: its
// exact name still leads to it, and unforget brings it back, until prune
// removes its record (expire.go). What is forgotten or brought back is so at
// once for all of a call, or not at all.

var (
	// ErrForgotten: the snapshot was forgotten and not pruned yet.
	ErrForgotten = errors.New("snapshot is forgotten")
	// ErrPruned: the snapshot is gone for good.
	ErrPruned = errors.New("snapshot is gone for good: prune has removed it")
)

// Forget says which snapshots are to be forgotten, and by whom.
type Forget struct {
	Scope  string
	Names  []string // as Select takes them
	By     string   // user@host
	Reason string
	Bucket bool // in the bucket, too, once they can't be brought back any more
	DryRun bool // only say which they would be
}

// Select finds what a person means: "12000" is every revision of that step,
// "12000@77" one, "@77" any snapshot by its number, "latest" the newest step.
// Without forgotten it gives snapshots that are not, else those that are.
func (m *Manager) Select(scope, name string, forgotten bool) ([]Info, error) {
	scope = strings.Trim(scope, "/")
	if base, rev, ok := strings.Cut(name, "@"); ok {
		i, err := m.selectRevision(scope, base, rev)
		if err == nil && (i.Forgotten != nil) != forgotten {
			return nil, wrongly(i)
		}
		return []Info{i}, err
	}
	if name == "latest" && !forgotten {
		i, ok := m.Latest(scope)
		if !ok {
			return nil, fmt.Errorf("%w: latest", ErrNotExist)
		}
		name = i.Name
	}
	all, err := m.revisions(scope, name, 0, func(_ uint64, f bool) bool { return f == forgotten })
	if err != nil || len(all) > 0 {
		return all, err
	}
	others, err := m.revisions(scope, name, 1, func(uint64, bool) bool { return true })
	switch {
	case err != nil:
		return nil, err
	case len(others) > 0:
		return nil, wrongly(others[0])
	case forgotten:
		return nil, fmt.Errorf("%w: %s is not forgotten, or prune has removed it for good", ErrNotExist, join(scope, name))
	}
	return nil, fmt.Errorf("%w: %s", ErrNotExist, join(scope, name))
}

func (m *Manager) selectRevision(scope, base, rev string) (Info, error) {
	name := join(scope, base+"@"+rev)
	seq, err := strconv.ParseUint(rev, 10, 64)
	if err != nil {
		return Info{}, fmt.Errorf("%w: %s", ErrNotExist, name)
	}
	i, err := m.Get(seq)
	if errors.Is(err, ErrNotExist) && seq != 0 && seq < m.db.Epoch() {
		if _, err := m.db.Get(schema.Numbered(schema.PrefixSnapshot, seq)); errors.Is(err, state.ErrNotFound) {
			return Info{}, fmt.Errorf("%w: %s", ErrPruned, name)
		}
	}
	if err == nil && base != "" && (i.Name != base || i.Scope != scope) {
		err = ErrNotExist
	}
	if err != nil {
		return Info{}, fmt.Errorf("%w: %s", err, name)
	}
	return i, nil
}

// wrongly: the snapshot is forgotten, or not, when it should be the other.
func wrongly(i Info) error {
	if i.Forgotten == nil {
		return fmt.Errorf("%s is not forgotten", i.Path())
	}
	return fmt.Errorf("%w already: %s", ErrForgotten, i.Path())
}

// Forget forgets snapshots, all or none: one that is held refuses the call.
func (m *Manager) Forget(f Forget) ([]Info, error) {
	var all []Info
	for _, name := range f.Names {
		is, err := m.Select(f.Scope, name, false)
		if err != nil {
			return nil, err
		}
		all = append(all, is...)
	}
	all = distinct(all)
	for _, i := range all {
		if err := forgettable(&i); err != nil {
			return nil, err
		}
	}
	if f.DryRun {
		return all, nil
	}
	why := "forgotten by " + f.By
	if f.Reason != "" {
		why += ": " + f.Reason
	}
	m.keeping.Lock()
	defer m.keeping.Unlock()
	return m.forget(all, func(s *schema.Snapshot, i *Info) (*schema.Forgotten, error) {
		if err := forgettable(i); err != nil {
			return nil, err
		}
		return &schema.Forgotten{By: f.By, Reason: why, Bucket: f.Bucket}, nil
	})
}

// distinct sorts by number and leaves out repetitions.
func distinct(is []Info) []Info {
	slices.SortFunc(is, func(a, b Info) int { return cmp.Compare(a.Seq, b.Seq) })
	return slices.CompactFunc(is, func(a, b Info) bool { return a.Seq == b.Seq })
}

func forgettable(i *Info) error {
	switch {
	case i.Name == "":
		return fmt.Errorf("@%d is a barrier: those expire by themselves, only a step or a named snapshot can be forgotten", i.Seq)
	case len(i.Holds) > 0:
		return &HeldError{i.Path(), i.Holds}
	}
	return nil
}

// forget marks snapshots in one transaction. why decides on each record as it
// is then: nil leaves it alone, an error ends all. The caller holds keeping.
func (m *Manager) forget(is []Info, why func(*schema.Snapshot, *Info) (*schema.Forgotten, error)) (done []Info, err error) {
	pos, err := m.db.Update(schema.KindRegistry, func(tx *state.Tx) error {
		done = nil
		for _, i := range is {
			s, err := readSnapshot(tx, i.Seq)
			if errors.Is(err, ErrNotExist) {
				return fmt.Errorf("%w: %s", ErrPruned, i.Path())
			}
			if err != nil {
				return err
			}
			if s.Forgotten != nil {
				continue // by somebody else meanwhile
			}
			now := infoOf(i.Seq, s)
			f, err := why(s, &now)
			if err != nil {
				return err
			}
			if f == nil {
				continue
			}
			f.Time, f.Clock = m.cfg.Now().UnixNano(), int64(m.clock.now())
			s.Forgotten, s.Spared = f, false
			putSnapshot(tx, i.Seq, s)
			done = append(done, infoOf(i.Seq, s))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	m.keeper.forgot(done, m.clock.now())
	if err := errors.Join(m.renamedAll(done), m.db.Sync(pos)); err != nil {
		return done, err
	}
	if m.cfg.Events.Forgotten != nil {
		for _, i := range done {
			m.cfg.Events.Forgotten(i)
		}
	}
	return done, nil
}

// renamedAll brings latest up to date in the scopes of some snapshots.
func (m *Manager) renamedAll(is []Info) (err error) {
	seen := map[string]bool{}
	for _, i := range is {
		if !seen[i.Scope] {
			seen[i.Scope] = true
			err = errors.Join(err, m.renamed(i.Scope))
		}
	}
	return err
}

// Unforget brings forgotten snapshots back, all or none, unless prune has
// removed them. No policy forgets them again.
func (m *Manager) Unforget(scope string, names []string) ([]Info, error) {
	var all []Info
	for _, name := range names {
		is, err := m.Select(scope, name, true)
		if err != nil {
			return nil, err
		}
		all = append(all, is...)
	}
	all = distinct(all)
	m.keeping.Lock()
	defer m.keeping.Unlock()
	var back []Info
	pos, err := m.db.Update(schema.KindRegistry, func(tx *state.Tx) error {
		back = nil
		for _, i := range all {
			s, err := readSnapshot(tx, i.Seq)
			if errors.Is(err, ErrNotExist) {
				return fmt.Errorf("%w: %s", ErrPruned, i.Path())
			}
			if err != nil {
				return err
			}
			s.Forgotten, s.Spared = nil, true
			putSnapshot(tx, i.Seq, s)
			back = append(back, infoOf(i.Seq, s))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	m.keeper.remembered(back)
	for _, i := range back {
		if i.State != StateStored {
			m.store.sealed(i.Seq) // nobody stores what is forgotten
		}
		m.publisher.sealed(i.Seq)
	}
	return back, errors.Join(m.renamedAll(back), m.db.Sync(pos))
}

// Decided is what the policy says of one snapshot.
type Decided struct {
	Info
	Decision
}

// ForgetByPolicy forgets what the policy of each scope does not keep, or of
// one scope, and gives all decisions, newest first. inBucket: in the bucket, too,
// also if the policy alone does not do so.
func (m *Manager) ForgetByPolicy(scope *string, inBucket, dryRun bool) (all []Decided, err error) {
	scopes := m.AllScopes()
	if scope != nil {
		scopes = []string{strings.Trim(*scope, "/")}
	}
	slices.Sort(scopes)
	for _, s := range scopes {
		ds, err := m.applyPolicy(s, inBucket || m.cfg.ForgetInBucket, dryRun)
		all = append(all, ds...)
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

// applyPolicy forgets what the policy does not keep of a scope. It decides and
// forgets under one lock, so that nobody takes away meanwhile the newer step
// for whose sake an older one expires.
func (m *Manager) applyPolicy(scope string, inBucket, dryRun bool) ([]Decided, error) {
	m.keeping.Lock()
	defer m.keeping.Unlock()
	p := m.Policy()
	steps, err := m.named(scope, false)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(steps, func(a, b Info) int { return cmp.Compare(b.Seq, a.Seq) })
	all := make([]Decided, len(steps))
	var expired []Info
	why := map[uint64]string{}
	for k, d := range p.Evaluate(scope, steps) {
		all[k] = Decided{steps[k], d}
		if !d.Keep {
			expired = append(expired, steps[k])
			why[steps[k].Seq] = d.Why
		}
	}
	if dryRun {
		return all, nil
	}
	for batch := range slices.Chunk(expired, expireBatch) {
		_, err := m.forget(batch, func(_ *schema.Snapshot, i *Info) (*schema.Forgotten, error) {
			return &schema.Forgotten{By: "policy", Reason: why[i.Seq], Bucket: inBucket}, nil
		})
		if err != nil {
			return all, fmt.Errorf("forget by policy: %w", err)
		}
	}
	return all, nil
}
