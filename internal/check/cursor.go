package check

import (
	"bytes"

	"github.com/cockroachdb/pebble/v2"
)

// Cursor reads keys of one kind here and there. Whoever asks in the order of the
// keys pays what a walk over them costs, and not a look-up for each.
type Cursor struct {
	it *pebble.Iterator
	ok bool
	// from is where it was sent last, or the last key that it gave: no key
	// behind that has been passed.
	from []byte
}

// near is how many keys are walked over before it pays to seek.
const near = 8

// Cursor gives one for a kind. Close it.
func (r *Run) Cursor(kind byte) (*Cursor, error) {
	it, err := r.View.NewIter([]byte{kind}, []byte{kind + 1})
	if err != nil {
		return nil, err
	}
	return &Cursor{it: it}, nil
}

// Close ends it. It may be nil.
func (c *Cursor) Close() error {
	if c == nil {
		return nil
	}
	return c.it.Close()
}

// Each calls fn for the keys from from on that begin with prefix, as from does,
// until fn wants no more. fn may not keep k and v.
func (c *Cursor) Each(from, prefix []byte, fn func(k, v []byte) (more bool, err error)) error {
	c.seek(from)
	for ; c.ok && bytes.HasPrefix(c.it.Key(), prefix); c.ok = c.it.Next() {
		c.from = append(c.from[:0], c.it.Key()...)
		if more, err := fn(c.it.Key(), c.it.Value()); err != nil || !more {
			return err
		}
	}
	return c.it.Error()
}

// seek goes to the first key from from on.
func (c *Cursor) seek(from []byte) {
	forward := c.from != nil && bytes.Compare(c.from, from) < 0
	c.from = append(c.from[:0], from...)
	for n := 0; forward && n < near; n++ {
		if !c.ok || bytes.Compare(c.it.Key(), from) >= 0 {
			return
		}
		c.ok = c.it.Next()
	}
	c.ok = c.it.SeekGE(from)
}
