package state

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/internal/schema"
)

// A bit of a filter that is another is found, though of the lowest level no
// reader uses filters.
func TestTablesFindsFilters(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	cfg := Config{Dir: t.TempDir() + "/s", FS: vfs.Default, BootID: "boot"}
	e, err := Open(cfg)
	must(err)
	for i := range 200 {
		_, err := e.Update(schema.KindWrite, func(tx *Tx) error { tx.Put(fmt.Appendf(nil, "z%08d", i), nil); return nil })
		must(err)
	}
	must(e.db.Flush())
	must(e.db.Compact(t.Context(), []byte{0}, []byte{0xff}, false))
	levels, err := e.db.SSTables()
	must(err)
	lowest := levels[len(levels)-1]
	must(e.Close(true))
	tables := func() error {
		e, err := Open(cfg)
		must(err)
		v := e.View()
		err = v.Tables(context.Background())
		must(v.Close())
		must(e.Close(true))
		return err
	}
	must(tables())

	hit := false
	for _, table := range lowest {
		name := filepath.Join(cfg.Dir, "index", fmt.Sprintf("%s.sst", table.FileNum))
		f, err := vfs.Default.Open(name)
		must(err)
		src, err := sstable.NewSimpleReadable(f)
		must(err)
		r, err := sstable.NewReader(t.Context(), src, (&pebble.Options{}).MakeReaderOptions())
		must(err)
		l, err := r.Layout()
		must(err)
		must(r.Close())
		for _, at := range l.Filter {
			b, err := os.ReadFile(name)
			must(err)
			b[at.Offset+at.Length/2] ^= 1
			must(os.WriteFile(name, b, 0o600))
			hit = true
		}
	}
	if !hit {
		t.Fatal("there is no filter")
	}
	if tables() == nil {
		t.Error("a flipped bit of a filter is not found")
	}
}
