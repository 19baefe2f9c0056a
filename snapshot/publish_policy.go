package snapshot

import (
	"fmt"
	"strconv"
)

// Publish says which sealed snapshots are published. The zero value: all. What a
// person gave a name is, whatever else is said; barriers are not.
type Publish struct {
	Complete bool // no step that is partial
	Every    int  // one of so many steps of a scope that are not partial
}

// ParsePublish reads all, complete, or a number.
func ParsePublish(s string) (Publish, error) {
	switch s {
	case "all":
		return Publish{}, nil
	case "complete":
		return Publish{Complete: true}, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > 1e9 {
		return Publish{}, fmt.Errorf("%q is not all, complete or a number", s)
	}
	return Publish{Every: n, Complete: n > 1}, nil
}

// String is the inverse of ParsePublish.
func (p Publish) String() string {
	switch {
	case p.Every > 0:
		return strconv.Itoa(p.Every)
	case p.Complete:
		return "complete"
	}
	return "all"
}

// wants says whether a step is to be published; known is false while that can't
// be said. Steps are asked about in their order, also those that are published
// already. since counts, by scope, those that were passed over.
func (p Publish) wants(i Info, done bool, since map[string]int) (wanted, known bool) {
	switch {
	case i.Name == "":
		return false, true
	case i.Explicit || !p.Complete:
		return true, true
	case i.Pending:
		return done, done
	case !i.Complete():
		return false, true
	}
	n, counted := since[i.Scope]
	if n++; done || !counted || n >= p.Every { // the first one is
		since[i.Scope] = 0
		return true, true
	}
	since[i.Scope] = n
	return false, true
}
