package codec

import (
	"bytes"
	"math"
	"math/rand/v2"
	"testing"
)

// rounded gives the bf16 of fp32 as torch does: the nearest, the even one of two.
func rounded(b []byte) (out []byte) {
	for i := 0; i+4 <= len(b); i += 4 {
		v := le.Uint32(b[i:])
		low, high := v&0xffff, v>>16
		if low > 0x8000 || low == 0x8000 && high&1 == 1 {
			high++
		}
		out = le.AppendUint16(out, uint16(high))
	}
	return out
}

// The bf16 of weights that are there as fp32 cost next to nothing, wherever in
// an element the chunk begins.
func TestRounded(t *testing.T) {
	c := NewCoder()
	defer c.Close()
	rng := rand.New(rand.NewPCG(3, 4))
	whole, _ := floats(rng, 1200<<10, 1e-4)
	for i, v := range []float32{0, float32(math.Inf(1)), math.MaxFloat32, math.SmallestNonzeroFloat32} {
		le.PutUint32(whole[4*i:], math.Float32bits(v))
	}
	half := rounded(whole)
	for from := range 9 {
		plain, base := half[from:], whole[2*from:]
		n, form := roundTrip(t, c, plain, base, Hint{Offset: int64(from)})
		if form != Rounded || n > len(plain)/100 {
			t.Errorf("from byte %d: %d bytes take %d, form %#x", from, len(plain), n, form)
		}
	}
	// A few that were rounded otherwise: by chance, as some do.
	other := bytes.Clone(half)
	for i := 0; i < len(other); i += 2 * (1 + rng.IntN(100)) {
		le.PutUint16(other[i:], le.Uint16(other[i:])+1)
	}
	if n, form := roundTrip(t, c, other, whole, Hint{}); form != Rounded || n > len(other)/10 {
		t.Errorf("%d bytes take %d, form %#x", len(other), n, form)
	}
}

// All short lengths and all kinds, with bases twice as long.
func TestRoundTripWide(t *testing.T) {
	c := NewCoder()
	defer c.Close()
	rng := rand.New(rand.NewPCG(5, 6))
	for _, kind := range kinds {
		base, _ := kind.make(rng, 8<<10)
		plain := rounded(base)
		for n := range 600 {
			roundTrip(t, c, plain[:n], base[:2*n], Hint{Offset: int64(n)})
			roundTrip(t, c, plain[1:n+1], base[2:2*n+2], Hint{Offset: 1, Width: 2})
		}
		roundTrip(t, c, plain, base, Hint{})
	}
}

// The rounding is part of the format, for what is halfway between two as well.
func TestRound(t *testing.T) {
	var base []byte
	for high := range uint32(1 << 16) {
		for _, low := range []uint32{0, 1, 0x7fff, 0x8000, 0x8001, 0xffff} {
			base = le.AppendUint32(base, high<<16|low)
		}
	}
	for head := range 2 {
		got := make([]byte, head+len(base)/2)
		round(got, append(make([]byte, 2*head), base...), head)
		if !bytes.Equal(got[head:], rounded(base)) {
			t.Errorf("behind %d bytes, rounding is another", head)
		}
	}
}
