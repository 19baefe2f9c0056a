package state

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"stepfs/internal/schema"
)

// newDisk is a disk with the store's directory on it.
func newDisk(t *testing.T) *vfs.MemFS {
	t.Helper()
	mem := vfs.NewCrashableMem()
	if err := mem.MkdirAll("s", 0o700); err != nil {
		t.Fatal(err)
	}
	root, err := mem.OpenDir("/")
	if err == nil {
		err = root.Sync()
	}
	if err != nil {
		t.Fatal(err)
	}
	return mem
}

func open(fs vfs.FS, boot string) (*Engine, error) {
	return Open(Config{Dir: "s", FS: fs, BootID: boot, MemTable: 64 << 10, SegmentSize: 64 << 10})
}

func mustOpen(t *testing.T, fs vfs.FS, boot string) *Engine {
	t.Helper()
	e, err := open(fs, boot)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// put writes one key and gives what Sync takes.
func put(t *testing.T, e *Engine, n uint64) {
	t.Helper()
	_, err := e.Update(schema.KindRegistry, func(tx *Tx) error {
		tx.Put(schema.Numbered(schema.PrefixSlot, n), make([]byte, 100))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// powerCut gives what is left of a disk.
func powerCut(mem *vfs.MemFS, percent int, rng *rand.Rand) *vfs.MemFS {
	return mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
}

// TestTornCreation cuts the power at every operation of making a store, and
// with every luck; the next open works, and what was synced is there.
func TestTornCreation(t *testing.T) {
	cuts := 0
	for seed := range uint64(8) {
		for at := int64(1); ; at++ {
			rng := rand.New(rand.NewPCG(seed, uint64(at)))
			mem := newDisk(t)
			var left *vfs.MemFS
			var n atomic.Int64
			hooked := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
				if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && n.Add(1) == at {
					left = powerCut(mem, int(seed)*14, rng)
				}
				return nil
			}))
			e := mustOpen(t, hooked, "boot1")
			put(t, e, 1)
			synced := n.Load() >= at
			if err := errors.Join(e.Sync(e.Pos()), e.Close(false)); err != nil {
				t.Fatal(err)
			}
			if n.Load() < at {
				break
			}
			cuts++
			e, err := open(left, "boot2")
			if err != nil {
				t.Fatalf("seed %d: cut before operation %d: %v", seed, at, err)
			}
			if _, err := e.Get(schema.Numbered(schema.PrefixSlot, 1)); err != nil && !synced && !errors.Is(err, ErrNotFound) {
				t.Fatal(err)
			}
			put(t, e, 2)
			if err := e.Close(true); err != nil {
				t.Fatal(err)
			}
		}
	}
	if cuts < 50 {
		t.Fatalf("only %d cuts", cuts)
	}
	t.Logf("%d cuts", cuts)
}

// TestIndexAheadOfJournal: a flush made the index durable, nobody synced the
// journal, and power failed; also when the last clean close is all that the
// journal still shows.
func TestIndexAheadOfJournal(t *testing.T) {
	for _, clean := range []bool{false, true} {
		t.Run(fmt.Sprint("clean=", clean), func(t *testing.T) {
			mem := newDisk(t)
			if clean {
				e := mustOpen(t, mem, "boot1")
				put(t, e, 1)
				if err := e.Close(true); err != nil {
					t.Fatal(err)
				}
			}
			e := mustOpen(t, mem, "boot1")
			put(t, e, 2)
			if err := e.Flush(); err != nil {
				t.Fatal(err)
			}
			left := powerCut(mem, 0, nil)
			_ = e.Close(false)
			e = mustOpen(t, left, "boot2")
			if _, err := e.Get(schema.Numbered(schema.PrefixSlot, 2)); err != nil {
				t.Fatal("what the index holds: ", err)
			}
			put(t, e, 3)
			if err := e.Sync(e.Pos()); err != nil {
				t.Fatal(err)
			}
			left = powerCut(left, 0, nil)
			_ = e.Close(false)
			e = mustOpen(t, left, "boot3")
			for k := uint64(2); k <= 3; k++ {
				if _, err := e.Get(schema.Numbered(schema.PrefixSlot, k)); err != nil {
					t.Fatalf("key %d: %v", k, err)
				}
			}
			if err := e.Close(true); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestMissingHalf: a store whose journal or index was taken away is refused.
func TestMissingHalf(t *testing.T) {
	for _, half := range []string{"journal", "index"} {
		t.Run(half, func(t *testing.T) {
			mem := newDisk(t)
			e := mustOpen(t, mem, "boot1")
			for k := range uint64(3000) { // so much that the journal's start is trimmed
				put(t, e, k)
			}
			if err := e.Flush(); err != nil {
				t.Fatal(err)
			}
			for e.log.First() == 0 {
				put(t, e, 1)
				if err := e.Flush(); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(e.Close(true), mem.RemoveAll("s/"+half)); err != nil {
				t.Fatal(err)
			}
			if e, err := open(mem, "boot2"); !errors.Is(err, schema.ErrCorrupt) {
				t.Fatalf("opened %v, %v", e, err)
			}
		})
	}
}

// TestPowerCutIsRemembered: until somebody has said that what a power cut left
// was put right, every start hears of it.
func TestPowerCutIsRemembered(t *testing.T) {
	mem := newDisk(t)
	said := func(boot string, want, say bool) {
		t.Helper()
		e := mustOpen(t, mem, boot)
		if got := e.Recovery().PowerCut; got != want {
			t.Fatalf("%s: power cut %v, want %v", boot, got, want)
		}
		if _, err := e.Update(schema.KindReverted, func(tx *Tx) error {
			tx.Put(schema.Numbered(schema.PrefixSlot, 1), nil)
			if say {
				tx.PutBoot()
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := e.Close(true); err != nil {
			t.Fatal(err)
		}
	}
	said("boot1", false, true)
	said("boot1", false, false)
	said("boot2", true, false) // also after a clean close: staging may not be synced
	said("boot2", true, true)
	said("boot2", false, false)
}

// TestDamagedTable: whatever byte of an index table is wrong, what is read is
// right, or an error: the process does not end.
func TestDamagedTable(t *testing.T) {
	const keys = 300
	mem := newDisk(t)
	e := mustOpen(t, mem, "boot")
	for n := range uint64(keys) {
		put(t, e, n)
	}
	if err := e.Close(true); err != nil {
		t.Fatal(err)
	}
	names, err := mem.List("s/index")
	if err != nil {
		t.Fatal(err)
	}
	var told atomic.Int64 // also from the background
	flips, refused := 0, 0
	for _, name := range names {
		if !strings.HasSuffix(name, ".sst") {
			continue
		}
		st, err := mem.Stat("s/index/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for at := int64(0); at < st.Size(); at += 127 {
			clone := mem.CrashClone(vfs.CrashCloneCfg{})
			flip(t, clone, "s/index/"+name, at)
			flips++
			if err := readKeys(t, clone, keys, func(error) { told.Add(1) }); err != nil {
				refused++
			}
		}
	}
	if flips == 0 || refused == 0 || told.Load() == 0 {
		t.Errorf("%d bits flipped, %d stores refused, %d times told: this proves nothing", flips, refused, told.Load())
	}
}

func flip(t *testing.T, fs vfs.FS, name string, at int64) {
	t.Helper()
	f, err := fs.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	_, err = f.ReadAt(b, at)
	b[0] ^= 1
	_, err2 := f.WriteAt(b, at)
	if err := errors.Join(err, err2, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// readKeys reads what put has put; damage hears of what does not read back.
func readKeys(t *testing.T, fs vfs.FS, keys uint64, damage func(error)) error {
	t.Helper()
	e, err := Open(Config{Dir: "s", FS: fs, BootID: "boot", Damage: damage})
	if err != nil {
		return err
	}
	for n := uint64(0); n < keys && err == nil; n++ {
		if _, err = e.Get(schema.Numbered(schema.PrefixSlot, n)); errors.Is(err, ErrNotFound) {
			t.Errorf("key %d is there, and is not found", n)
		}
	}
	return errors.Join(err, e.Close(false))
}
