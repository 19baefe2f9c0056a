package simulate

import (
	"bytes"
	"context"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"
)

func file(b []byte) File { return File{bytes.NewReader(b), int64(len(b))} }

// Weights that move a little at each step: as deltas they take less, but a
// chain ends at its greatest depth, and what does not change costs nothing.
func TestSeries(t *testing.T) {
	const n, steps, deepest = 1 << 20, 6, 3
	rng := rand.New(rand.NewPCG(1, 2))
	weights := make([]float32, n)
	for i := range weights {
		weights[i] = float32(rng.NormFloat64())
	}
	deltas, err := New(Config{MaxDepth: deepest})
	if err != nil {
		t.Fatal(err)
	}
	defer deltas.Close()
	plain, err := New(Config{ZstdAlone: true})
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	var before []byte
	for step := range steps {
		b := make([]byte, 0, 4*n)
		for i := range weights {
			weights[i] *= 1 + 1e-5*float32(rng.NormFloat64())
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(weights[i]))
		}
		got, err := deltas.Add(context.Background(), "model", file(b), Base{File: file(before), Name: "model"})
		if err != nil {
			t.Fatal(err)
		}
		size := int64(len(b))
		if got.Raw != size || got.Duplicate != 0 || got.Planes+got.Delta != size {
			t.Errorf("step %d: %+v, of %d bytes", step, got, size)
		}
		if want := step % (deepest + 1); got.Deepest != want {
			t.Errorf("step %d is %d deep instead of %d", step, got.Deepest, want)
		}
		if (got.Deepest > 0) != (got.Stored < size*3/5) {
			t.Errorf("step %d, %d deep, takes %d of %d bytes", step, got.Deepest, got.Stored, size)
		}
		alone, err := plain.Add(context.Background(), "model", file(b), Base{File: file(before), Name: "model"})
		if err != nil {
			t.Fatal(err)
		}
		if alone.Stored < size*9/10 || alone.Delta+alone.Planes != 0 {
			t.Errorf("step %d by zstd alone: %+v", step, alone)
		}
		before = b
	}
	again, err := deltas.Add(context.Background(), "copy", file(before), Base{})
	if err != nil {
		t.Fatal(err)
	}
	if again.Stored != 0 || again.Duplicate != again.Raw {
		t.Errorf("what is there already takes %+v", again)
	}
}

// The rounded copy of what is in another file, behind a header of another length.
func TestRounded(t *testing.T) {
	const n = 1 << 20
	rng := rand.New(rand.NewPCG(3, 4))
	whole, half := make([]byte, 100), make([]byte, 77)
	for range n {
		v := math.Float32bits(float32(rng.NormFloat64()))
		whole = binary.LittleEndian.AppendUint32(whole, v)
		half = binary.LittleEndian.AppendUint16(half, uint16((v+0x7fff+v>>16&1)>>16))
	}
	s, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Add(context.Background(), "whole", file(whole), Base{}); err != nil {
		t.Fatal(err)
	}
	got, err := s.Add(context.Background(), "half", file(half), Base{File: file(whole), Name: "whole", Wide: true, Move: 100 - 2*77})
	if err != nil {
		t.Fatal(err)
	}
	if got.Stored > got.Raw/50 || got.Delta != got.Raw || got.Deepest != 1 {
		t.Errorf("%+v", got)
	}
}
