package snapshot_test

import (
	"fmt"
	"slices"
	"testing"

	"stepfs/internal/schema"
	"stepfs/internal/state"
)

// TestCheckFindsInRegistry: each kind of damage and leak of the registry, made
// on purpose, is found, and nothing else is.
func TestCheckFindsInRegistry(t *testing.T) {
	const nobody = 1 << 40 // a number that was not given out
	type store struct {
		seq  uint64 // a step that is stored
		next uint64 // of slots
		rec  *schema.Snapshot
	}
	del := func(key func(s store) []byte) func(store, *state.Tx) {
		return func(s store, tx *state.Tx) { tx.Delete(key(s)) }
	}
	put := func(key func(s store) []byte, value []byte) func(store, *state.Tx) {
		return func(s store, tx *state.Tx) { tx.Put(key(s), value) }
	}
	holder := func(s store) uint64 { return schema.TreeHolder(s.seq) }
	bad := []byte{0xff}
	for name, tc := range map[string]struct {
		harm func(s store, tx *state.Tx)
		want []string
	}{
		"a record that can't be read": {put(func(s store) []byte { return schema.Numbered(schema.PrefixSnapshot, s.seq) }, bad), []string{"damage record"}},
		"a snapshot": {func(s store, tx *state.Tx) {
			tx.Delete(schema.Numbered(schema.PrefixSnapshot, s.seq))
			tx.Put(schema.Numbered(schema.PrefixExpired, s.seq), nil)
		}, []string{"damage name-dangling", "leak slot-unused", "leak tree-unused"}},
		"a snapshot of a cut to come": {put(func(store) []byte { return schema.Numbered(schema.PrefixSnapshot, nobody) }, (&schema.Snapshot{}).Encode()), []string{"damage snapshot-number"}},
		"a name":                      {del(func(s store) []byte { return schema.NameKey("", "100", s.seq) }), []string{"damage name-missing"}},
		"a name of nothing":           {put(func(store) []byte { return schema.NameKey("a", "7", nobody) }, []byte{0}), []string{"damage name-dangling"}},
		"another name":                {put(func(s store) []byte { return schema.NameKey("", "7", s.seq) }, []byte{0}), []string{"damage name-dangling"}},
		"what a name says":            {put(func(s store) []byte { return schema.NameKey("", "100", s.seq) }, []byte{schema.NameForgotten}), []string{"damage name-flags"}},
		"a name that can't be read":   {put(func(store) []byte { return []byte{schema.PrefixName, 'x'} }, nil), []string{"damage record"}},
		"a slot":                      {del(func(s store) []byte { return schema.Numbered(schema.PrefixSlot, s.next-1) }), []string{"damage slot"}},
		"a slot's inverse":            {del(func(s store) []byte { return schema.Numbered(schema.PrefixSlotOf, s.seq) }), []string{"damage slot"}},
		"a slot that can't be read":   {put(func(s store) []byte { return schema.Numbered(schema.PrefixSlot, s.next-1) }, bad), []string{"damage record", "damage slot"}},
		"the counter of slots":        {del(func(store) []byte { return schema.MetaKey(schema.MetaSlot) }), []string{"damage slot-number"}},
		"the root of a tree": {func(s store, tx *state.Tx) { tx.Delete(schema.TreeRefKey(holder(s), s.rec.Tree)) },
			[]string{"damage tree-missing", "leak reference-unused"}},
		"a tree that is given up": {put(func(s store) []byte { return schema.Numbered(schema.PrefixDeadHold, holder(s)) }, nil), []string{"damage tree-leaving"}},
		"objects of no tree": {put(func(store) []byte { return schema.TreeRefKey(schema.TreeHolder(nobody), [32]byte{1}) }, nil),
			[]string{"damage chunk-missing", "leak tree-unused"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.put("f", "content")
			s := store{seq: w.step("100").Seq}
			w.drain()
			slot, err := w.m.Slot(s.seq)
			w.ok(err)
			s.next = uint64(slot) + 1
			v, err := w.eng.Get(schema.Numbered(schema.PrefixSnapshot, s.seq))
			w.ok(err)
			s.rec, err = schema.DecodeSnapshot(v)
			w.ok(err)
			if fs := w.findings(); len(fs) > 0 || s.rec.Tree == [32]byte{} {
				t.Fatalf("a healthy store: %+v; tree %x", fs, s.rec.Tree)
			}
			w.hurt = true
			_, err = w.eng.Update(schema.KindRegistry, func(tx *state.Tx) error { tc.harm(s, tx); return nil })
			w.ok(err)
			var got []string
			for _, x := range w.findings() {
				got = append(got, string(x.Kind)+" "+x.What)
				if x.Object == "" || x.Detail == "" {
					t.Errorf("%+v says too little", x)
				}
			}
			slices.Sort(got)
			if got = slices.Compact(got); fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("found %v, want %v", got, tc.want)
			}
		})
	}
}
