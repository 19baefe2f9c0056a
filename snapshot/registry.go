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

	mu       sync.Mutex
	unsynced map[uint64]bool   // recorded, not yet durable: nobody may see them
	latest   map[string]uint64 // scope -> newest sealed step
	scopes   map[string]int    // scope -> names in it
}

func openRegistry(db *state.Engine) (*Registry, error) {
	r := &Registry{db: db, unsynced: map[uint64]bool{}, latest: map[string]uint64{}, scopes: map[string]int{}}
	return r, r.load()
}

// load reads the names once, for latest and scopes.
func (r *Registry) load() error {
	it, err := r.db.NewIter([]byte{schema.PrefixName}, []byte{schema.PrefixName + 1})
	if err != nil {
		return err
	}
	defer it.Close()
	explicit := map[string]uint64{}
	last := ""
	for ok := it.First(); ok; ok = it.Next() {
		scope, name, seq, err := schema.ParseNameKey(it.Key())
		if err != nil {
			return err
		}
		if full := scope + "\x00" + name; full != last {
			last = full
			r.scopes[scope]++
		}
		to := r.latest
		if len(it.Value()) > 0 && it.Value()[0] != 0 {
			to = explicit
		}
		to[scope] = max(to[scope], seq)
	}
	for scope, seq := range explicit {
		if _, ok := r.latest[scope]; !ok {
			r.latest[scope] = seq
		}
	}
	return it.Error()
}

// Get gives one published snapshot.
func (r *Registry) Get(seq uint64) (Info, error) {
	if r.hidden(seq) {
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

// Resolve finds "name" (its newest revision) or "name@seq" in a scope.
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
	prefix := schema.NamePrefix(scope, name)
	it, err := r.db.NewIter(prefix, schema.After(prefix))
	if err != nil {
		return nil, err
	}
	defer it.Close()
	var out []Info
	for ok := it.First(); ok && (max == 0 || len(out) < max); ok = it.Next() {
		_, _, seq, err := schema.ParseNameKey(it.Key())
		if err != nil {
			return nil, err
		}
		i, err := r.Get(seq)
		if errors.Is(err, ErrNotExist) {
			continue // not durable yet
		}
		if err != nil {
			return nil, err
		}
		out = append(out, i)
	}
	return out, it.Error()
}

// Steps gives up to max names of a scope after a name, in byte order, each as
// its newest revision.
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

// Barriers gives up to max snapshots with numbers above after, in order.
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
		if r.hidden(seq) {
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

// Latest is the step of a scope that was sealed last; if it has none, the
// snapshot that was given a name last.
func (r *Registry) Latest(scope string) (Info, bool) {
	r.mu.Lock()
	seq, ok := r.latest[scope]
	r.mu.Unlock()
	if !ok {
		return Info{}, false
	}
	i, err := r.Get(seq)
	return i, err == nil
}

// Slot gives the number under which a snapshot's nodes are shown, the same
// one for ever, giving one out at the first call.
func (r *Registry) Slot(seq uint64) (uint32, error) {
	n, err := r.number(schema.Numbered(schema.PrefixSlotOf, seq))
	if err == nil || !errors.Is(err, state.ErrNotFound) {
		return uint32(n), err
	}
	_, err = r.db.Update(schema.KindRegistry, func(tx *state.Tx) error {
		if n, err = r.number(schema.Numbered(schema.PrefixSlotOf, seq)); err == nil {
			return nil // another caller was first
		}
		n, err = r.number(schema.MetaKey(schema.MetaSlot))
		if errors.Is(err, state.ErrNotFound) {
			n, err = 1, nil
		}
		if err != nil {
			return err
		}
		if n > maxSlot {
			return errSlots
		}
		tx.Put(schema.MetaKey(schema.MetaSlot), schema.Counter(n+1))
		tx.Put(schema.Numbered(schema.PrefixSlotOf, seq), schema.Counter(n))
		tx.Put(schema.Numbered(schema.PrefixSlot, n), schema.Counter(seq))
		return nil
	})
	return uint32(n), err
}

// maxSlot is the highest slot: 22 bits of an inode number under snapshots/.
const maxSlot = 1<<22 - 1

var errSlots = fmt.Errorf("%d snapshots have been looked into: no inode numbers are left for more", maxSlot)

// BySlot is the inverse of Slot.
func (r *Registry) BySlot(slot uint32) (Info, error) {
	seq, err := r.number(schema.Numbered(schema.PrefixSlot, uint64(slot)))
	if errors.Is(err, state.ErrNotFound) {
		return Info{}, ErrNotExist
	}
	if err != nil {
		return Info{}, err
	}
	return r.Get(seq)
}

func (r *Registry) number(key []byte) (uint64, error) {
	v, err := r.db.Get(key)
	if err != nil {
		return 0, err
	}
	return schema.ParseCounter(v)
}

func (r *Registry) hidden(seq uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unsynced[seq]
}

// hide keeps a snapshot that is about to be recorded from being seen.
func (r *Registry) hide(seq uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unsynced[seq] = true
}

func (r *Registry) unhide(seq uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.unsynced, seq)
}

// publish shows a snapshot that is durable.
func (r *Registry) publish(seq uint64, s *schema.Snapshot) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.unsynced, seq)
	if s.Name == "" {
		return
	}
	if s.Revision == 1 {
		r.scopes[s.Scope]++
	}
	// A step counts before every name that a person gave; among equals the
	// newer cut, whichever was published first.
	old, ok := r.latest[s.Scope]
	switch {
	case ok && s.Explicit && !r.explicit(old):
	case ok && s.Explicit == r.explicit(old):
		r.latest[s.Scope] = max(old, seq)
	default:
		r.latest[s.Scope] = seq
	}
}

func (r *Registry) explicit(seq uint64) bool {
	v, err := r.db.Get(schema.Numbered(schema.PrefixSnapshot, seq))
	if err != nil {
		return false
	}
	s, err := schema.DecodeSnapshot(v)
	return err == nil && s.Explicit
}

// forgetName updates what the registry remembers after a name was removed.
func (r *Registry) forgetName(scope string, seq uint64) {
	r.mu.Lock()
	if r.scopes[scope]--; r.scopes[scope] <= 0 {
		delete(r.scopes, scope)
	}
	stale := r.latest[scope] == seq
	if stale {
		delete(r.latest, scope)
	}
	r.mu.Unlock()
	if !stale {
		return
	}
	// Only a scope without steps had this one as its latest.
	var last uint64
	for after := ""; ; {
		is, err := r.Steps(scope, after, 256)
		if err != nil || len(is) == 0 {
			break
		}
		for _, i := range is {
			last, after = max(last, i.Seq), i.Name
		}
	}
	if last != 0 {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.latest[scope] == 0 {
			r.latest[scope] = last
		}
	}
}
