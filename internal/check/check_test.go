package check

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

func setOf(members []uint64) Set {
	return func(yield func([]byte) error) error {
		for _, m := range members {
			if err := yield(binary.BigEndian.AppendUint64(nil, m)); err != nil {
				return err
			}
		}
		return nil
	}
}

func less(a, b []uint64) (out []uint64) {
	for _, m := range a {
		if !slices.Contains(b, m) {
			out = append(out, m)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// TestCompare: whatever two sets hold, and however often they yield it, what
// only one of them has is found.
func TestCompare(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members := rapid.SliceOfN(rapid.Uint64Range(0, 40), 0, 60)
		a, b := members.Draw(t, "a"), members.Draw(t, "b")
		var gotA, gotB []uint64
		err := Compare(setOf(a), setOf(b),
			func(m []byte) error { gotA = append(gotA, binary.BigEndian.Uint64(m)); return nil },
			func(m []byte) error { gotB = append(gotB, binary.BigEndian.Uint64(m)); return nil })
		slices.Sort(gotA)
		slices.Sort(gotB)
		if err != nil || !slices.Equal(gotA, less(a, b)) || !slices.Equal(gotB, less(b, a)) {
			t.Fatalf("only a %v, only b %v, %v; of %v and %v", gotA, gotB, err, a, b)
		}
	})
}

// TestCompareInParts: sets that differ in more than is held at once.
func TestCompareInParts(t *testing.T) {
	var a, b []uint64
	for n := range uint64(300_000) {
		a = append(a, 2*n)
		b = append(b, 2*n+n%2)
	}
	onlyA, onlyB := 0, 0
	err := Compare(setOf(a), setOf(b), func([]byte) error { onlyA++; return nil }, func([]byte) error { onlyB++; return nil })
	if err != nil || onlyA != 150_000 || onlyB != 150_000 {
		t.Fatalf("%d and %d differ, %v", onlyA, onlyB, err)
	}
	stop := errors.New("enough")
	if err := Compare(setOf(a), setOf(b), func([]byte) error { return stop }, nil); !errors.Is(err, stop) {
		t.Fatal(err)
	}
}

// TestJoin: rows of several kinds come together by group, in order, whatever
// of them is asked for; a view does not change.
func TestJoin(t *testing.T) {
	e, err := state.Open(state.Config{Dir: "s", FS: vfs.NewMem(), BootID: "b"})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close(true)
	put := func(keys ...string) {
		_, err := e.Update(schema.KindReap, func(tx *state.Tx) error {
			for _, k := range keys {
				tx.Put([]byte(k), []byte("v"))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	put("aX1", "aX2", "aZ1", "bX1", "bY1", "cW1", "a", "dA1")
	v := e.View()
	defer v.Close()
	put("bV1")
	var got bytes.Buffer
	var found []Finding
	r := &Run{View: v, Report: func(f Finding) { found = append(found, f) }}
	err = r.Join(context.Background(), "abc", 1, func(g *Group) error {
		fmt.Fprintf(&got, "%s:%v", g.ID, g.Has('b'))
		if string(g.ID) != "Z" {
			err = g.Each('a', func(k, _ []byte) error { got.Write(k); return nil })
		}
		got.WriteByte(' ')
		return err
	})
	if want := "W:false X:trueaX1aX2 Y:true Z:false "; err != nil || got.String() != want {
		t.Errorf("%q, want %q, %v", got.String(), want, err)
	}
	if len(found) != 1 || found[0].What != "record" {
		t.Errorf("of a key without a group: %+v", found)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.Join(ended, "abc", 1, func(*Group) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
