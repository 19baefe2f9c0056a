package chunkstore

import (
	"context"
	"encoding/binary"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestCheckRate prints how fast many chunks are checked without their data.
// STEPFS_CHUNKS says how many.
func TestCheckRate(t *testing.T) {
	n := 20_000
	if s := os.Getenv("STEPFS_CHUNKS"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	cfg := smallConfig()
	cfg.PackSize = 64 << 20
	f := openFixture(t, vfs.NewMem(), "store", cfg)
	defer f.close()
	const each = 2000
	for at := 0; at < n; at += each {
		var refs []Ref
		var all []*Pending
		for k := range min(each, n-at) {
			p, err := f.Put(context.Background(), binary.BigEndian.AppendUint64(nil, uint64(at+k)))
			if err != nil {
				t.Fatal(err)
			}
			refs = append(refs, Ref{Off: int64(k) * 8, Len: 8, ID: p.Refs()[0].ID})
			all = append(all, p)
		}
		if err := f.Flush(context.Background()); err != nil {
			t.Fatal(err)
		}
		f.holdMap(uint64(1+at/each), refs)
		for _, p := range all {
			p.Release()
		}
	}
	begin := time.Now()
	if got := findings(f, CheckOptions{Holders: mapHolders{}}); len(got) > 0 {
		t.Fatalf("a healthy store: %+v", got[:1])
	}
	took := time.Since(begin)
	t.Logf("%d chunks and as many references in %v: %.0f chunks a second", n, took.Round(time.Millisecond), float64(n)/took.Seconds())
}
