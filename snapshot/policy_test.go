package snapshot_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"stepfs/snapshot"
)

// taken makes the snapshots of a scope, oldest first, an hour apart; a name
// ending in "?" is partial, in "!" explicit, "#tag" has a tag.
func taken(names ...string) (newestFirst []snapshot.Info) {
	start := time.Date(2026, 3, 1, 0, 30, 0, 0, time.UTC)
	for k, name := range names {
		i := snapshot.Info{Seq: uint64(k + 1), Verdict: snapshot.VerdictUnverified,
			Time: start.Add(time.Duration(k) * time.Hour), Clock: time.Duration(k) * time.Hour}
		if n, tag, ok := strings.Cut(name, "#"); ok {
			name, i.Tags = n, []string{tag}
		}
		if n, ok := strings.CutSuffix(name, "?"); ok {
			name, i.Verdict = n, snapshot.VerdictPartial
		}
		name, i.Explicit = strings.CutSuffix(name, "!")
		i.Name = name
		newestFirst = append([]snapshot.Info{i}, newestFirst...)
	}
	return newestFirst
}

func kept(p snapshot.Policy, scope string, is []snapshot.Info) string {
	var out []string
	for k, d := range p.Evaluate(scope, is) {
		if d.Keep {
			out = append(out, is[k].ID())
		}
	}
	return strings.Join(out, " ")
}

func policy(t testing.TB, rules ...string) snapshot.Policy {
	t.Helper()
	s, err := snapshot.EditPolicy(nil, rules, nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := snapshot.ParsePolicy(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPolicyKeeps(t *testing.T) {
	ten := taken("100", "200", "300", "400", "500", "600", "700", "800", "900", "1000")
	for _, tc := range []struct {
		rules string
		is    []snapshot.Info
		want  string
	}{
		{"", taken("1", "2"), "2@2 1@1"},
		{"keep-last=2", nil, ""},
		{"keep-last=2", ten, "1000@10 900@9"},
		{"keep-last=1 keep-every=300", ten, "1000@10 900@9 600@6 300@3"},
		{"keep-within=2h", ten, "1000@10 900@9 800@8"},
		{"keep-within=1s", ten, "1000@10"},
		{"keep-tag=good", taken("1#good", "2#bad", "3", "4"), "4@4 1@1"},
		{"keep-tag=good,bad", taken("1#good", "2#bad", "3", "4"), "4@4 2@2 1@1"},
		{"keep-last=1 keep-tag=good", taken("1#good", "2", "3"), "3@3 1@1"},
		// Only the newest revision of a step counts.
		{"keep-last=2", taken("1", "2", "3", "3", "3"), "3@5 2@2"},
		{"keep-within=1h", taken("1", "3", "3"), "3@3 3@2"},
		// Only complete steps count; an unfinished one stays while no newer is complete.
		{"keep-last=2", taken("1", "2", "3?", "4", "5?"), "5@5 4@4 2@2"},
		{"keep-every=1", taken("1", "2?", "3"), "3@3 1@1"},
		// What a person named is the person's.
		{"keep-last=1", taken("a!", "1", "b!", "2"), "2@4 b@3 a@1"},
		{"keep-every=10", taken("10", "ten", "x10", "20", "21"), "21@5 20@4 10@1"},
		{"scope:other=keep-last=1", ten, kept(snapshot.Policy{}, "", ten)},
	} {
		p := policy(t, strings.Fields(tc.rules)...)
		if got := kept(p, "", tc.is); got != tc.want {
			t.Errorf("%q keeps %q, want %q", tc.rules, got, tc.want)
		}
	}
}

func TestPolicyPeriods(t *testing.T) {
	var is []snapshot.Info // every 8 hours from 1 January to 10 April 2026
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for k := range 300 {
		at := start.Add(time.Duration(k) * 8 * time.Hour)
		is = append([]snapshot.Info{{Seq: uint64(k + 1), Name: fmt.Sprint(k), Time: at, Clock: at.Sub(start)}}, is...)
	}
	for rule, want := range map[string]string{
		"keep-daily=3":   "2026-04-10T16 2026-04-09T16 2026-04-08T16",
		"keep-weekly=2":  "2026-04-10T16 2026-04-05T16",
		"keep-monthly=9": "2026-04-10T16 2026-03-31T16 2026-02-28T16 2026-01-31T16",
	} {
		p := policy(t, rule)
		var got []string
		for k, d := range p.Evaluate("", is) {
			if d.Keep {
				got = append(got, is[k].Time.Format("2006-01-02T15"))
			}
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%s keeps %s, want %s", rule, s, want)
		}
	}
}

// A wall clock that jumps either way lets no step expire early.
func TestPolicyOfAJumpingClock(t *testing.T) {
	for jump, want := range map[time.Duration]string{
		-10 * 365 * 24 * time.Hour: "5@5 4@4 3@3 2@2 1@1", // by the wall clock all are younger
		10 * 365 * 24 * time.Hour:  "5@5 4@4 3@3 2@2",
	} {
		is := taken("1", "2", "3", "4", "5")
		for k := range 2 { // the newest two are behind the jump
			is[k].Time = is[k].Time.Add(jump)
		}
		if got := kept(policy(t, "keep-within=3h"), "", is); got != want {
			t.Errorf("jump by %v: keep-within keeps %s", jump, got)
		}
		if got := kept(policy(t, "keep-last=3"), "", is); got != "5@5 4@4 3@3" {
			t.Errorf("jump by %v: keep-last keeps %s", jump, got)
		}
	}
}

func TestPolicyReasons(t *testing.T) {
	is := taken("1", "2?", "3", "3", "4")
	is[4].Holds = []snapshot.Hold{{Name: "paper", By: "ann@box", Reason: "figure 3", Time: time.Unix(0, 0)}}
	var got []string
	p := policy(t, "keep-last=1", "keep-every=1000")
	for _, d := range p.Evaluate("", is) {
		got = append(got, d.Why)
	}
	want := []string{
		"kept: the newest complete step, keep-last 1",
		"expired: not kept by keep-last 1, keep-every 1000",
		"expired: 3@4 is a newer revision",
		"expired: not complete, and older than one that is; not kept by keep-last 1, keep-every 1000",
		"kept: held by ann@box since 1970-01-01 00:00:00 UTC as paper: figure 3",
	}
	for k := range want {
		if got[k] != want[k] {
			t.Errorf("%s: %q, want %q", is[k].ID(), got[k], want[k])
		}
	}
}

func TestPolicyScopes(t *testing.T) {
	p := policy(t, "keep-last=9", "scope:runs/*=keep-last=2,keep-every=1000", "scope:runs/best*=keep-all", "scope:/=keep-last=1", "scope:runs/lr=3=keep-last=5")
	for scope, want := range map[string]int{"": 1, "runs": 9, "runs/a": 2, "runs/a/b": 9, "runs/best1": 0, "runs/lr=3": 5} {
		r := p.For(scope)
		if r.Last != want || r.All != (want == 0) {
			t.Errorf("scope %q: %+v, want keep-last %d", scope, r, want)
		}
	}
}

func TestPolicyText(t *testing.T) {
	for in, want := range map[string]string{
		"":                                     "keep-barriers=1h keep-barriers-last=100",
		"keep-last=3":                          "keep-barriers=1h keep-barriers-last=100 keep-last=3",
		"keep-within=2w":                       "keep-barriers=1h keep-barriers-last=100 keep-within=14d",
		"keep-within=1w2d3h":                   "keep-barriers=1h keep-barriers-last=100 keep-within=9d3h",
		"keep-barriers=90s":                    "keep-barriers=1m30s keep-barriers-last=100",
		"keep-barriers=0 keep-barriers-last=1": "keep-barriers=0s keep-barriers-last=1",
		"keep-tag=a keep-tag=b":                "keep-barriers=1h keep-barriers-last=100 keep-tag=a,b",
		"scope:x/*=keep-tag=a,keep-tag=b":      "keep-barriers=1h keep-barriers-last=100 scope:x/*=keep-tag=a,keep-tag=b",
		"scope:x=keep-all":                     "keep-barriers=1h keep-barriers-last=100 scope:x=keep-all=true",
	} {
		p := policy(t, strings.Fields(in)...)
		text := func(p snapshot.Policy) string {
			var out []string
			s := p.Settings()
			for _, k := range sortedKeys(s) {
				out = append(out, k+"="+s[k])
			}
			return strings.Join(out, " ")
		}
		if got := text(p); got != want {
			t.Errorf("%q is printed as %q, want %q", in, got, want)
		}
		again, err := snapshot.ParsePolicy(p.Settings())
		if err != nil || text(again) != want {
			t.Errorf("%q read again: %q, %v", in, text(again), err)
		}
	}
}

func TestPolicyRefused(t *testing.T) {
	for rules, says := range map[string]string{
		"keep-last=0":                          "keep-last=0",
		"keep-last=-1":                         "keep-last=-1",
		"keep-last=many":                       "keep-last=many",
		"keep-last=99999999999":                "number",
		"keep-last=3 keep-last=4":              "keep-last is given twice",
		"keep-lots=3":                          `no rule "keep-lots"; there are keep-last, keep-every, keep-within`,
		"snapdir=visible":                      `no rule "snapdir"`,
		"keep-last":                            "not like keep-last=3",
		"keep-within=0s":                       "keeps nothing",
		"keep-within=-5h":                      "keep-within",
		"keep-within=":                         "keep-within",
		"keep-within=soon":                     "duration",
		"keep-within=9999w2562000h":            "duration",
		"keep-barriers=-1h":                    "keep-barriers",
		"keep-barriers-last=-1":                "keep-barriers-last",
		"keep-barriers=0 keep-barriers-last=0": "keep no barrier",
		"keep-tag=":                            "keep-tag",
		"keep-tag=a,a":                         "twice",
		"keep-all=true":                        "is for a scope",
		"scope:[=keep-last=1":                  "no pattern",
		"scope:=keep-last=1":                   "no pattern",
		"scope:a=keep-last=1,keep-last=2":      "keep-last is there twice",
		"scope:a=keep-barriers=1h":             "whole mount",
		"scope:a=keep-all,keep-last=3":         "contradicts",
		"scope:a=keep-last=0":                  "scope:a: keep-last=0",
		"scope:a=keep-nothing=1":               `no rule "keep-nothing"`,
		"scope:a=":                             "scope:a",
	} {
		old := map[string]string{"keep-every": "7", "snapdir": "hidden"}
		_, err := snapshot.EditPolicy(old, strings.Fields(rules), nil)
		if !errors.Is(err, snapshot.ErrPolicy) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", rules, err, says)
		}
		if len(old) != 2 || old["keep-every"] != "7" {
			t.Errorf("%q changed the settings to %v", rules, old)
		}
	}
	for _, key := range []string{"keep-last", "snapdir", "nothing"} {
		if _, err := snapshot.EditPolicy(map[string]string{"snapdir": "hidden"}, nil, []string{key}); err == nil {
			t.Errorf("unset %s went well", key)
		}
	}
	if s, err := snapshot.EditPolicy(map[string]string{"keep-last": "3", "snapdir": "hidden"}, nil, []string{"keep-last"}); err != nil || len(s) != 1 {
		t.Errorf("unset: %v, %v", s, err)
	}
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
