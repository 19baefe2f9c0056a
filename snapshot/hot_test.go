package snapshot_test

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"
)

// weights gives the fp32 weights of a layer as they are after so many steps.
func weights(layer, step int) string {
	rng, b := rand.New(rand.NewPCG(1, uint64(layer))), []byte(nil)
	for range 50_000 {
		w := rng.NormFloat64() * 0.03
		move := rng.NormFloat64() * 3e-6
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(w+float64(step)*move)))
	}
	return string(b)
}

// A version is made from the hot copy of an earlier one where there is one, and
// from what is stored where that is gone or is not what it was.
func TestHotBases(t *testing.T) {
	w := newWorld(t, nil)
	var seqs []uint64
	next := func() (hot uint64) {
		t.Helper()
		before := w.chunks.Stats()
		w.put("model.bin", weights(0, len(seqs)))
		seqs = append(seqs, w.step(string(rune('a'+len(seqs)))).Seq)
		w.drain()
		after := w.chunks.Stats()
		if len(seqs) > 1 && after.SavedDeltas <= before.SavedDeltas {
			t.Fatalf("version %d has no deltas", len(seqs))
		}
		return after.HotBases - before.HotBases
	}
	next()
	if hot := next(); hot < 150_000 {
		t.Errorf("%d bytes of bases were hot", hot)
	}
	w.chunks.Copies(func(gen uint64, id [32]byte, off int64, dst []byte) bool {
		ok := w.tree.HotChunk(gen, id, off, dst)
		if ok {
			dst[len(dst)-1]++
		}
		return ok
	})
	if hot := next(); hot != 0 {
		t.Errorf("%d bytes of damaged copies were bases", hot)
	}
	w.evictAll()
	if hot := next(); hot != 0 {
		t.Errorf("%d bytes were hot, of which there is no copy", hot)
	}
	for i, seq := range seqs {
		w.want(seq, "model.bin", weights(0, i))
	}
	w.noFaults()
}
