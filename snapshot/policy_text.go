package snapshot

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A policy as text is settings of the store: a rule each, and one for each
// override, "scope:runA/*" -> "keep-last=5,keep-every=1000".

// ErrPolicy wraps what is wrong with a policy's text.
var ErrPolicy = errors.New("bad policy")

const (
	keepPrefix  = "keep-"
	scopePrefix = "scope:"

	keyBarriers     = "keep-barriers"
	keyBarriersLast = "keep-barriers-last"
	keyAll          = "keep-all"
	keyTag          = "keep-tag"
	keyWithin       = "keep-within"
)

// stepKeys are the rules for steps, in the order in which they are printed.
var stepKeys = []string{"keep-last", "keep-every", keyWithin, "keep-daily", "keep-weekly", "keep-monthly", keyTag}

// IsPolicyKey says whether a setting of the store is one of its policy.
func IsPolicyKey(key string) bool {
	return strings.HasPrefix(key, keepPrefix) || strings.HasPrefix(key, scopePrefix)
}

// ParsePolicy reads the policy among the settings of a store; the others are
// not looked at.
func ParsePolicy(settings map[string]string) (Policy, error) {
	p := DefaultPolicy()
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		if err := p.set(key, settings[key]); err != nil {
			return Policy{}, fmt.Errorf("%w: %w", ErrPolicy, err)
		}
	}
	if p.Barriers == 0 && p.BarriersLast == 0 {
		return Policy{}, fmt.Errorf("%w: %s=0 and %s=0 keep no barrier: the snapshot of an fsync would be gone at once", ErrPolicy, keyBarriers, keyBarriersLast)
	}
	return p, nil
}

func (p *Policy) set(key, value string) (err error) {
	glob, override := strings.CutPrefix(key, scopePrefix)
	switch {
	case !IsPolicyKey(key):
		return nil
	case override:
		return p.override(glob, value)
	case key == keyBarriers:
		p.Barriers, err = parseSpan(key, value, 0)
	case key == keyBarriersLast:
		p.BarriersLast, err = parseCount(key, value, 0)
	case key == keyAll:
		return fmt.Errorf("%s is for a scope: without any rule for steps all are kept", keyAll)
	case key == keyTag:
		for _, tag := range strings.Split(value, ",") {
			if err = p.Steps.set(key, tag); err != nil {
				return err
			}
		}
	default:
		err = p.Steps.set(key, value)
	}
	return err
}

func (p *Policy) override(glob, value string) error {
	name := scopePrefix + glob
	if _, err := path.Match(glob, ""); err != nil || glob == "" {
		return fmt.Errorf("%s: %q is no pattern for a scope, which is a directory like runA, runs/* or /", name, glob)
	}
	s := ScopeRules{Glob: glob}
	seen := map[string]bool{}
	for _, rule := range strings.Split(value, ",") {
		key, v, _ := strings.Cut(strings.TrimSpace(rule), "=")
		switch {
		case value == "":
			return fmt.Errorf("%s has no rule; %s keeps every step there", name, keyAll)
		case key == keyBarriers || key == keyBarriersLast:
			return fmt.Errorf("%s: %s is not for one scope: a barrier is of the whole mount", name, key)
		case seen[key] && key != keyTag:
			return fmt.Errorf("%s: %s is there twice", name, key)
		}
		seen[key] = true
		if err := s.set(key, v); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if s.All && len(seen) > 1 {
		return fmt.Errorf("%s: %s contradicts the other rules", name, keyAll)
	}
	p.Scopes = append(p.Scopes, s)
	return nil
}

// set adds one rule for steps.
func (r *Rules) set(key, value string) (err error) {
	counts := map[string]*int{"keep-last": &r.Last, "keep-every": &r.Every, "keep-daily": &r.Daily, "keep-weekly": &r.Weekly, "keep-monthly": &r.Monthly}
	switch {
	case counts[key] != nil:
		*counts[key], err = parseCount(key, value, 1)
	case key == keyWithin:
		r.Within, err = parseSpan(key, value, 1)
	case key == keyAll:
		if r.All = value == "" || value == "true"; !r.All {
			err = fmt.Errorf("%s takes no value, not %q", key, value)
		}
	case key == keyTag:
		if value == "" || slices.Contains(r.Tags, value) {
			return fmt.Errorf("%s: the tag %q is empty or there twice", key, value)
		}
		r.Tags = append(r.Tags, value)
	default:
		known := append(slices.Clone(stepKeys), keyBarriers, keyBarriersLast)
		err = fmt.Errorf("there is no rule %q; there are %s, and %s<pattern> (with %s, too)", key, strings.Join(known, ", "), scopePrefix, keyAll)
	}
	return err
}

func parseCount(key, value string, least int) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < least || n > math.MaxInt32 {
		return 0, fmt.Errorf("%s=%s: it takes a number of at least %d; unset %s takes the rule away", key, value, least, key)
	}
	return n, nil
}

var spanRE = regexp.MustCompile(`^(?:(\d{1,4})w)?(?:(\d{1,4})d)?(.*)$`)

// parseSpan reads a duration as Go writes it, with weeks and days before it.
func parseSpan(key, value string, least time.Duration) (time.Duration, error) {
	m := spanRE.FindStringSubmatch(value)
	weeks, _ := strconv.Atoi(m[1]) // digits, or absent
	days, _ := strconv.Atoi(m[2])
	d := time.Duration(7*weeks+days) * 24 * time.Hour
	if rest := m[3]; rest != "" || value == "" {
		more, err := time.ParseDuration(rest)
		if err != nil || more < 0 || more > math.MaxInt64-d {
			return 0, fmt.Errorf("%s=%s: it takes a duration like 90m, 36h, 7d or 2w, not below 0", key, value)
		}
		d += more
	}
	if d < least {
		return 0, fmt.Errorf("%s=%s keeps nothing; unset %s takes the rule away", key, value, key)
	}
	return d, nil
}

// spanText is the inverse of parseSpan.
func spanText(d time.Duration) string {
	const day = 24 * time.Hour
	out := ""
	if d >= day {
		out, d = fmt.Sprintf("%dd", d/day), d%day
	}
	if d == 0 && out != "" {
		return out
	}
	text := d.String()
	if d%time.Minute == 0 {
		text = strings.TrimSuffix(text, "0s")
	}
	if d%time.Hour == 0 {
		text = strings.TrimSuffix(text, "0m")
	}
	if text == "" {
		text = "0s"
	}
	return out + text
}

// list gives the rules as key and value, in order.
func (r *Rules) list() (out [][2]string) {
	if r.All {
		out = append(out, [2]string{keyAll, "true"})
	}
	count := func(key string, n int) {
		if n > 0 {
			out = append(out, [2]string{key, strconv.Itoa(n)})
		}
	}
	count("keep-last", r.Last)
	count("keep-every", r.Every)
	if r.Within > 0 {
		out = append(out, [2]string{keyWithin, spanText(r.Within)})
	}
	count("keep-daily", r.Daily)
	count("keep-weekly", r.Weekly)
	count("keep-monthly", r.Monthly)
	for _, t := range r.Tags {
		out = append(out, [2]string{keyTag, t})
	}
	return out
}

// words names the rules in a sentence.
func (r *Rules) words() string {
	var out []string
	for _, kv := range r.list() {
		out = append(out, kv[0]+" "+kv[1])
	}
	return strings.Join(out, ", ")
}

// Settings is the inverse of ParsePolicy: the policy as settings, those of the
// barriers always among them.
func (p *Policy) Settings() map[string]string {
	out := map[string]string{keyBarriers: spanText(p.Barriers), keyBarriersLast: strconv.Itoa(p.BarriersLast)}
	for _, kv := range p.Steps.list() {
		if old := out[kv[0]]; old != "" { // of the tags
			kv[1] = old + "," + kv[1]
		}
		out[kv[0]] = kv[1]
	}
	for _, s := range p.Scopes {
		var rules []string
		for _, kv := range s.list() {
			rules = append(rules, kv[0]+"="+kv[1])
		}
		out[scopePrefix+s.Glob] = strings.Join(rules, ",")
	}
	return out
}

// EditPolicy applies changes, "key=value" to set and keys to unset, to
// settings and gives new ones. An error changes nothing.
func EditPolicy(settings map[string]string, set, unset []string) (map[string]string, error) {
	out := maps.Clone(settings)
	if out == nil {
		out = map[string]string{}
	}
	seen := map[string]bool{}
	for _, s := range set {
		key, value, err := splitRule(s)
		if err != nil {
			return nil, err
		}
		switch {
		case seen[key] && key == keyTag:
			value = out[key] + "," + value
		case seen[key]:
			return nil, fmt.Errorf("%w: %s is given twice", ErrPolicy, key)
		}
		seen[key], out[key] = true, value
	}
	for _, key := range unset {
		if _, there := out[key]; !there || !IsPolicyKey(key) || seen[key] {
			return nil, fmt.Errorf("%w: %s is not set", ErrPolicy, key)
		}
		delete(out, key)
	}
	_, err := ParsePolicy(out)
	return out, err
}

// splitRule splits "keep-last=3" and "scope:runs/lr=3/*=keep-last=3".
func splitRule(s string) (key, value string, err error) {
	at := strings.IndexByte(s, '=')
	if strings.HasPrefix(s, scopePrefix) {
		at = strings.Index(s, "="+keepPrefix)
	}
	if at < 0 {
		return "", "", fmt.Errorf("%w: %q is not like keep-last=3 or %sruns/*=keep-last=3,keep-every=1000", ErrPolicy, s, scopePrefix)
	}
	if key = s[:at]; !IsPolicyKey(key) {
		var r Rules
		return "", "", fmt.Errorf("%w: %w", ErrPolicy, r.set(key, ""))
	}
	return key, s[at+1:], nil
}
