package snapshot_test

import (
	"fmt"
	"testing"
	"time"

	"stepfs/internal/schema"
	"stepfs/internal/state"
	"stepfs/snapshot"
)

// manySteps records n steps that are stored, as sealing them would.
func manySteps(b *testing.B, n int) *world {
	w := newWorld(b, nil)
	_, err := w.eng.Update(schema.KindCommit, func(tx *state.Tx) error {
		for k := range n {
			seq := tx.Cut()
			s := schema.Snapshot{ScopeIno: 1, Name: fmt.Sprint(k * 100), Reason: "quiet", Revision: 1, Time: int64(k), Drained: true}
			tx.Put(schema.Numbered(schema.PrefixSnapshot, seq), s.Encode())
			tx.Put(schema.NameKey("", s.Name, seq), []byte{0})
		}
		return nil
	})
	w.ok(err)
	w.restart()
	b.ResetTimer()
	return w
}

// BenchmarkSteps lists ten thousand steps, as `ls snapshots` does.
func BenchmarkSteps(b *testing.B) {
	w := manySteps(b, 10_000)
	for range b.N {
		n := 0
		for after := ""; ; {
			is, err := w.m.Steps("", after, 256)
			w.ok(err)
			if len(is) == 0 {
				break
			}
			n += len(is)
			after = is[len(is)-1].Name
		}
		if n != 10_000 {
			b.Fatal(n)
		}
	}
}

func BenchmarkBarriersList(b *testing.B) {
	w := manySteps(b, 10_000)
	for range b.N {
		if is, err := w.m.Barriers(0, 20_000); err != nil || len(is) != 10_000 {
			b.Fatal(len(is), err)
		}
	}
}

// BenchmarkOpen opens the registry of ten thousand steps.
func BenchmarkOpen(b *testing.B) {
	w := manySteps(b, 10_000)
	for range b.N {
		m, err := snapshot.Open(snapshot.Config{DB: w.eng, SealQuiet: time.Hour, ReadOnly: true})
		w.ok(err)
		if _, ok := m.Latest(""); !ok {
			b.Fatal("no latest")
		}
		w.ok(m.Close())
	}
}

// BenchmarkBarrier is a barrier of a small file among ten thousand snapshots,
// on a disk that syncs at once.
func BenchmarkBarrier(b *testing.B) {
	w := manySteps(b, 10_000)
	ino, fh := w.openFile("f", 0)
	for k := range b.N {
		w.pwrite(ino, fh, "x", int64(k%4096))
		w.barrier(ino)
	}
	w.closeFile(ino, fh)
}
