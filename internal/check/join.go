package check

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"stepfs/internal/schema"
)

// Group is the rows of several kinds that belong to one thing: their keys have
// the same bytes behind the kind's prefix.
type Group struct {
	ID   []byte
	rows []*rows
}

// rows walks over one kind.
type rows struct {
	kind byte
	it   *pebble.Iterator
	ok   bool
}

func (w *rows) in(id []byte) bool { return w.ok && bytes.HasPrefix(w.it.Key()[1:], id) }

// pass goes on to the next group.
func (w *rows) pass(id []byte) {
	for n := 0; w.in(id); n++ {
		if n == near {
			w.ok = w.it.SeekGE(schema.After(append([]byte{w.kind}, id...)))
			return
		}
		w.ok = w.it.Next()
	}
}

// Each calls fn for the rows of a kind. It can do so once: a row that was
// passed is gone. fn may not keep k and v.
func (g *Group) Each(kind byte, fn func(k, v []byte) error) error {
	for _, w := range g.rows {
		if w.kind != kind {
			continue
		}
		for ; w.in(g.ID); w.ok = w.it.Next() {
			if err := fn(w.it.Key(), w.it.Value()); err != nil {
				return err
			}
		}
		return w.it.Error()
	}
	return nil
}

// Has says whether there are rows of a kind that were not passed yet.
func (g *Group) Has(kind byte) bool {
	for _, w := range g.rows {
		if w.kind == kind {
			return w.in(g.ID)
		}
	}
	return false
}

// Join walks over several kinds of keys side by side, in the order of the width
// bytes behind the prefix, and calls fn for each group. Keys that are too short
// for that are reported. Nothing but one row of each kind is in memory.
func (r *Run) Join(ctx context.Context, kinds string, width int, fn func(g *Group) error) (err error) {
	g := &Group{}
	defer func() {
		for _, w := range g.rows {
			err = errors.Join(err, w.it.Close())
		}
	}()
	for _, kind := range []byte(kinds) {
		it, err := r.View.NewIter([]byte{kind}, []byte{kind + 1})
		if err != nil {
			return err
		}
		g.rows = append(g.rows, &rows{kind, it, it.First()})
	}
	for n := 0; ; n++ {
		if n%256 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		found, err := r.next(g, width)
		if err != nil || !found {
			return err
		}
		if err := fn(g); err != nil {
			return err
		}
		for _, w := range g.rows {
			w.pass(g.ID) // what fn did not ask for
		}
	}
}

// next finds the smallest group that is left.
func (r *Run) next(g *Group, width int) (found bool, err error) {
	for _, w := range g.rows {
		for ; w.ok && len(w.it.Key()) < 1+width; w.ok = w.it.Next() {
			r.Damage("record", fmt.Sprintf("key %x", w.it.Key()), "a key of kind %q is cut short", w.kind)
		}
		if err := w.it.Error(); err != nil {
			return false, err
		}
		if !w.ok {
			continue
		}
		if id := w.it.Key()[1 : 1+width]; !found || bytes.Compare(id, g.ID) < 0 {
			g.ID, found = append(g.ID[:0], id...), true
		}
	}
	return found, nil
}
