package snapshot

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"
)

// A policy says which sealed steps and which barriers are kept. It is pure
// logic: the keeper (keeper.go) applies it, policy_text.go reads and prints it.
//
// "Newest" is the order in which snapshots were taken, never that of their
// times, so a clock that jumps changes no order. An age counts only when the
// wall clock and the store's own clock (clock.go) both say so.

// Policy is what a store keeps. The zero value keeps every step and no barrier.
type Policy struct {
	Steps  Rules        // of the scopes that no override names
	Scopes []ScopeRules // overrides: the longest glob that matches counts

	Barriers     time.Duration // a barrier is kept for so long ...
	BarriersLast int           // ... and beyond that while it is among so many newest
}

// ScopeRules are the rules of the scopes that a glob (path.Match) matches. The
// root is the scope "/", which no wildcard matches.
type ScopeRules struct {
	Glob string
	Rules
}

// Rules say which steps of a scope are kept: those that one of them names. No
// rule keeps all.
type Rules struct {
	All                    bool // said aloud: an override may take rules off
	Last                   int  // newest complete steps
	Every                  int  // complete steps whose number is a multiple
	Within                 time.Duration
	Daily, Weekly, Monthly int // newest complete step of each of so many newest periods, in UTC
	Tags                   []string
}

// DefaultPolicy is that of a store whose owner has not said anything.
func DefaultPolicy() Policy { return Policy{Barriers: time.Hour, BarriersLast: 100} }

// KeepAll expires nothing at all: for a policy that can't be read.
func KeepAll() Policy { return Policy{Barriers: 1<<63 - 1} }

// Decision is what a policy says of one snapshot.
type Decision struct {
	Keep bool
	Why  string
}

// For gives the rules of a scope.
func (p *Policy) For(scope string) Rules {
	found, rules := "", p.Steps
	for _, s := range p.Scopes {
		if matches(s.Glob, scope) && (len(s.Glob) > len(found) || len(s.Glob) == len(found) && s.Glob > found) {
			found, rules = s.Glob, s.Rules
		}
	}
	return rules
}

func matches(glob, scope string) bool {
	if glob = strings.Trim(glob, "/"); glob == "" || scope == "" {
		return glob == scope
	}
	ok, err := path.Match(glob, scope)
	return ok && err == nil
}

// keepsAll says whether there is no rule by which a step could expire.
func (r *Rules) keepsAll() bool {
	return r.All || r.Last == 0 && r.Every == 0 && r.Within == 0 && r.Daily == 0 && r.Weekly == 0 && r.Monthly == 0 && len(r.Tags) == 0
}

// Evaluate decides on the snapshots of one scope that have a name and are not
// forgotten, newest first.
func (p *Policy) Evaluate(scope string, steps []Info) []Decision {
	rules := p.For(scope)
	out := make([]Decision, len(steps))
	e := evaluation{rules: &rules, names: map[string]uint64{}, periods: map[string]bool{}}
	if len(steps) > 0 {
		e.newest = steps[0]
	}
	for k := range steps {
		out[k] = e.decide(&steps[k])
	}
	return out
}

// evaluation is what was seen of a scope's newer snapshots.
type evaluation struct {
	rules    *Rules
	newest   Info
	names    map[string]uint64 // newest revision of each step
	complete int               // steps
	periods  map[string]bool   // of which a step was kept
	counts   [3]int            // periods kept by daily, weekly, monthly
}

// decide is called for each snapshot once: rules that count go on counting,
// also when another rule keeps it.
func (e *evaluation) decide(i *Info) Decision {
	var why []string
	if i.Explicit {
		why = append(why, "a person gave it its name")
	} else {
		why = e.steps(i)
	}
	if e.rules.keepsAll() {
		why = append(why, "no rule lets steps of its scope expire")
	}
	if i.Spared {
		why = append(why, "it was brought back by unforget")
	}
	for _, h := range i.Holds {
		why = append(why, heldBy(h))
	}
	if e.within(i) {
		why = append(why, "keep-within "+spanText(e.rules.Within))
	}
	for _, t := range e.rules.Tags {
		if hasTag(i, t) {
			why = append(why, "keep-tag "+t)
		}
	}
	if len(why) > 0 {
		return Decision{true, "kept: " + strings.Join(why, ", ")}
	}
	if newer := e.names[i.Name]; newer != i.Seq && newer != 0 {
		return Decision{false, fmt.Sprintf("expired: %s@%d is a newer revision", i.Name, newer)}
	}
	what := "not kept by "
	if !i.Complete() {
		what = "not complete, and older than one that is; not kept by "
	}
	return Decision{false, "expired: " + what + e.rules.words()}
}

// steps says which of the rules that count keep i. Only the newest revision of
// a step counts, and only if it is complete: an unfinished or superseded one
// takes no other step's place.
func (e *evaluation) steps(i *Info) (why []string) {
	if _, older := e.names[i.Name]; older {
		return nil
	}
	e.names[i.Name] = i.Seq
	if !i.Complete() {
		if e.complete == 0 {
			why = append(why, "no newer step is complete")
		}
		return why
	}
	if e.complete++; e.complete == 1 {
		why = append(why, "the newest complete step")
	}
	if e.complete <= e.rules.Last {
		why = append(why, fmt.Sprintf("keep-last %d", e.rules.Last))
	}
	if n, err := strconv.ParseUint(i.Name, 10, 64); err == nil && e.rules.Every > 0 && n%uint64(e.rules.Every) == 0 {
		why = append(why, fmt.Sprintf("keep-every %d", e.rules.Every))
	}
	year, week := i.Time.UTC().ISOWeek()
	for k, p := range [3]struct {
		rule, period string
		n            int
	}{
		{"keep-daily", i.Time.UTC().Format("2006-01-02"), e.rules.Daily},
		{"keep-weekly", fmt.Sprintf("%d week %d", year, week), e.rules.Weekly},
		{"keep-monthly", i.Time.UTC().Format("2006-01"), e.rules.Monthly},
	} {
		if e.counts[k] < p.n && !e.periods[p.period] {
			e.counts[k]++
			why = append(why, fmt.Sprintf("%s %d", p.rule, p.n))
		}
		e.periods[p.period] = true
	}
	return why
}

// within says whether i is no older than keep-within, relative to the newest
// snapshot of its scope, by either clock.
func (e *evaluation) within(i *Info) bool {
	age := min(e.newest.Time.Sub(i.Time), e.newest.Clock-i.Clock)
	return e.rules.Within > 0 && age <= e.rules.Within
}

func hasTag(i *Info, tag string) bool {
	for _, t := range i.Tags {
		if t == tag {
			return true
		}
	}
	return false
}

// barrier decides on a barrier of an age, with so many newer ones.
func (p *Policy) barrier(age time.Duration, newer int) Decision {
	switch {
	case age <= p.Barriers:
		return Decision{true, "kept by keep-barriers " + spanText(p.Barriers)}
	case newer < p.BarriersLast:
		return Decision{true, fmt.Sprintf("kept by keep-barriers-last %d", p.BarriersLast)}
	}
	return Decision{false, fmt.Sprintf("expired: barrier older than %s and not among the newest %d", spanText(p.Barriers), p.BarriersLast)}
}
