package snapshot_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"stepfs/internal/hostile"
	"stepfs/snapshot"
)

// FuzzPolicy: a policy is refused as one, or taken; what is taken is written
// as settings that say the same, and can be asked about steps.
func FuzzPolicy(f *testing.F) {
	for _, text := range []string{
		"keep-last=3", "keep-last=3\nkeep-every=1000\nkeep-tag=a\nkeep-tag=b", "keep-within=2w3d7h", "keep-barriers=0\nkeep-barriers-last=5",
		"scope:runs/lr=3/*=keep-last=3,keep-every=1000", "scope:/=keep-all", "scope:a=keep-tag=x,keep-tag=y\nscope:b=keep-within=36h",
		"keep-daily=99999999999999999999", "keep-within=9999w9999d2000000h", "keep-within=-1h", "scope:[=keep-last=1", "keep-tag=a,a", "x=y", "",
		"keep-within=1ns", "keep-barriers=1.5h",
	} {
		f.Add(text, "runs/a")
	}
	steps := taken("100", "200?", "300!", "400#a", "500")
	f.Fuzz(func(t *testing.T, text, scope string) {
		if len(text) > 4<<10 {
			return
		}
		var settings map[string]string
		var p snapshot.Policy
		var err error
		hostile.Bounded(t, len(text), 1<<10, func() {
			if settings, err = snapshot.EditPolicy(nil, strings.Split(text, "\n"), nil); err == nil {
				p, err = snapshot.ParsePolicy(settings)
			}
		})
		if err != nil {
			if !errors.Is(err, snapshot.ErrPolicy) {
				t.Fatalf("%v is no ErrPolicy", err)
			}
			return
		}
		again, err := snapshot.ParsePolicy(p.Settings())
		if err != nil || !reflect.DeepEqual(again, p) {
			t.Fatalf("%q is %+v, which is written as %q, which is %+v, %v", text, p, p.Settings(), again, err)
		}
		if got := p.Evaluate(scope, steps); len(got) != len(steps) {
			t.Fatalf("%d decisions", len(got))
		}
	})
}
