package state

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/internal/schema"
)

// TestRemains: of an index with a damaged block every record that lies elsewhere is
// still found, and is right; and it is known that there may be others.
func TestRemains(t *testing.T) {
	const records = 5000
	value := func(k uint64) []byte { return bytes.Repeat(schema.Counter(k*0x9E3779B97F4A7C15), 20) }
	cfg := Config{Dir: t.TempDir(), FS: vfs.Default, BootID: "b"}
	e, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for k := range uint64(records) {
		_, err := e.Update(schema.KindCommit, func(tx *Tx) error {
			tx.Put(schema.Numbered(schema.PrefixSnapshot, 2*k), value(k))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Close(true); err != nil {
		t.Fatal(err)
	}
	look := func() (n, holes int) {
		t.Helper()
		holes, err := Remains(cfg, schema.PrefixSnapshot, func(k uint64, v []byte) {
			if n++; k%2 != 0 || !bytes.Equal(v, value(k/2)) {
				t.Fatalf("record %d is wrong", k)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		return n, holes
	}
	if n, holes := look(); n != records || holes > 0 {
		t.Fatalf("%d records of a whole index, %d numbers unknown", n, holes)
	}
	tables, err := filepath.Glob(cfg.Dir + "/index/*.sst")
	if err != nil || len(tables) == 0 {
		t.Fatal(tables, err)
	}
	for _, table := range tables {
		b, err := os.ReadFile(table)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 1
		if err := os.WriteFile(table, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n, holes := look()
	t.Logf("%d of %d records, %d numbers unknown", n, records, holes)
	if n < records/2 || n == records || holes < records-n {
		t.Errorf("%d of %d records, %d numbers unknown", n, records, holes)
	}
	if err := os.RemoveAll(cfg.Dir + "/index"); err != nil {
		t.Fatal(err)
	}
	if n, holes := look(); n+holes > 0 {
		t.Errorf("%d records of no index", n)
	}
}
