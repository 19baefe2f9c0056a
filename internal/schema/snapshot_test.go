package schema_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"testing"

	"stepfs/internal/schema"
)

// A record of a store from before there was retention.
const oldSnapshot = "0201" + "00" + "03313030" + "05717569657400" + "0001" + "0a141e28" + "0000" +
	"0102030405060708091011121314151617181920212223242526272829303132"

func TestSnapshotFromBeforeRetention(t *testing.T) {
	raw, err := hex.DecodeString(oldSnapshot)
	if err != nil {
		t.Fatal(err)
	}
	s, err := schema.DecodeSnapshot(raw)
	if err != nil {
		t.Fatal(err)
	}
	if s.Name != "100" || s.Reason != "quiet" || !s.Drained || s.Time != 5 || s.Stored != 20 || s.Tree[31] != 0x32 ||
		s.Clock != 0 || s.Holds != nil || s.Forgotten != nil || s.Spared || s.Verified != nil {
		t.Errorf("%+v", s)
	}
	if got := s.Encode(); !bytes.Equal(got, raw) {
		t.Errorf("encoded again: %x", got)
	}
}

func TestSnapshotRoundTrip(t *testing.T) {
	hold := schema.Hold{Name: "eval", UID: 7, By: "ann@box", Reason: "paper", Time: 99}
	gone := &schema.Forgotten{By: "policy", Reason: "not kept by keep-last 3", Time: 5, Clock: 6}
	for _, s := range []schema.Snapshot{
		{},
		{Clock: 12345, Name: "7", Tags: []string{"a"}},
		{Holds: []schema.Hold{hold, {Name: "x"}}, Spared: true},
		{Forgotten: gone, Explicit: true, Marks: []string{"m"}},
		{Clock: 1, Holds: []schema.Hold{hold}, Forgotten: gone, Drained: true},
		{Judged: true, Rule: "hf-trainer", Why: []string{"w", "x"}, Pieces: []string{"checkpoint-7"}, Pending: "complete", Again: 77},
		{Clock: 1, Judged: true},
		{Verified: &schema.Verified{Time: 5, Took: 6, Bytes: 7}},
		{Clock: 1, Holds: []schema.Hold{hold}, Forgotten: gone, Verified: &schema.Verified{Time: 5, Problems: []string{"a: b", ""}}},
	} {
		raw := s.Encode()
		got, err := schema.DecodeSnapshot(raw)
		if err != nil || !reflect.DeepEqual(*got, s) {
			t.Errorf("%+v became %+v, %v", s, got, err)
		}
		for n := range raw {
			if _, err := schema.DecodeSnapshot(raw[:n]); !errors.Is(err, schema.ErrCorrupt) {
				t.Errorf("%+v cut at %d of %d bytes: %v", s, n, len(raw), err)
			}
		}
	}
}

func TestNameFlags(t *testing.T) {
	for want, s := range map[byte]schema.Snapshot{
		0: {Name: "1"}, 1: {Explicit: true}, 2: {Forgotten: &schema.Forgotten{}}, 4: {Verdict: "partial"},
		8: {Verdict: "unverified", Judged: true}, 24: {Verdict: "unverified", Judged: true, Pending: "complete"},
	} {
		if got := s.NameFlags(); len(got) != 1 || got[0] != want {
			t.Errorf("%+v: %v, want %d", s, got, want)
		}
	}
}

// In a store of version 2 an unverified step counts as complete.
func TestNameFlagsOfOldSteps(t *testing.T) {
	old := schema.Snapshot{Verdict: "unverified"}
	if f, again := schema.ParseNameFlags(old.NameFlags()); f != 0 || again != 0 {
		t.Errorf("flags %d, again %d", f, again)
	}
	s := schema.Snapshot{Judged: true, Verdict: "complete", Again: 1 << 40}
	if f, again := schema.ParseNameFlags(s.NameFlags()); f != schema.NameAgain || again != 1<<40 {
		t.Errorf("flags %d, again %d", f, again)
	}
	for _, v := range [][]byte{nil, {schema.NameAgain}, {schema.NameAgain, 1, 2}} {
		if _, again := schema.ParseNameFlags(v); again != 0 {
			t.Errorf("%x: again %d", v, again)
		}
	}
}

func TestCandidates(t *testing.T) {
	for _, c := range []schema.Candidate{{Name: "7", Time: 5}, {Name: "7", Time: 5, Rule: "deepspeed"}} {
		if got, err := schema.DecodeCandidate(c.Encode()); err != nil || got != c {
			t.Errorf("%+v became %+v, %v", c, got, err)
		}
	}
}
