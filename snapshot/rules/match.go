package rules

import (
	"slices"
	"strings"
)

// Match is the step that a path belongs to.
type Match struct {
	Scope int    // parts of the path that are its scope
	Parts int    // parts that are the step: above 1 it is one of several pieces
	Step  string // as its path says
	Rules []*Rule
}

// OwnPrefix begins the names of what stepfs itself is in the middle of writing.
const OwnPrefix = ".stepfs-"

// Foreign is the directory in a step of what is not the job's.
const Foreign = ".stepfs"

// Match finds the step that a path belongs to: that of the outermost part that
// a rule takes for one. A directory that only weak rules take gives way to a
// step below it. The last part of the path is a directory, or not. What a step
// took from elsewhere (Foreign) is no step, wherever it was copied to.
func (s *Set) Match(parts []string, dir bool) (m Match, ok bool) {
	if slices.Contains(parts, Foreign) {
		return m, false
	}
	for at := range parts {
		if strings.HasPrefix(parts[at], OwnPrefix) {
			break
		}
		found, any := s.matchAt(parts, at, dir)
		if !any {
			continue
		}
		if !found.weak() {
			return found, true
		}
		if !ok {
			m, ok = found, true
		}
	}
	return m, ok
}

// weak says whether all of its rules are.
func (m *Match) weak() bool {
	for _, r := range m.Rules {
		if !r.Weak {
			return false
		}
	}
	return true
}

// matchAt gives the rules that take the parts from `at` on for a step; they
// all are of as many parts, and say the same step.
func (s *Set) matchAt(parts []string, at int, dir bool) (m Match, ok bool) {
	for _, r := range s.rules {
		for i := range r.steps {
			p := &r.steps[i]
			step, fits := p.match(parts[at:], dir)
			if !fits || ok && (m.Step != step || m.Parts != len(p.parts)) {
				continue
			}
			if !ok {
				m, ok = Match{Scope: at, Parts: len(p.parts), Step: step}, true
			}
			m.Rules = append(m.Rules, r)
			break
		}
	}
	return m, ok
}

func (p *pattern) match(parts []string, dir bool) (step string, ok bool) {
	if len(parts) < len(p.parts) || p.dir != (dir || len(parts) > len(p.parts)) {
		return "", false
	}
	for i, re := range p.parts {
		m := re.FindStringSubmatch(parts[i])
		if m == nil {
			return "", false
		}
		if i == p.step {
			step = m[1]
		}
	}
	return Number(step)
}

// maxDigits is how long a number can be that 63 bits hold.
const maxDigits = 18

// Number is a step as it is named: a number without leading zeros, or a name.
func Number(s string) (step string, ok bool) {
	if strings.Trim(s, "0123456789") != "" {
		return s, true
	}
	step = strings.TrimLeft(s, "0")
	if step == "" && s != "" {
		step = "0"
	}
	return step, step != "" && len(step) <= maxDigits
}

// Name gives the step of a single name, by the rules that ask for nothing else.
func (s *Set) Name(name string, file bool) (step string, ok bool) {
	for _, r := range s.rules {
		if !r.Claims() {
			continue
		}
		for i := range r.steps {
			if p := &r.steps[i]; len(p.parts) == 1 {
				if step, ok := p.match([]string{name}, !file); ok {
					return step, true
				}
			}
		}
	}
	return "", false
}
