package check

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// TestCursor: whatever is asked for, in whatever order, and however early one
// stops, a cursor gives the keys that are there and no others.
func TestCursor(t *testing.T) {
	e, err := state.Open(state.Config{Dir: "s", FS: vfs.NewMem(), BootID: "b"})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close(true)
	var keys []string
	_, err = e.Update(schema.KindReap, func(tx *state.Tx) error {
		for n := range 500 {
			if n%7 < 3 || n%100 > 60 { // gaps, some wider than a cursor walks
				continue
			}
			for part := range 1 + n%4 {
				k := fmt.Sprintf("k%03d%d", n, part)
				keys = append(keys, k)
				tx.Put([]byte(k), []byte("v"+k))
			}
		}
		tx.Put([]byte("l000"), nil) // of another kind
		tx.Put([]byte("j000"), nil)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	v := e.View()
	defer v.Close()
	rapid.Check(t, func(t *rapid.T) {
		c, err := (&Run{View: v}).Cursor('k')
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for range rapid.IntRange(1, 40).Draw(t, "asks") {
			prefix := fmt.Sprintf("k%03d", rapid.IntRange(0, 510).Draw(t, "group"))
			from := prefix
			if rapid.Bool().Draw(t, "inside") {
				from += fmt.Sprint(rapid.IntRange(0, 4).Draw(t, "part"))
			}
			limit := rapid.IntRange(1, 5).Draw(t, "limit")
			var want, got []string
			for _, k := range keys {
				if strings.HasPrefix(k, prefix) && k >= from && len(want) < limit {
					want = append(want, k)
				}
			}
			err := c.Each([]byte(from), []byte(prefix), func(k, v []byte) (bool, error) {
				got = append(got, string(k))
				if !bytes.Equal(v, append([]byte("v"), k...)) {
					t.Errorf("%s: %s", k, v)
				}
				return len(got) < limit, nil
			})
			if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("from %s: %v, want %v, %v", from, got, want, err)
			}
		}
	})
}
