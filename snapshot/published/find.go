package published

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"stepfs/chunkstore/bucket"
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
		case q.Name == "latest" && (r.Name == "" || rankOf(s) == 0): // a barrier, or partial
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
		return latest(found), nil
	}
	return newest(q, found)
}

func rankOf(s Step) int {
	f, _ := schema.ParseNameFlags(s.Record.NameFlags())
	return schema.NameRank(f)
}

// latest gives the latest step: of each writer by number, which its clock does
// not change; among writers, whose numbers say nothing of each other, by time.
func latest(found []Step) Step {
	of := map[bucket.Writer]Step{}
	for _, s := range found {
		if last, ok := of[s.Writer]; !ok || cmp.Or(rankOf(s)-rankOf(last), cmp.Compare(sealed(s), sealed(last))) > 0 {
			of[s.Writer] = s
		}
	}
	return slices.MaxFunc(slices.Collect(maps.Values(of)), func(a, b Step) int {
		return cmp.Or(rankOf(a)-rankOf(b), cmp.Compare(a.Record.Time, b.Record.Time), bytes.Compare(a.Writer[:], b.Writer[:]))
	})
}

// sealed is the cut at which a step was sealed for the last time.
func sealed(s Step) uint64 { return max(s.Sequence, s.Record.Again) }

// newest gives the newest revision, if all are of one writer.
func newest(q Query, found []Step) (Step, error) {
	last := slices.MaxFunc(found, func(a, b Step) int { return cmp.Compare(a.Sequence, b.Sequence) })
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
