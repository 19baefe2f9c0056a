package published

import (
	"errors"
	"strings"
	"testing"

	"stepfs/chunkstore/bucket"
	"stepfs/internal/schema"
)

// Names lead to one snapshot, or to what says how to choose one.
func TestFind(t *testing.T) {
	step := func(writer byte, seq uint64, scope, name string, at int64, change func(*schema.Snapshot)) Step {
		r := &schema.Snapshot{Name: name, Scope: scope, Time: at, Verdict: "complete", Judged: true}
		if change != nil {
			change(r)
		}
		return Step{Writer: bucket.Writer{writer}, Sequence: seq, Record: r}
	}
	l := &Listing{Steps: []Step{
		step(1, 10, "", "100", 10, nil),
		step(1, 12, "", "100", 12, nil), // a revision
		step(1, 14, "", "200", 14, func(r *schema.Snapshot) { r.Verdict = "partial" }),
		step(1, 16, "run", "300", 16, nil),
		step(1, 18, "", "mine", 18, func(r *schema.Snapshot) { r.Explicit = true }),
		step(2, 3, "", "150", 15, nil),  // a machine that went on
		step(2, 12, "", "160", 13, nil), // and whose clock was put back
		step(2, 20, "", "200", 20, func(r *schema.Snapshot) { r.Verdict = "partial" }),
	}}
	for _, c := range []struct {
		q      Query
		writer byte
		seq    uint64
		err    error
		says   string
	}{
		{q: Query{Name: "100"}, writer: 1, seq: 12},
		{q: Query{Name: "100@10"}, writer: 1, seq: 10},
		{q: Query{Name: "@10"}, writer: 1, seq: 10},
		{q: Query{Name: "@16"}, writer: 1, seq: 16},
		{q: Query{Name: "latest"}, writer: 2, seq: 12}, // by time, not by number, nor what is partial, nor a name
		{q: Query{Name: "latest", Writer: "01"}, writer: 1, seq: 12},
		{q: Query{Name: "latest", Scope: "run"}, writer: 1, seq: 16},
		{q: Query{Name: "mine"}, writer: 1, seq: 18},
		{q: Query{Name: "200", Writer: "02"}, writer: 2, seq: 20},
		{q: Query{Name: "200"}, err: ErrAmbiguous, says: "0100000000000000 (200@14 of 1970-01-01 00:00:00), 0200000000000000 (200@20"},
		{q: Query{Name: "@12"}, err: ErrAmbiguous, says: "--writer"},
		{q: Query{Name: "300"}, err: ErrNotExist, says: "there is run/300"},
		{q: Query{Name: "100", Scope: "run"}, err: ErrNotExist, says: "there is 100 (of the mount's root)"},
		{q: Query{Name: "100", Writer: "02"}, err: ErrNotExist, says: "no snapshot 100 of writer 02"},
		{q: Query{Name: "100@x"}, err: ErrNotExist, says: "no number"},
		{q: Query{Name: "100@12", Scope: "x"}, err: ErrNotExist},
	} {
		got, err := l.Find(c.q)
		if !errors.Is(err, c.err) || c.err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %v and %q", c.q, err, c.err, c.says)
		} else if err == nil && (got.Writer[0] != c.writer || got.Sequence != c.seq) {
			t.Errorf("%s: %s of %s", c.q, got.ID(), got.Writer)
		}
	}
}
