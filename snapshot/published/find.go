package published

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"stepfs/internal/schema"
)

// Query names a snapshot.
type Query struct {
	Scope  string // directory of the mount; "" is its root
	Name   string // "12000" (the newest revision), "12000@77", "@77", "latest"
	Writer string // the first digits of a writer's name; "" is any
}

func (q Query) String() string {
	s := q.Name
	if q.Scope != "" {
		s = q.Scope + "/" + s
	}
	if q.Writer != "" {
		s += " of writer " + q.Writer
	}
	return s
}

// Find chooses the snapshot that a query names. ErrAmbiguous says between which
// writers the choice is; ErrNotExist where else there is one.
func (l *Listing) Find(q Query) (Step, error) {
	name, number, numbered := strings.Cut(q.Name, "@")
	seq, err := strconv.ParseUint(number, 10, 64)
	if numbered && err != nil {
		return Step{}, fmt.Errorf("%w: %s: behind the @ there is no number", ErrNotExist, q)
	}
	var found, elsewhere []Step
	for _, s := range l.Steps {
		r := s.Record
		switch {
		case !strings.HasPrefix(s.Writer.String(), q.Writer):
		case numbered && (s.Sequence != seq || name != "" && r.Name != name):
		case !numbered && q.Name != "latest" && r.Name != name:
		case q.Name == "latest" && rankOf(s) == 0:
		case r.Scope != q.Scope && (!numbered || name != ""):
			elsewhere = append(elsewhere, s)
		default:
			found = append(found, s)
		}
	}
	if len(found) == 0 {
		return Step{}, notFound(q, elsewhere)
	}
	if q.Name == "latest" {
		return slices.MaxFunc(found, byLatest), nil
	}
	return newest(q, found)
}

func rankOf(s Step) int {
	f, _ := schema.ParseNameFlags(s.Record.NameFlags())
	return schema.NameRank(f)
}

// byLatest orders by the claim to be the latest. Numbers of different writers say
// nothing of each other, so among writers it is the time that counts.
func byLatest(a, b Step) int {
	if d := rankOf(a) - rankOf(b); d != 0 {
		return d
	}
	if a.Writer == b.Writer {
		return compare(max(a.Sequence, a.Record.Again), max(b.Sequence, b.Record.Again))
	}
	return compare(a.Record.Time, b.Record.Time)
}

func compare[T int64 | uint64](a, b T) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// newest gives the newest revision, if all are of one writer.
func newest(q Query, found []Step) (Step, error) {
	last := slices.MaxFunc(found, func(a, b Step) int { return compare(a.Sequence, b.Sequence) })
	var choice []string
	for _, s := range found {
		if s.Writer != last.Writer {
			choice = append(choice, describe(s))
		}
	}
	if choice == nil {
		return last, nil
	}
	choice = append(choice, describe(last))
	slices.Sort(choice)
	return Step{}, fmt.Errorf("%w: %s; choose one by --writer: %s", ErrAmbiguous, q, strings.Join(choice, ", "))
}

func describe(s Step) string {
	return fmt.Sprintf("%s (%s of %s)", s.Writer, s.ID(), s.Time().UTC().Format("2006-01-02 15:04:05"))
}

func notFound(q Query, elsewhere []Step) error {
	var scopes []string
	for _, s := range elsewhere {
		if !slices.Contains(scopes, s.Record.Scope) {
			scopes = append(scopes, s.Record.Scope)
		}
	}
	if scopes == nil {
		return fmt.Errorf("%w: no snapshot %s is published there", ErrNotExist, q)
	}
	slices.Sort(scopes)
	for k, scope := range scopes {
		if scopes[k] = scope + "/" + q.Name; scope == "" {
			scopes[k] = q.Name + " (of the mount's root)"
		}
	}
	return fmt.Errorf("%w: no snapshot %s is published there; there is %s", ErrNotExist, q, strings.Join(scopes, ", "))
}
