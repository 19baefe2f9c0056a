package snapshot

import (
	"context"
	"errors"
)

// A change is noted in memory, and its step recorded a moment later. After a
// daemon that did not end well, the tree is looked through once for steps that
// differ from their newest revision: a checkpoint whose last file was closed
// in that moment must not be forgotten.

// rescan notes such steps. It costs the names that belong to no step, and the
// inodes that do.
func (s *sealer) rescan(ctx context.Context) error {
	seq, err := s.m.Barrier(ctx, "recovery")
	if err != nil {
		return err
	}
	r := &rescanner{s: s, ctx: ctx, now: s.m.tree.At(seq)}
	return r.dir(rootIno, "")
}

type rescanner struct {
	s   *sealer
	ctx context.Context
	now View
}

// dir looks through a directory that is no step.
func (r *rescanner) dir(ino uint64, path string) error {
	return each(r.now, ino, func(e Entry) error {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		step, ok := stepOf(e.Name, e.Type != modeDir)
		if !ok {
			if e.Type == modeDir {
				return r.dir(e.Ino, join(path, e.Name))
			}
			return nil
		}
		if sealed, err := r.sealed(e, path, step); err != nil || sealed {
			return err
		}
		return r.s.note(&candidate{ino: e.Ino, step: step})
	})
}

// sealed says whether the newest revision of a step shows all that it holds.
func (r *rescanner) sealed(e Entry, scope, step string) (bool, error) {
	rev, err := r.s.m.Resolve(scope, step)
	if errors.Is(err, ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	err = holds(r.s.m.tree.At(rev.Seq), r.now, e)
	if errors.Is(err, errChanged) {
		return false, nil
	}
	return err == nil, err
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
