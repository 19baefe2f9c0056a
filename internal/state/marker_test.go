package state

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"stepfs/internal/schema"
	"stepfs/internal/simdisk"
)

// TestMarkers cuts the power at every change of the disk while a store with an
// index is opened again, which gives it a new MANIFEST: no cut leaves it
// without a marker, or with a marker alone, which would be an index that is
// empty or can't be opened.
func TestMarkers(t *testing.T) {
	const keys = 3000 // enough to have the journal's first segments trimmed
	disk := simdisk.New("s")
	e := mustOpen(t, disk.FS(), "boot")
	for n := range uint64(keys) {
		put(t, e, n)
	}
	if err := e.Close(true); err != nil {
		t.Fatal(err)
	}
	type crash struct {
		what string
		disk *simdisk.Disk
	}
	var mu sync.Mutex
	var crashes []crash
	disk.Before(func(op simdisk.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if op.Changes() {
			for seed := range uint64(32) {
				crashes = append(crashes, crash{fmt.Sprintf("seed %d, before %+v", seed, op), disk.Cut(rand.New(rand.NewPCG(seed, 1)))})
			}
		}
		return nil
	})
	e = mustOpen(t, disk.FS(), "boot")
	disk.Before(nil)
	if err := e.Close(false); err != nil {
		t.Fatal(err)
	}
	for _, c := range crashes {
		e, err := open(c.disk.FS(), "later")
		if err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		for n := uint64(0); n < keys; n += 100 {
			if _, err := e.Get(schema.Numbered(schema.PrefixSlot, n)); err != nil {
				t.Fatalf("%s: key %d: %v", c.what, n, err)
			}
		}
		if err := e.Close(false); err != nil {
			t.Fatal(err)
		}
	}
	if len(crashes) < 400 {
		t.Fatalf("only %d crashes: nothing proved", len(crashes))
	}
	t.Logf("%d crashes", len(crashes))
}
