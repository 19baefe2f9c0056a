package rules

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// ErrBad is wrapped by every error of Parse, which names file and line.
var ErrBad = errors.New("bad rule")

// MaxSize bounds a file of rules.
const MaxSize = 1 << 20

// Parse reads rules in the form that rules.txt explains.
func Parse(file, text string) ([]*Rule, error) {
	p := &parser{}
	line := 0
	for s := range strings.Lines(text) {
		line++
		if err := p.line(line, s); err != nil {
			return nil, fmt.Errorf("%s:%d: %w: %w", file, line, ErrBad, err)
		}
	}
	if err := p.end(); err != nil {
		return nil, fmt.Errorf("%s:%d: %w: %w", file, p.begun, ErrBad, err)
	}
	return p.all, nil
}

type parser struct {
	all   []*Rule
	rule  *Rule
	begun int // line of its name
}

func (p *parser) line(n int, s string) error {
	s = strings.TrimSpace(s)
	switch {
	case s == "" || s[0] == '#':
		return nil
	case s[0] == '[':
		if err := p.end(); err != nil {
			return fmt.Errorf("(the rule of line %d) %w", p.begun, err)
		}
		return p.begin(n, s)
	case p.rule == nil:
		return errors.New("a rule begins with its name: [name]")
	}
	key, value, ok := strings.Cut(s, "=")
	if !ok {
		return fmt.Errorf("%q is not key = value", s)
	}
	p.rule.Text += s + "\n"
	return p.rule.set(strings.TrimSpace(key), strings.TrimSpace(value))
}

func (p *parser) begin(n int, s string) error {
	name, ok := strings.CutSuffix(s[1:], "]")
	if !ok || name == "" || len(name) > 64 || strings.ContainsAny(name, " \t[]") {
		return fmt.Errorf("%q is not [name]", s)
	}
	if slices.ContainsFunc(p.all, func(r *Rule) bool { return r.Name == name }) {
		return fmt.Errorf("there is a rule %s already", name)
	}
	p.rule, p.begun = &Rule{Name: name}, n
	return nil
}

// end checks the rule that was read last, and takes it.
func (p *parser) end() error {
	r := p.rule
	if r == nil {
		return nil
	}
	p.rule = nil
	switch {
	case len(r.steps) == 0:
		return fmt.Errorf("%s has no step", r.Name)
	case r.Committed && (r.Quiet() || len(r.Signs) > 0):
		return fmt.Errorf("%s: when = committed wants a commit, and no sign", r.Name)
	case r.Reason == "" && r.Quiet():
		r.Reason = ReasonQuiet
	case r.Reason == "":
		r.Reason = reasonOf[r.Commits[len(r.Commits)-1].Kind]
	}
	p.all = append(p.all, r)
	return nil
}

var reasonOf = map[string]string{Close: ReasonFile, Rename: ReasonRename, Unlink: ReasonFile, Tracker: ReasonTracker}

func (r *Rule) set(key, value string) (err error) {
	if value == "" {
		return fmt.Errorf("%s says nothing", key)
	}
	switch key {
	case "step":
		var p pattern
		if p, err = parseStep(value); err == nil {
			r.steps = append(r.steps, p)
		}
	case "commit":
		var c Commit
		if c, err = parseCommit(value); err == nil {
			r.Commits = append(r.Commits, c)
		}
	case "sign":
		r.Signs, err = globs(value)
	case "members":
		r.Members, err = globs(value)
	case "each":
		r.Each, err = globs(value)
	case "unfinished":
		r.Unfinished, err = globs(value)
	case "number":
		var ok bool
		if r.File, r.Field, ok = strings.Cut(value, ":"); !ok || r.File == "" || r.Field == "" || strings.Contains(r.File, "..") {
			err = fmt.Errorf("number is FILE:FIELD, not %q", value)
		}
	case "weak":
		if r.Weak = value == "yes"; !r.Weak {
			err = fmt.Errorf("weak is yes, not %q", value)
		}
	case "when":
		if r.Committed = value == "committed"; !r.Committed {
			err = fmt.Errorf("when is committed, not %q", value)
		}
	case "reason":
		r.Reason = value
		if !slices.Contains([]string{ReasonFile, ReasonRename, ReasonTracker, ReasonExplicit, ReasonQuiet}, value) {
			err = fmt.Errorf("there is no reason %q", value)
		}
	default:
		err = fmt.Errorf("there is no key %.40q", key)
	}
	return err
}

func parseStep(s string) (p pattern, err error) {
	if s, p.dir = strings.CutSuffix(s, "/"); s == "" {
		return p, errors.New("step names nothing")
	}
	p.step = -1
	for i, part := range splitPattern(s) {
		re, err := regexp.Compile("^(?:" + part + ")$")
		if err != nil {
			return p, err
		}
		switch n := re.NumSubexp(); {
		case n > 1 || n == 1 && p.step >= 0:
			return p, errors.New("step has several groups: one captures the step, others are (?:…)")
		case n == 1:
			p.step = i
		}
		p.parts = append(p.parts, re)
	}
	if p.step < 0 {
		return p, errors.New("step captures nothing: put the step's number in a group, like (\\d+)")
	}
	return p, nil
}

// splitPattern splits a regular expression at the slashes outside of classes.
func splitPattern(s string) (parts []string) {
	class, from := false, 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '[':
			class = true
		case ']':
			class = false
		case '/':
			if !class {
				parts, from = append(parts, s[from:i]), i+1
			}
		}
	}
	return append(parts, s[from:])
}

func parseCommit(s string) (c Commit, err error) {
	f := strings.Fields(s)
	if c.Kind = f[0]; len(f) > 1 {
		c.File = f[1]
	}
	switch {
	case c.Kind == Tracker && len(f) == 3:
		c.Want = f[2]
	case c.Kind == Rename && len(f) == 4 && f[2] == "from":
		c.From = f[3]
	case len(f) == 2 && (c.Kind == Close || c.Kind == Rename || c.Kind == Unlink):
	default:
		return c, fmt.Errorf("%q is not a commit: close FILE, rename FILE [from GLOB], unlink FILE, or tracker FILE {name} or {step}", s)
	}
	beside, out := strings.CutPrefix(c.File, "../")
	switch {
	case c.Kind == Tracker && (c.Want != "{name}" && c.Want != "{step}" || !out):
		return c, errors.New("a tracker is beside the step (../FILE), and says {name} or {step}")
	case strings.Contains(beside, ".."), path.IsAbs(c.File), out && strings.Contains(beside, "/"):
		return c, fmt.Errorf("%q is neither below the step nor beside it", c.File)
	case out && c.Kind != Tracker && !strings.Contains(beside, "{name}"):
		return c, fmt.Errorf("%q beside the step does not say which one: {name}", c.File)
	}
	_, err = globs(c.File + " " + c.From)
	return c, err
}

func globs(s string) ([]string, error) {
	all := strings.Fields(s)
	for _, g := range all {
		if _, err := path.Match(g, ""); err != nil {
			return nil, fmt.Errorf("%q: %w", g, err)
		}
	}
	return all, nil
}
