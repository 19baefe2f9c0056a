package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// Registry knows the snapshots that are published: recorded, and durable.
type Registry struct {
	db *state.Engine

	mu     sync.Mutex
	hidden map[uint64]bool     // recorded and not yet durable, or about to be pruned: nobody may see them
	latest map[string]standing // scope -> what latest is
	recent map[string]uint64   // scope -> the step sealed last that is not partial
	scopes map[string]int      // scope -> names in it, forgotten ones too
	uses   uses

	pending []uint64 // steps that were sealed before their check had ended, as of load
}

// standing is a snapshot's claim to be the latest of its scope: by rank, and
// among equals the one that was sealed last.
type standing struct {
	rank int // see schema.NameRank; 0: none
	seq  uint64
	at   uint64 // cut at which it was sealed, for the last time
}

func standingOf(flags []byte, seq uint64) standing {
	f, again := schema.ParseNameFlags(flags)
	if rank := schema.NameRank(f); rank > 0 {
		return standing{rank, seq, max(seq, again)}
	}
	return standing{}
}

func (s standing) over(t standing) bool {
	return s.rank > t.rank || s.rank == t.rank && s.rank > 0 && s.at > t.at
}

func openRegistry(cfg *Config) (*Registry, error) {
	r := &Registry{db: cfg.DB, hidden: map[uint64]bool{}, latest: map[string]standing{}, recent: map[string]uint64{}, scopes: map[string]int{}}
	r.uses = uses{of: map[uint64]use{}, grace: cfg.UseGrace, ticks: cfg.Ticks}
	return r, r.load()
}

// load reads the names once, for latest and scopes.
func (r *Registry) load() error {
	last := ""
	return r.names([]byte{schema.PrefixName}, func(scope, name string, seq uint64, flags []byte) error {
		if full := scope + "\x00" + name; full != last {
			last = full
			r.scopes[scope]++
		}
		s := standingOf(flags, seq)
		if s.over(r.latest[scope]) {
			r.latest[scope] = s
		}
		if s.rank > 1 {
			r.recent[scope] = max(r.recent[scope], seq)
		}
		if f, _ := schema.ParseNameFlags(flags); f&schema.NamePending != 0 {
			r.pending = append(r.pending, seq)
		}
		return nil
	})
}

// names calls fn for the name keys that start with prefix, in order.
func (r *Registry) names(prefix []byte, fn func(scope, name string, seq uint64, flags []byte) error) error {
	it, err := r.db.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		scope, name, seq, err := schema.ParseNameKey(it.Key())
		if err != nil {
			return err
		}
		if err := fn(scope, name, seq, it.Value()); err != nil {
			return err
		}
	}
	return it.Error()
}

// Get gives one published snapshot, also one that was forgotten.
func (r *Registry) Get(seq uint64) (Info, error) {
	if r.isHidden(seq) {
		return Info{}, ErrNotExist
	}
	v, err := r.db.Get(schema.Numbered(schema.PrefixSnapshot, seq))
	if errors.Is(err, state.ErrNotFound) {
		return Info{}, ErrNotExist
	}
	if err != nil {
		return Info{}, err
	}
	s, err := schema.DecodeSnapshot(v)
	if err != nil {
		return Info{}, fmt.Errorf("snapshot %d: %w", seq, err)
	}
	return infoOf(seq, s), nil
}

// Resolve finds "name" (its newest revision that is not forgotten) or
// "name@seq" (also a forgotten one) in a scope.
func (r *Registry) Resolve(scope, name string) (Info, error) {
	if base, rev, ok := strings.Cut(name, "@"); ok {
		seq, err := strconv.ParseUint(rev, 10, 64)
		if err != nil || strconv.FormatUint(seq, 10) != rev {
			return Info{}, ErrNotExist
		}
		i, err := r.Get(seq)
		if err == nil && (i.Name != base || i.Scope != scope) {
			err = ErrNotExist
		}
		return i, err
	}
	revs, err := r.Revisions(scope, name, 1)
	if err != nil {
		return Info{}, err
	}
	if len(revs) == 0 {
		return Info{}, ErrNotExist
	}
	return revs[0], nil
}

// Revisions gives up to max revisions of a name (0: all), newest first.
func (r *Registry) Revisions(scope, name string, max int) ([]Info, error) {
	return r.revisions(scope, name, max, func(_ uint64, forgotten bool) bool { return !forgotten })
}

// Reach is Resolve for a path: a forgotten revision is still found while
// somebody reads it, so that a copy under way goes on, and of one revision.
func (r *Registry) Reach(scope, name string) (Info, error) {
	if strings.Contains(name, "@") {
		return r.Resolve(scope, name)
	}
	revs, err := r.revisions(scope, name, 1, func(seq uint64, forgotten bool) bool { return !forgotten || r.InUse(seq) })
	if err != nil {
		return Info{}, err
	}
	if len(revs) == 0 {
		return Info{}, ErrNotExist
	}
	return revs[0], nil
}

// errEnough ends a walk.
var errEnough = errors.New("enough")

func (r *Registry) revisions(scope, name string, max int, want func(seq uint64, forgotten bool) bool) (out []Info, err error) {
	err = r.names(schema.NamePrefix(scope, name), func(_, _ string, seq uint64, flags []byte) error {
		if !want(seq, isForgotten(flags)) {
			return nil
		}
		i, err := r.Get(seq)
		if errors.Is(err, ErrNotExist) {
			return nil // not durable yet
		}
		if err != nil {
			return err
		}
		if out = append(out, i); len(out) == max {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return out, err
}

func isForgotten(flags []byte) bool {
	f, _ := schema.ParseNameFlags(flags)
	return f&schema.NameForgotten != 0
}

// Forgotten gives the snapshots of a scope that were forgotten and not pruned,
// by name.
func (r *Registry) Forgotten(scope string) ([]Info, error) {
	return r.named(scope, true)
}

// named reads all snapshots of a scope that have a name and are, or are not,
// forgotten.
func (r *Registry) named(scope string, forgotten bool) (out []Info, err error) {
	err = r.names(schema.NameScope(scope), func(_, _ string, seq uint64, flags []byte) error {
		if isForgotten(flags) != forgotten {
			return nil
		}
		i, err := r.Get(seq)
		if err == nil {
			out = append(out, i)
		}
		if errors.Is(err, ErrNotExist) {
			err = nil
		}
		return err
	})
	return out, err
}

// Steps gives up to max names of a scope after a name, in byte order, each as
// its newest revision that is not forgotten.
func (r *Registry) Steps(scope, after string, max int) ([]Info, error) {
	prefix := schema.NameScope(scope)
	from := prefix
	if after != "" {
		from = schema.After(schema.NamePrefix(scope, after))
	}
	it, err := r.db.NewIter(from, schema.After(prefix))
	if err != nil {
		return nil, err
	}
	defer it.Close()
	var out []Info
	for ok := it.First(); ok && len(out) < max; {
		_, name, seq, err := schema.ParseNameKey(it.Key())
		if err != nil {
			return nil, err
		}
		if isForgotten(it.Value()) {
			ok = it.Next() // the one before it, if there is one
			continue
		}
		i, err := r.Get(seq)
		if errors.Is(err, ErrNotExist) {
			ok = it.Next() // the newest is not durable yet: the one before it
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, i)
		names := schema.NamePrefix(scope, name)
		if ok = it.Next(); ok && bytes.HasPrefix(it.Key(), names) {
			ok = it.SeekGE(schema.After(names))
		}
	}
	return out, it.Error()
}

// Scopes lists, in no order, the names directly below the scope parent that
// are scopes or lead to one.
func (r *Registry) Scopes(parent string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := map[string]bool{}
	var out []string
	for scope := range r.scopes {
		rest := scope
		if parent != "" {
			var ok bool
			if rest, ok = strings.CutPrefix(scope, parent+"/"); !ok {
				continue
			}
		}
		name, _, _ := strings.Cut(rest, "/")
		if name != "" && !seen[name] {
			seen[name] = true
			out = append(out, name)
		}
	}
	return out
}

// AllScopes lists every scope that has a name, in no order.
func (r *Registry) AllScopes() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]string, 0, len(r.scopes))
	for scope := range r.scopes {
		out = append(out, scope)
	}
	return out
}

// Barriers gives up to max snapshots with numbers above after, in order, also
// forgotten ones: all that .barriers shows.
func (r *Registry) Barriers(after uint64, max int) ([]Info, error) {
	it, err := r.db.NewIter(schema.Numbered(schema.PrefixSnapshot, after+1), []byte{schema.PrefixSnapshot + 1})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	var out []Info
	for ok := it.First(); ok && len(out) < max; ok = it.Next() {
		seq, err := schema.ParseNumbered(it.Key())
		if err != nil {
			return nil, err
		}
		if r.isHidden(seq) {
			continue
		}
		s, err := schema.DecodeSnapshot(it.Value())
		if err != nil {
			return nil, fmt.Errorf("snapshot %d: %w", seq, err)
		}
		out = append(out, infoOf(seq, s))
	}
	return out, it.Error()
}

// Latest is the complete step of a scope that was sealed last; if it has none,
// the snapshot that was given a name last.
func (r *Registry) Latest(scope string) (Info, bool) {
	r.mu.Lock()
	last, ok := r.latest[scope]
	r.mu.Unlock()
	if !ok {
		return Info{}, false
	}
	i, err := r.Get(last.seq)
	return i, err == nil
}

func (r *Registry) isHidden(seq uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.hidden[seq]
}

// hide keeps a snapshot that is about to be recorded from being seen.
func (r *Registry) hide(seq uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hidden[seq] = true
}

func (r *Registry) unhide(seqs ...uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, seq := range seqs {
		delete(r.hidden, seq)
	}
}

// publish shows a snapshot that is durable.
func (r *Registry) publish(seq uint64, s *schema.Snapshot) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.hidden, seq)
	if s.Name == "" {
		return
	}
	if s.Revision == 1 {
		r.scopes[s.Scope]++
	}
	st := standingOf(s.NameFlags(), seq)
	if st.over(r.latest[s.Scope]) {
		r.latest[s.Scope] = st
	}
	if st.rank > 1 {
		r.recent[s.Scope] = max(r.recent[s.Scope], seq)
	}
}

// lastStep gives the step of a scope that was sealed last, forgotten or not,
// of those that are not partial.
func (r *Registry) lastStep(scope string) (*Info, error) {
	r.mu.Lock()
	seq := r.recent[scope]
	r.mu.Unlock()
	if seq == 0 {
		return nil, nil
	}
	i, err := r.Get(seq)
	if errors.Is(err, ErrNotExist) || err == nil && i.Name == "" {
		return nil, nil
	}
	return &i, err
}

// stepBefore likewise, of those of another name.
func (r *Registry) stepBefore(scope, name string) (*Info, error) {
	last, err := r.lastStep(scope)
	if err != nil || last != nil && last.Name != name {
		return last, err
	}
	newest := uint64(0)
	err = r.names(schema.NameScope(scope), func(_, other string, seq uint64, flags []byte) error {
		if other != name && standingOf(flags, seq).rank > 1 {
			newest = max(newest, seq)
		}
		return nil
	})
	if err != nil || newest == 0 {
		return nil, err
	}
	i, err := r.Get(newest)
	if errors.Is(err, ErrNotExist) {
		return nil, nil
	}
	return &i, err
}

// renamed brings latest up to date after names of a scope were forgotten,
// brought back or removed. The caller holds Manager.keeping, so that only
// publish can meddle, which only adds.
func (r *Registry) renamed(scope string) error {
	var best standing
	err := r.names(schema.NameScope(scope), func(_, _ string, seq uint64, flags []byte) error {
		if s := standingOf(flags, seq); s.over(best) && !r.isHidden(seq) {
			best = s
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.latest[scope]; old.over(best) && r.standsLocked(scope, old.seq) {
		return nil
	}
	if best.rank == 0 {
		delete(r.latest, scope)
	} else {
		r.latest[scope] = best
	}
	return nil
}

// standsLocked says whether a snapshot still has a name that can be latest.
func (r *Registry) standsLocked(scope string, seq uint64) bool {
	v, err := r.db.Get(schema.Numbered(schema.PrefixSnapshot, seq))
	if err != nil {
		return false
	}
	s, err := schema.DecodeSnapshot(v)
	return err == nil && s.Name != "" && s.Scope == scope && standingOf(s.NameFlags(), seq).rank > 0
}

// dropNames takes names that have no snapshot left off their scopes.
func (r *Registry) dropNames(scopes []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, scope := range scopes {
		if r.scopes[scope]--; r.scopes[scope] <= 0 {
			delete(r.scopes, scope)
		}
	}
}
