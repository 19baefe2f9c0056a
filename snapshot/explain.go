package snapshot

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"stepfs/snapshot/rules"
)

// Explanation says why a path of the live tree was sealed as a step, or not.
type Explanation struct {
	Step, Scope string // "", "": no rule takes it for one
	Path        string // of the step that owns the path
	Waits       bool   // it will be sealed when that can be done
	Lines       []string
	Sealed      *Info // its newest revision
}

// Explain explains a path of the live tree.
func (m *Manager) Explain(path string) (*Explanation, error) {
	s := m.sealer
	if !m.cfg.ReadOnly {
		s.resolve()
	}
	path = strings.Trim(path, "/")
	ino, dir, err := m.tree.Find(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %s is not in the live tree", ErrNotExist, path)
	}
	x := &Explanation{}
	parts := splitPath(path)
	match, ok := s.rules.Match(parts, dir)
	if !ok {
		x.say("no rule takes it, or a directory above it, for a step")
		s.explainRefused(x, path)
		return x, nil
	}
	own := match.Scope + match.Parts
	if x.Path = strings.Join(parts[:own], "/"); own < len(parts) {
		x.say("it belongs to %s, which is the outermost step", x.Path)
		if ino, _, err = m.tree.Find(x.Path); err != nil {
			return nil, err
		}
	}
	x.Step, x.Scope = match.Step, strings.Join(parts[:match.Scope], "/")
	if err := s.explainStep(x, &match, ino); err != nil {
		return nil, err
	}
	s.explainRefused(x, x.Scope)
	return x, nil
}

func (x *Explanation) say(format string, args ...any) {
	x.Lines = append(x.Lines, fmt.Sprintf(format, args...))
}

func (s *sealer) explainStep(x *Explanation, match *rules.Match, ino uint64) error {
	key := stepKey{ino: ino}
	if match.Parts > 1 {
		scope, _, err := s.m.tree.Find(x.Scope)
		if err != nil {
			return err
		}
		key = stepKey{scope, match.Step}
	}
	s.mu.Lock()
	c := s.waiting[key]
	s.mu.Unlock()
	if x.Waits = c != nil; c == nil {
		c = &candidate{key: key, id: ino, step: match.Step, rules: match.Rules, last: time.Now()}
	}
	a, ok := s.take(c)
	if !ok {
		return fmt.Errorf("%w: %s is not in the live tree", ErrNotExist, x.Path)
	}
	a.quiet = true // to hear of all that is missing
	j, err := s.examine(a, s.m.tree.Now())
	switch {
	case errors.Is(err, errNothing):
		x.say("it holds no closed file that a rule takes for a step's")
		return nil
	case errors.Is(err, errOpen):
		x.say("a file of it is open for writing")
	case err != nil:
		return err
	default:
		j.number()
		x.Step = j.step
		s.explainRule(x, j)
	}
	revs, err := s.m.Revisions(x.Scope, x.Step, 1)
	if err == nil && len(revs) > 0 {
		x.Sealed = &revs[0]
	}
	return err
}

func (s *sealer) explainRule(x *Explanation, j *judgement) {
	x.say("rule %s: %s", j.rule.Name, ruleWords(j.rule))
	for _, r := range j.a.rules {
		if r == j.rule {
			break
		}
		x.say("not %s: neither its signs nor its commit point are there", r.Name)
	}
	if !x.Waits {
		x.say("nothing has changed since it was looked at last")
		return
	}
	x.say("changed %s ago", time.Since(j.a.last).Round(time.Millisecond))
	if len(j.why) == 0 && j.committed {
		x.say("it is committed, and about to be sealed")
	}
	for _, why := range j.why {
		x.say("%s", why)
	}
	if !j.committed || len(j.why) > 0 {
		x.say("it is sealed as it is once it was quiet for %s", s.quiet)
	}
}

func ruleWords(r *rules.Rule) string {
	if r.Quiet() {
		return "nothing but quiet says that it is whole"
	}
	words := make([]string, len(r.Commits))
	for k, c := range r.Commits {
		words[k] = c.String()
	}
	return "it is whole after " + strings.Join(words, ", ")
}

// explainRefused tells of trackers beside the step that named none.
func (s *sealer) explainRefused(x *Explanation, scope string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for path, why := range s.refused {
		if path == scope || strings.HasPrefix(path, scope+"/") || scope == "" {
			x.say("%s committed no step: %s", path, why)
		}
	}
}
