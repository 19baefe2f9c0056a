package inspect

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What torch has written whole is sound, to the last checksum.
func TestWholeIsSound(t *testing.T) {
	tree := made(t)
	for _, o := range []Options{{}, {Deep: true}} {
		r := check(t, tree, o)
		if len(r.Problems) > 0 {
			t.Errorf("%+v: %+v", o, r.Problems)
		}
		if r.Files != len(tree) || r.Checked != len(tree) {
			t.Errorf("%+v: %d files, %d checked, of %d", o, r.Files, r.Checked, len(tree))
		}
	}
	for name := range tree {
		r, err := CheckFile(t.Context(), tree, name, Options{Deep: true})
		if err != nil || len(r.Problems) > 0 || r.Checked != 1 {
			t.Errorf("%s alone: %+v, %v", name, r, err)
		}
	}
}

// The NaN that a diverged run has saved is reported, as minor; nothing else is.
func TestNaN(t *testing.T) {
	tree := made(t)
	legacyKey := regexp.MustCompile(`storage \d+`)
	var got []string
	for _, p := range check(t, tree, Options{NaN: true}).Problems {
		if !p.Minor {
			t.Errorf("not minor: %+v", p)
		}
		got = append(got, p.Path+" "+legacyKey.ReplaceAllString(p.Why, "storage N"))
	}
	want := []string{
		`nan/legacy.pt "storage N": 1 NaN, 0 Inf`,
		`nan/model.safetensors "bad": 1 NaN, 1 Inf`,
		`nan/model.safetensors "bad16": 1 NaN, 1 Inf`,
		`nan/optimizer.pt "optimizer/data/0": 1 NaN, 0 Inf`,
		`nan/optimizer.pt "optimizer/data/1": 0 NaN, 1 Inf`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
}
