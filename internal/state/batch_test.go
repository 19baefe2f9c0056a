package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"stepfs/internal/hostile"
	"stepfs/internal/schema"
)

// FuzzRecord replays one record with an arbitrary payload: it is refused as
// corrupt, or applied; then what it puts can be read, and the index flushed.
func FuzzRecord(f *testing.F) {
	db, err := pebble.Open("seeds", &pebble.Options{FS: vfs.NewMem(), Logger: silent{want: newWant()}})
	if err != nil {
		f.Fatal(err)
	}
	defer db.Close()
	b := db.NewBatch()
	defer b.Close()
	if err := errors.Join(b.Set([]byte("key"), []byte("value"), nil), b.Delete([]byte("gone"), nil), b.DeleteRange([]byte("a"), []byte("b"), nil),
		b.Set([]byte("long"), bytes.Repeat([]byte("x"), 300), nil)); err != nil {
		f.Fatal(err)
	}
	good := append([]byte{byte(schema.KindWrite)}, b.Repr()...)
	f.Add(good)
	f.Add([]byte{})
	for n := range good[:60] {
		f.Add(good[:n])
		f.Add(append(append(bytes.Clone(good[:n]), 0xff), good[min(n+1, len(good)):]...))
	}
	for kind := range byte(30) { // all that Pebble knows, and more
		f.Add(append(bytes.Clone(good[:9]), 1, 0, 0, 0, kind, 1, 'k', 1, 'v'))
		f.Add(append(bytes.Clone(good[:9]), 1, 0, 0, 0, kind, 1, 'k'))
	}
	f.Add(append(bytes.Clone(good[:9]), 1, 0, 0, 0, 15, 1, 'z', 1, 'a')) // deletes backwards
	cfg := Config{Dir: "store", FS: vfs.NewMem(), SegmentSize: 64 << 10, MemTable: 256 << 10, Cache: 1 << 20}
	e, err := Open(cfg)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { e.Close(true) })
	f.Fuzz(func(t *testing.T, payload []byte) {
		if len(payload) > 1<<16 {
			return
		}
		in := bytes.Clone(payload)
		var err error
		hostile.Bounded(t, len(payload)+1<<20, 8, func() { err = e.redo(e.mu.pos+1, payload) }) // a memtable may be made
		if !bytes.Equal(in, payload) {
			t.Fatal("the payload was changed")
		}
		if err != nil {
			if !errors.Is(err, schema.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		e.mu.pos++ // positions only grow
		for _, k := range keysPut(payload[13:]) {
			if _, err := e.Get(k); err != nil && !errors.Is(err, ErrNotFound) {
				t.Fatalf("%x: %v", k, err)
			}
		}
	})
}

// keysPut gives the keys of a batch that was accepted.
func keysPut(b []byte) (keys [][]byte) {
	for len(b) > 0 {
		kind, n := b[0], uint64(0)
		fields := 2
		if kind == 0 {
			fields = 1
		}
		b = b[1:]
		for i := range fields {
			var w int
			n, w = binary.Uvarint(b)
			if i == 0 {
				keys = append(keys, b[w:w+int(n)])
			}
			b = b[w+int(n):]
		}
	}
	return keys
}
