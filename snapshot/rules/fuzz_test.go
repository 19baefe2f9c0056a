package rules_test

import (
	"errors"
	"strings"
	"testing"

	"stepfs/internal/hostile"
	"stepfs/snapshot/rules"
)

// FuzzRules: an owner's rules are taken or refused with their line; what is
// taken can be printed and read again, and be asked about any path.
func FuzzRules(f *testing.F) {
	for _, r := range rules.New(nil).All() {
		f.Add("["+r.Name+"]\n"+r.Text, "run/checkpoint-100/model.safetensors")
	}
	f.Add("# mine\n[a]\nstep = x(\\d+)/\ncommit = rename DONE from *.tmp\nnumber = state.json:step\nweak = yes", "x7/DONE")
	f.Add("[a]\nstep = ((((a{1,1000}){1,1000}){1,1000}))", "a")
	f.Add("[a]\nstep = [/](\\d+)/x[^/]*\ncommit = close {name}", "1/x/y")
	f.Add("[a]\nstep = (x)\ncommit = ", "x")
	f.Fuzz(func(t *testing.T, text, path string) {
		if len(text) > 4<<10 || len(path) > 4<<10 {
			return // a regular expression is compiled at a cost that its text alone does not tell
		}
		var all []*rules.Rule
		var err error
		hostile.Bounded(t, len(text)+4<<10, 16<<10, func() { all, err = rules.Parse("rules", text) })
		if err != nil {
			if !errors.Is(err, rules.ErrBad) || !strings.HasPrefix(err.Error(), "rules:") {
				t.Fatalf("%v does not say where", err)
			}
			return
		}
		again := ""
		for _, r := range all {
			again += "[" + r.Name + "]\n" + r.Text
		}
		if got, err := rules.Parse("again", again); err != nil || len(got) != len(all) {
			t.Fatalf("%q, printed, is %d rules, %v, of %d", text, len(got), err, len(all))
		}
		s := rules.New(all)
		parts := strings.Split(path, "/")
		for _, dir := range []bool{false, true} {
			if m, ok := s.Match(parts, dir); ok && (m.Step == "" || m.Scope < 0 || m.Scope+m.Parts > len(parts) || len(m.Rules) == 0) {
				t.Fatalf("%q by %q: %+v", path, text, m)
			}
		}
		for _, r := range all {
			s.Named(r.Name).Lacks(parts)
		}
	})
}
