package codec

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// fusedLike holds the fused kernels against the plain ones: the first half of b
// over the second, both as planes, as differences, and as sorted ones.
func fusedLike[W word](t *testing.T, fast, slow *Coder, b []byte) {
	t.Helper()
	n := len(b) / 2 / width[W]() * width[W]()
	plain, base := b[:n], b[len(b)/2:][:n]
	if direct && !fast.fused(log2(width[W]())) {
		t.Fatal("no fused kernels")
	}
	for _, how := range []struct {
		base   []byte
		sorted bool
	}{{nil, false}, {base, false}, {base, true}} {
		got := appendElements[W](fast, nil, plain, how.base, how.sorted)
		if want := appendElements[W](slow, nil, plain, how.base, how.sorted); !bytes.Equal(got, want) {
			t.Fatalf("%d elements of %d bytes, base %v, sorted %v: other planes", n/width[W](), width[W](), how.base != nil, how.sorted)
		}
		for _, c := range []*Coder{fast, slow} {
			dst := bytes.Repeat([]byte{0xa5}, n+1)
			rest, err := decodeElements[W](c, dst[:n], got, how.base, how.sorted)
			if err != nil || len(rest) > 0 || !bytes.Equal(dst[:n], plain) || dst[n] != 0xa5 {
				t.Fatalf("%d elements of %d bytes, base %v, sorted %v, plain kernels %v: other elements, %d bytes too many, %v",
					n/width[W](), width[W](), how.base != nil, how.sorted, c.plain, len(rest), err)
			}
		}
	}
}

// both gives a Coder with the fused kernels and one without.
func both() (fast, slow *Coder) {
	fast, slow = NewCoder(), NewCoder()
	slow.plain = true
	return fast, slow
}

// fewKeys are elements most of which have one of few exponents, as weights have;
// the others come alone and in bursts.
func fewKeys[W word](rng *rand.Rand, n int) []byte {
	w := make([]uint64, n/8+1)
	e := wordsOf[W](w, n/width[W]())
	for i, burst := 0, 0; i < len(e); i++ {
		e[i] = W(rng.Uint64())
		if burst--; burst > 0 {
			continue
		}
		if rng.IntN(400) == 0 {
			burst = rng.IntN(10)
		}
		exponent := W(110+rng.IntN(rng.IntN(14)+1)) << (8*width[W]() - 9)
		e[i] = e[i]&^(W(0xff)<<(8*width[W]()-9)) | exponent
	}
	b := make([]byte, len(e)*width[W]())
	store[W](b, w)
	return b
}

func TestFused(t *testing.T) {
	fast, slow := both()
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range 400 {
		for _, b := range [][]byte{noise(rng, n), specials(rng, n), make([]byte, n)} {
			fusedLike[uint16](t, fast, slow, b)
			fusedLike[uint32](t, fast, slow, b)
			fusedLike[uint16](t, fast, slow, b[min(1, n):]) // at any address
		}
	}
	for n := range 300 {
		fusedLike[uint16](t, fast, slow, fewKeys[uint16](rng, 7*n))
		fusedLike[uint32](t, fast, slow, fewKeys[uint32](rng, 13*n))
	}
	for _, n := range []int{2 * blockBytes, 2*blockBytes - 6, 2*blockBytes - 26} {
		before, after := weights(n/8, 2e-4)
		fusedLike[uint32](t, fast, slow, append(bytes32(after), bytes32(before)...))
		before, after = weights(n/4, 2e-4)
		fusedLike[uint16](t, fast, slow, append(bytes16(after), bytes16(before)...))
	}
}

func FuzzFused(f *testing.F) {
	f.Add([]byte("0123456789abcdef0123456789abcdef0123"))
	f.Add(specials(rand.New(rand.NewPCG(1, 1)), 200))
	f.Add(fewKeys[uint16](rand.New(rand.NewPCG(1, 1)), 3000))
	f.Add(fewKeys[uint32](rand.New(rand.NewPCG(1, 2)), 3000))
	f.Fuzz(func(t *testing.T, b []byte) {
		fast, slow := both()
		b = b[:min(len(b), 2*blockBytes)]
		fusedLike[uint16](t, fast, slow, b)
		fusedLike[uint32](t, fast, slow, b)
	})
}
