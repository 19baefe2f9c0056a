package codec

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
)

// The naive forms of split and merge.
func naiveSplit(b []byte, w int) []byte {
	n := len(b) / w
	out := make([]byte, n*w)
	for i := range n {
		for k := range w {
			out[k*n+i] = b[i*w+k]
		}
	}
	return out
}

func kernels[W word](t *testing.T, b []byte) {
	t.Helper()
	w := width[W]()
	b = b[:len(b)/w*w]
	n := len(b) / w
	scratch := func() []uint64 { return make([]uint64, (len(b)+7)/8) }
	e := scratch()
	load[W](e, b)
	planes := make([]byte, len(b))
	split[W](planes, e, n)
	if !bytes.Equal(planes, naiveSplit(b, w)) {
		t.Fatalf("split of %d elements of %d bytes", n, w)
	}
	again := scratch()
	merge[W](again, planes, n)
	if !slices.Equal(again, e) {
		t.Fatalf("merge of %d elements of %d bytes", n, w)
	}
	rotate[W](again)
	for i, v := range wordsOf[W](e, n) {
		if r := wordsOf[W](again, n)[i]; r != v<<1|v>>(8*w-1) {
			t.Fatalf("%#x rotated is %#x", v, r)
		}
	}
	unrotate[W](again)
	out := make([]byte, len(b))
	store[W](out, again)
	if !bytes.Equal(out, b) {
		t.Fatalf("store of %d elements of %d bytes", n, w)
	}
	// The first half over the second: differences, as they are and sorted.
	n /= 2
	b = b[:2*n*w]
	under, d := scratch(), scratch()
	load[W](d, b[:n*w])
	load[W](under, b[n*w:])
	plain, base, diffs := slices.Clone(wordsOf[W](d, n)), wordsOf[W](under, n), wordsOf[W](d, n)
	subtract[W](d, under)
	for i := range n {
		if diffs[i] != difference(plain[i], base[i]) || undo(diffs[i], base[i]) != plain[i] {
			t.Fatalf("difference of %#x from %#x is %#x", plain[i], base[i], diffs[i])
		}
	}
	sum := slices.Clone(d)
	add[W](sum, under)
	if !slices.Equal(wordsOf[W](sum, n), plain) {
		t.Fatal("add does not undo subtract")
	}
	var o order
	orderOf(&o, base)
	sorted := make([]W, n)
	deal(sorted, diffs, base, &o)
	mine, theirs := slices.Clone(sorted), slices.Clone(diffs)
	slices.Sort(mine)
	slices.Sort(theirs)
	if !slices.Equal(mine, theirs) {
		t.Fatal("deal does not write each element once")
	}
	total := 0
	for _, size := range o.size[:o.n] {
		total += size
	}
	if total != n {
		t.Fatalf("contexts of %d elements together, for %d", total, n)
	}
	orderOf(&o, base)
	got := make([]W, n)
	gather(got, sorted, base, &o)
	if !slices.Equal(got, diffs) {
		t.Fatal("gather does not undo deal")
	}
}

func allKernels(t *testing.T, b []byte) {
	kernels[uint8](t, b)
	kernels[uint16](t, b)
	kernels[uint32](t, b)
	kernels[uint64](t, b)
}

func TestKernels(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range 600 {
		allKernels(t, noise(rng, n))
		allKernels(t, specials(rng, n))
	}
}

func FuzzKernels(f *testing.F) {
	f.Add([]byte("0123456789abcdef0123456789abcdef0123"))
	f.Add(specials(rand.New(rand.NewPCG(1, 1)), 200))
	f.Fuzz(func(t *testing.T, b []byte) { allKernels(t, b) })
}

// All pairs of bytes, and what 16-bit floats have at their edges.
func TestDifferenceIsOneToOne(t *testing.T) {
	for b := range 256 {
		var seen [256]bool
		for v := range 256 {
			d := difference(uint8(v), uint8(b))
			if seen[d] || undo(d, uint8(b)) != uint8(v) {
				t.Fatalf("%d from %d gives %d", v, b, d)
			}
			seen[d] = true
		}
	}
	for _, b := range []uint16{0, 1, 0x3f80, 0x7f80, 0x7fc1, 0x7fff, 0x8000, 0x8001, 0xff80, 0xffff} {
		for v := range 1 << 16 {
			if got := undo(difference(uint16(v), b), b); got != uint16(v) {
				t.Fatalf("%#x from %#x comes back as %#x", v, b, got)
			}
		}
	}
	// Neighbours among floats are small numbers, across exponents and signs too.
	for _, tc := range []struct{ v, b, d uint32 }{{0x3f800000, 0x3f7fffff, 2}, {0x3f7fffff, 0x3f800000, 1}, {0xbf800000, 0xbf7fffff, 2}, {0x80000000, 0, 0x80000000}} {
		if d := difference(tc.v, tc.b); d != tc.d {
			t.Errorf("%#x from %#x is %#x, want %#x", tc.v, tc.b, d, tc.d)
		}
	}
}

func TestNonZero(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 100000 {
		var want byte
		x := uint64(0)
		for k := range 8 {
			if b := []uint64{0, 1, 0x80, 0xff, rng.Uint64() & 0xff}[rng.IntN(5)]; b != 0 {
				x |= b << (8 * k)
				want |= 1 << k
			}
		}
		if got := nonZero(x); got != want {
			t.Fatalf("nonZero(%#x) = %#b, want %#b", x, got, want)
		}
	}
}
