package posix

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// scriptLength is how many operations one script has.
const scriptLength = 250

// TestRandom makes random scripts in lockstep. One that finds a difference is
// made as short as it gets and written down; put into testdata, it is replayed
// by TestScripts for ever.
func TestRandom(t *testing.T) {
	want, seed := number(t, "STEPFS_POSIX_OPS", 20000), number(t, "STEPFS_SEED", time.Now().UnixNano())
	t.Logf("seed: STEPFS_SEED=%d", seed)
	// Descriptors that are not open make some operations none.
	checks := want/(scriptLength*3/4) + 1
	for name, value := range map[string]any{"rapid.seed": seed, "rapid.checks": checks, "rapid.nofailfile": true, "rapid.shrinktime": "0s"} {
		if err := flag.Set(name, fmt.Sprint(value)); err != nil {
			t.Fatal(err)
		}
	}
	s, counts := newSession(t), newCounts()
	scripts := scriptOf(scriptLength)
	known := map[string]string{} // rapid makes a failing script again
	rapid.Check(t, func(t *rapid.T) {
		ops := scripts.Draw(t, "script")
		text, again := known[formatScript(ops)]
		if !again {
			_, err := s.run(ops, counts)
			if err == nil {
				return
			}
			text = s.explain(ops, err)
			known[formatScript(ops)] = text
		}
		t.Fatal(text)
	})
	counts.report(t)
	counts.prove(t, int(want))
}

// number is what the environment says, or else standard.
func number(t *testing.T, name string, standard int64) int64 {
	s := os.Getenv(name)
	if s == "" {
		return standard
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// explain makes a script that failed short, and writes it down.
func (s *session) explain(ops []op, err error) string {
	var diff *found
	if !errors.As(err, &diff) {
		return fmt.Sprintf("the harness failed: %v", err)
	}
	last := err
	tries := 0
	differs := func(less []op) bool {
		if tries++; tries > 600 {
			return false
		}
		_, err := s.run(less, newCounts())
		if errors.As(err, &diff) {
			last = err
			return true
		}
		return false
	}
	short := shorten(ops, differs)
	if done, err := s.run(short, newCounts()); errors.As(err, &diff) {
		short, last = done, err
	}
	text := formatScript(short)
	file := filepath.Join(os.TempDir(), fmt.Sprintf("posix-%d.script", os.Getpid()))
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		file = err.Error()
	}
	return fmt.Sprintf("%v\nby %s:\n%s\nthe daemon said:\n%s", last, file, text, s.daemon.Output())
}

// TestScripts replays what was found before.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.script")
	if err != nil {
		t.Fatal(err)
	}
	s := newSession(t)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".script"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			ops, err := parseScript(string(text))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.run(ops, newCounts()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestShorten: of a long script what matters is left, and it reads back as it
// was written.
func TestShorten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ops := scriptOf(60).Draw(t, "script")
		read, err := parseScript(formatScript(ops))
		if err != nil || formatScript(read) != formatScript(ops) {
			t.Fatalf("%v: %q", err, formatScript(ops))
		}
		for i := range ops { // each an operation of its own
			ops[i].who = fmt.Sprint(i)
		}
		need := rapid.SliceOfNDistinct(rapid.IntRange(0, len(ops)-1), 0, 5, rapid.ID[int]).Draw(t, "need")
		short := shorten(ops, func(less []op) bool {
			for _, i := range need {
				if !slices.ContainsFunc(less, func(o op) bool { return o.who == ops[i].who }) {
					return false
				}
			}
			return true
		})
		if len(short) != len(need) {
			t.Fatalf("%d operations are left of %d that matter", len(short), len(need))
		}
	})
}

// counts says what a run did.
type counts struct {
	ops             int
	done            map[string]int            // by kind, those that succeeded
	refused         map[string]int            // on the mount alone, as they must be
	errnos          map[string]map[string]int // by kind
	trees, kills    int
	remounts        int
	snapshots       int
	files, previous int // in snapshots: compared, and of those shown as before
	unsure          int // could be one or the other
}

func newCounts() *counts {
	return &counts{done: map[string]int{}, refused: map[string]int{}, errnos: map[string]map[string]int{}}
}

func (c *counts) add(o op, r [2]string) {
	c.ops++
	if good(r[mount]) {
		c.done[o.kind]++
		return
	}
	if kinds[o.kind].how&wantsPeerOff != 0 {
		c.refused[o.kind]++
	}
	if c.errnos[o.kind] == nil {
		c.errnos[o.kind] = map[string]int{}
	}
	word, _, _ := strings.Cut(strings.TrimPrefix(r[mount], "ok "), " ")
	c.errnos[o.kind][word]++
}

func (c *counts) shown(known, dirty bool) {
	switch {
	case !known:
		c.unsure++
	case dirty:
		c.previous++
		fallthrough
	default:
		c.files++
	}
}

func (c *counts) report(t *testing.T) {
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		if kinds[kind].call != nil {
			t.Logf("%-12s %6d done, %v", kind, c.done[kind], c.errnos[kind])
		}
	}
	t.Logf("%d operations, %d whole trees, %d kills, %d remounts, %d snapshots with %d files (%d of them as before), %d unsure",
		c.ops, c.trees, c.kills, c.remounts, c.snapshots, c.files, c.previous, c.unsure)
}

// prove fails when the run shows nothing.
func (c *counts) prove(t *testing.T, want int) {
	for kind, k := range kinds {
		switch {
		case k.call == nil:
		case k.how&wantsPeerOff != 0:
			if c.refused[kind] == 0 {
				t.Errorf("%s was never refused", kind)
			}
		case c.done[kind] == 0:
			t.Errorf("%s never succeeded", kind)
		}
	}
	if c.ops < want || c.kills == 0 || c.remounts == 0 || c.snapshots == 0 || c.previous == 0 || c.files < 10*c.unsure {
		t.Error("too little was done to prove anything")
	}
}
