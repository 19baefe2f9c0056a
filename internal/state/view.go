package state

import "github.com/cockroachdb/pebble/v2"

// View is the index as it was at one moment, between two transactions. Whoever
// reads it holds up nobody: what is changed meanwhile is kept beside it until
// Close. It is read-only.
type View struct {
	snap *pebble.Snapshot
	e    *Engine
}

// View gives the index as it is now.
func (e *Engine) View() *View { return &View{e.db.NewSnapshot(), e} }

// Close gives it back.
func (v *View) Close() error { return v.snap.Close() }

// Get gives a copy of the value of key, or ErrNotFound.
func (v *View) Get(key []byte) ([]byte, error) {
	b, c, err := v.snap.Get(key)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return append([]byte(nil), b...), nil
}

// NewIter iterates over [lower, upper).
func (v *View) NewIter(lower, upper []byte) (*pebble.Iterator, error) {
	return v.snap.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
}
