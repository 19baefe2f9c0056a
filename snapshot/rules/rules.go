package rules

import (
	_ "embed"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
)

//go:embed rules.txt
var table string

// Kinds of commit points.
const (
	Close   = "close"   // a file is closed after writing, or renamed to that name
	Rename  = "rename"  // something is renamed to that name
	Unlink  = "unlink"  // a marker is removed
	Tracker = "tracker" // a file beside the step is closed, and names it
)

// Reasons for which a step is sealed.
const (
	ReasonFile     = "commit-file"
	ReasonRename   = "rename"
	ReasonTracker  = "tracker"
	ReasonExplicit = "explicit"
	ReasonQuiet    = "quiet"
)

// Rule says how one framework writes a checkpoint.
type Rule struct {
	Name       string
	Own        bool // of the store's owner, not built in
	Commits    []Commit
	Signs      []string
	Committed  bool // it applies to nothing that is not committed
	Members    []string
	Each       []string
	Unfinished []string
	File       string // JSON file that says the step
	Field      string
	Weak       bool
	Reason     string
	Text       string // as it was written

	steps []pattern
}

// Commit is one thing that must have happened for a step to be whole.
type Commit struct {
	Kind string
	File string // "." the step itself; "../x" beside it; else below it
	From string // of a rename: a glob for the name that it had
	Want string // of a tracker: what it says, {name} or {step}
}

// pattern is one path that is a step.
type pattern struct {
	parts []*regexp.Regexp
	step  int  // the part that captures the step
	dir   bool // the last part is a directory
}

// Set is the rules of a store, in the order in which they are tried.
type Set struct{ rules []*Rule }

var builtin = sync.OnceValue(func() []*Rule {
	rs, err := Parse("rules.txt", table)
	if err != nil {
		panic(err) // the program is wrong; a test parses it too
	}
	return rs
})

// New gives the built-in rules, and before them those of the store's owner.
func New(own []*Rule) *Set {
	s := &Set{}
	for _, r := range own {
		r.Own = true
		s.rules = append(s.rules, r)
	}
	for _, r := range builtin() {
		if s.Named(r.Name) == nil {
			s.rules = append(s.rules, r)
		}
	}
	return s
}

// All gives the rules in order.
func (s *Set) All() []*Rule { return s.rules }

// Named gives a rule by its name, nil when there is none.
func (s *Set) Named(name string) *Rule {
	if i := slices.IndexFunc(s.rules, func(r *Rule) bool { return r.Name == name }); i >= 0 {
		return s.rules[i]
	}
	return nil
}

// Quiet says whether nothing but quiet tells that a step of this rule is whole.
func (r *Rule) Quiet() bool { return len(r.Commits) == 0 }

// Claims says whether the rule takes every step of its names.
func (r *Rule) Claims() bool { return len(r.Signs) == 0 && !r.Committed }

// Tells says whether its commit points say that a step is of this rule: any
// framework may close a file of that name in a step, but not move or track it.
func (r *Rule) Tells() bool {
	return len(r.Signs) == 0 || slices.ContainsFunc(r.Commits, func(c Commit) bool {
		return c.File == "." || strings.HasPrefix(c.File, "../")
	})
}

// Signed says whether one of the files, named relative to the step, is a sign
// of the rule. Files beside the step are asked for by exists.
func (r *Rule) Signed(files []string, name string, exists func(beside string) bool) bool {
	for _, sign := range r.Signs {
		if beside, ok := strings.CutPrefix(sign, "../"); ok {
			if exists(Expand(beside, name)) {
				return true
			}
			continue
		}
		if slices.ContainsFunc(files, func(f string) bool { return glob(sign, f) }) {
			return true
		}
	}
	return false
}

// Lacks says what a step with these files still lacks, "" when nothing.
func (r *Rule) Lacks(files []string) string {
	has := func(pattern string) bool {
		return slices.ContainsFunc(files, func(f string) bool { return glob(pattern, f) })
	}
	for _, m := range r.Members {
		if !has(m) {
			return m + " is missing"
		}
	}
	for _, e := range r.Each {
		dir, file := path.Split(e)
		for _, f := range files {
			below, _ := path.Split(f)
			if glob(dir, below) && !has(below+file) {
				return below + file + " is missing"
			}
		}
	}
	for _, f := range files {
		for _, u := range r.Unfinished {
			if glob(u, f) || glob(u, path.Base(f)) {
				return f + " is not finished"
			}
		}
	}
	return ""
}

// Expand puts a step's name into a pattern.
func Expand(pattern, name string) string {
	return strings.ReplaceAll(pattern, "{name}", strings.TrimSuffix(name, ".ckpt"))
}

// NameOf is the inverse of Expand: the name for which the pattern is that file.
func NameOf(pattern, file string) (name string, ok bool) {
	before, after, has := strings.Cut(pattern, "{name}")
	if !has {
		return "", false
	}
	name, ok = strings.CutPrefix(file, before)
	if ok {
		name, ok = strings.CutSuffix(name, after)
	}
	return name, ok && name != ""
}

// glob is path.Match with a pattern that was checked.
func glob(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}

// Is says whether the commit point is an event of this kind on a file below
// the step, or the step itself ("."), that was called from before.
func (c *Commit) Is(kind, file, from string) bool {
	switch {
	case !glob(c.File, file):
		return false
	case c.Kind == Close && kind == Rename:
		return true
	}
	return c.Kind == kind && (c.From == "" || glob(c.From, from))
}

// Missing says which commit point was not seen.
func (r *Rule) Missing(seen func(k int) bool) string {
	for k, c := range r.Commits {
		if !seen(k) {
			return c.String()
		}
	}
	return ""
}

// String is the commit point as it is written in a rule.
func (c Commit) String() string {
	s := c.Kind + " " + c.File
	if c.From != "" {
		s += " from " + c.From
	}
	if c.Want != "" {
		s += " " + c.Want
	}
	return s
}
