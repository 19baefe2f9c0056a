package snapshot

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"stepfs/internal/schema"
	"stepfs/internal/state"
	"stepfs/snapshot/rules"
)

// A change is noted in memory, and its step recorded a moment later. After a
// daemon that did not end well, the tree is looked through once for steps that
// differ from their newest revision: a checkpoint whose last file was closed
// in that moment must not be forgotten.

// rescan notes such steps. It costs the names that belong to no step, and the
// inodes that do.
func (s *sealer) rescan(ctx context.Context) error {
	seq, err := s.m.barrier(ctx, "recovery")
	if err != nil {
		return err
	}
	resolved, err := s.m.number(schema.MetaKey(metaResolved))
	if err != nil && !errors.Is(err, state.ErrNotFound) {
		return err
	}
	r := &rescanner{s: s, ctx: ctx, now: s.m.tree.At(seq), resolved: int64(resolved)}
	r.w = &watcher{s: s, now: time.Now(), dirs: map[uint64]dirPlace{}}
	return r.dir(rootIno, nil)
}

// metaResolved is the counter that says up to when (ns) changes were resolved,
// as last sampled.
const metaResolved = "resolved"

// recordResolved adds that to a transaction.
func (s *sealer) recordResolved(tx *state.Tx) {
	if at := s.resolved.Load(); at > 0 {
		tx.Put(schema.MetaKey(metaResolved), schema.Counter(uint64(at)))
	}
}

type rescanner struct {
	s        *sealer
	ctx      context.Context
	now      View
	resolved int64
	w        *watcher
}

// dir looks through a directory that is no step, or gives way to others in it.
func (r *rescanner) dir(ino uint64, parts []string) error {
	return each(r.now, ino, func(e Entry) error {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		path := append(slices.Clone(parts), e.Name)
		m, ok := r.s.rules.Match(path, e.Type == modeDir)
		own := ok && rel(&m, path) == "."
		if own {
			sealed, err := r.sealed(e, strings.Join(path[:m.Scope], "/"), m.Step)
			if err != nil {
				return err
			}
			if !sealed {
				r.lost(&m, path, e.Ino)
			}
		}
		weak := !slices.ContainsFunc(m.Rules, func(r *rules.Rule) bool { return !r.Weak })
		if e.Type == modeDir && (!own || weak) {
			return r.dir(e.Ino, path)
		}
		return nil
	})
}

// lost notes a step of which nobody knows what happened to it.
func (r *rescanner) lost(m *rules.Match, path []string, ino uint64) {
	r.w.note(m, path, ino, true, func(c *candidate) {
		c.version++
		c.last = r.w.now
		c.lost = c.lost || len(c.seen) == 0
	})
}

// sealed says whether the newest revision of a step, forgotten or not, shows
// all that it holds. A step that has none because it expired is told from one
// that never had any by its age: it would be sealed again, as the latest.
func (r *rescanner) sealed(e Entry, scope, step string) (bool, error) {
	revs, err := r.s.m.revisions(scope, step, 1, func(uint64, bool) bool { return true })
	if err != nil {
		return false, err
	}
	if len(revs) == 0 {
		err = older(r.now, e, r.resolved)
	} else {
		err = holds(r.s.m.tree.At(revs[0].Seq), r.now, e)
	}
	if errors.Is(err, errChanged) {
		return false, nil
	}
	return err == nil, err
}

// older gives errChanged unless e, and all below it, was changed before a time.
func older(v View, e Entry, than int64) error {
	n, err := v.Node(e.Ino)
	switch {
	case err != nil:
		return err
	case n.Ctime >= than:
		return errChanged
	case e.Type != modeDir:
		return nil
	}
	return each(v, e.Ino, func(e Entry) error { return older(v, e, than) })
}

// errChanged: the older view lacks something.
var errChanged = errors.New("changed since")

// holds gives errChanged unless old shows e, and all below it, as now does.
// What was deleted since does not count.
func holds(old, now View, e Entry) error {
	n, err := now.Node(e.Ino)
	if err != nil {
		return err
	}
	was, err := old.Node(e.Ino)
	if err != nil {
		return errChanged
	}
	if e.Type != modeDir {
		if was.Ctime != n.Ctime || was.Size != n.Size {
			return errChanged
		}
		return nil
	}
	return each(now, e.Ino, func(e Entry) error { return holds(old, now, e) })
}

// each calls fn for the entries of a view's directory. A view leaves out files
// that have no content yet, so that only an empty answer is the end.
func each(v View, dir uint64, fn func(Entry) error) error {
	for after := ""; ; {
		es, err := v.ReadDir(dir, after, readEntries)
		if err != nil || len(es) == 0 {
			return err
		}
		for _, e := range es {
			if err := fn(e); err != nil {
				return err
			}
			after = e.Name
		}
	}
}
