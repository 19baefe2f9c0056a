package chunkstore

import (
	"bytes"
	"context"
	"testing"
)

// TestEstimate: the estimate is what a store takes, to the byte: of content
// that is new, changed in the middle, compressible, and there already.
func TestEstimate(t *testing.T) {
	f := newFixture(t)
	e, err := NewEstimator(smallConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	first := randomBytes(1, 300_000)
	changed := bytes.Clone(first)
	copy(changed[150_000:], randomBytes(2, 1000))
	var fresh, stored int64
	for k, data := range [][]byte{first, changed, bytes.Repeat([]byte("a line of text\n"), 20_000), first, nil} {
		p := f.ingest(solid(data), nil)
		fresh, stored = fresh+p.NewBytes(), stored+p.StoredBytes()
		if err := e.Add(context.Background(), solid(data)); err != nil {
			t.Fatal(err)
		}
		if e.New != fresh || e.Stored != stored {
			t.Errorf("after content %d: %d new, %d stored; the store has %d and %d", k, e.New, e.Stored, fresh, stored)
		}
	}
	if e.New > e.Raw/2 {
		t.Errorf("of %d bytes %d are new", e.Raw, e.New)
	}
}
