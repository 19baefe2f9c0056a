package codec

import (
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// kinds are contents that a chunk may have, with one that it may have had
// before.
var kinds = []struct {
	name string
	make func(rng *rand.Rand, n int) (plain, base []byte)
}{
	{"constant", func(rng *rand.Rand, n int) ([]byte, []byte) {
		return bytes.Repeat([]byte{byte(rng.Uint32())}, n), bytes.Repeat([]byte{7}, n)
	}},
	{"zero over random", func(rng *rand.Rand, n int) ([]byte, []byte) { return make([]byte, n), noise(rng, n) }},
	{"alternating", func(_ *rand.Rand, n int) ([]byte, []byte) {
		return bytes.Repeat([]byte{0, 255}, n)[:n], bytes.Repeat([]byte{255, 0}, n)[:n]
	}},
	{"random", func(rng *rand.Rand, n int) ([]byte, []byte) { return noise(rng, n), noise(rng, n) }},
	{"unchanged", func(rng *rand.Rand, n int) ([]byte, []byte) {
		b := noise(rng, n)
		return b, bytes.Clone(b)
	}},
	{"weights", func(rng *rand.Rand, n int) ([]byte, []byte) { return floats(rng, n, 1e-4) }},
	{"halves", func(rng *rand.Rand, n int) ([]byte, []byte) {
		plain, base := floats(rng, 2*n, 1e-3)
		return upper(plain), upper(base)
	}},
	{"special", func(rng *rand.Rand, n int) ([]byte, []byte) { return specials(rng, n), specials(rng, n) }},
	{"few changed", func(rng *rand.Rand, n int) ([]byte, []byte) {
		base := noise(rng, n)
		plain := bytes.Clone(base)
		for range n / 100 {
			plain[rng.IntN(n)]++
		}
		return plain, base
	}},
	{"text", func(_ *rand.Rand, n int) ([]byte, []byte) {
		b := bytes.Repeat([]byte(`{"step": 1200, "loss": 2.25}, `), n/30+1)[:n]
		return b, append([]byte("x"), b...)[:n]
	}},
	{"compressed", func(rng *rand.Rand, n int) ([]byte, []byte) {
		return deflated(rng, n), deflated(rng, n)
	}},
}

func noise(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// floats are weights of a layer before and after a step.
func floats(rng *rand.Rand, n int, step float64) (plain, base []byte) {
	for len(base) < n {
		v := rng.NormFloat64() * 0.03
		base = le.AppendUint32(base, math.Float32bits(float32(v)))
		plain = le.AppendUint32(plain, math.Float32bits(float32(v+rng.NormFloat64()*step)))
	}
	return plain[:n], base[:n]
}

// upper cuts floats to their upper halves: bf16.
func upper(b []byte) (out []byte) {
	for i := 0; i+4 <= len(b); i += 4 {
		out = append(out, b[i+2], b[i+3])
	}
	return append(out, make([]byte, len(b)/2-len(out))...)
}

// specials are NaNs of all payloads, denormals, zeros and infinities.
func specials(rng *rand.Rand, n int) (b []byte) {
	for len(b) < n {
		sign := rng.Uint32() << 31
		switch rng.IntN(4) {
		case 0:
			b = le.AppendUint32(b, sign|0x7f800000|rng.Uint32()>>9)
		case 1:
			b = le.AppendUint32(b, sign|rng.Uint32()>>9)
		case 2:
			b = le.AppendUint32(b, sign)
		default:
			b = le.AppendUint32(b, sign|0x7f800000)
		}
	}
	return b[:n]
}

func deflated(rng *rand.Rand, n int) []byte {
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, flate.DefaultCompression)
	if err != nil {
		panic(err) // the level is right
	}
	for out.Len() < n {
		fmt.Fprintf(w, "step %d loss %.4f\n", rng.IntN(1e6), rng.Float64())
	}
	return out.Bytes()[:n]
}

// widths and phases that elements can have.
var layouts = func() (l []Hint) {
	for _, w := range []int{1, 2, 4, 8} {
		for p := range w {
			l = append(l, Hint{Width: w, Phase: p})
		}
	}
	return l
}()

func roundTrip(t *testing.T, c *Coder, plain, base []byte, hint Hint) (int, Form) {
	t.Helper()
	out, form, uses := c.Encode([]byte("before"), plain, base, hint)
	if string(out[:6]) != "before" {
		t.Fatal("Encode wrote over what it appends to")
	}
	out = out[6:]
	if len(out) > len(plain)+FormSize {
		t.Fatalf("%d bytes became %d", len(plain), len(out))
	}
	if Form(out[0]) != form || uses != (form == Delta || form == Rounded) {
		t.Fatalf("form %#x, uses base %v: the encoding begins with %#x", form, uses, out[0])
	}
	if !uses {
		base = nil
	}
	dst := bytes.Repeat([]byte{0xa5}, len(plain))
	if err := c.Decode(dst, out, base); err != nil {
		t.Fatalf("form %#x: %v", form, err)
	}
	if !bytes.Equal(dst, plain) {
		t.Fatalf("form %#x: other bytes came back", form)
	}
	return len(out), form
}

// All lengths to 4 KiB of all kinds, as the estimate would have them; the longer
// ones with and without a base in turn.
func TestRoundTripLengths(t *testing.T) {
	c := NewCoder()
	defer c.Close()
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 1))
			plain, base := kind.make(rng, 4096)
			for n := range 4097 {
				hint := layouts[n%len(layouts)]
				hint.Offset = int64(n)
				if n < 300 || n%2 == 0 {
					roundTrip(t, c, plain[:n], nil, hint)
				}
				if n < 300 || n%2 == 1 {
					roundTrip(t, c, plain[:n], base[:n], hint)
				}
			}
		})
	}
}

// Every mode, width and place of the first element, at all lengths to 4 KiB,
// whatever the estimate says of it.
func TestBlockLengths(t *testing.T) {
	c := NewCoder()
	defer c.Close()
	var modes []block
	for log := range uint8(4) {
		for head := range 1 << log {
			modes = append(modes, block{mode: modePlanes, log: log, head: head}, block{mode: modeDelta, log: log, head: head},
				block{mode: modeDelta, log: log, head: head, sorted: true})
		}
	}
	modes = append(modes, block{mode: modeRaw}, block{mode: modeZstd})
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			plain, base := kind.make(rand.New(rand.NewPCG(2, 2)), 4096)
			for n := 1; n <= 4096; n++ {
				// Each length meets a few of the modes, each mode many lengths;
				// the short ones meet all.
				some := modes
				if n > 70 {
					at := n * 3 % len(modes)
					some = modes[at:min(at+3, len(modes))]
				}
				for _, b := range some {
					if b.head <= n {
						b.plain = n
						blockTrip(t, c, b, plain[:n], base[:n])
					}
				}
			}
		})
	}
}

func blockTrip(t *testing.T, c *Coder, b block, plain, base []byte) {
	t.Helper()
	out := c.appendBlock([]byte{byte(Delta)}, b, plain, base)
	dst := bytes.Repeat([]byte{0xa5}, len(plain))
	if err := c.Decode(dst, out, base); err != nil {
		t.Fatalf("%+v: %v", b, err)
	}
	if !bytes.Equal(dst, plain) {
		t.Fatalf("%+v: other bytes came back", b)
	}
}

// Chunks of many blocks, of several kinds at once.
func TestRoundTripMixed(t *testing.T) {
	c := NewCoder()
	defer c.Close()
	rng := rand.New(rand.NewPCG(3, 3))
	for range 4 {
		var plain, base []byte
		for range 5 {
			p, b := kinds[rng.IntN(len(kinds))].make(rng, rng.IntN(300<<10))
			plain, base = append(plain, p...), append(base, b...)
		}
		hint := layouts[rng.IntN(len(layouts))]
		hint.Offset = rng.Int64N(1 << 40)
		roundTrip(t, c, plain, base, hint)
		roundTrip(t, c, plain, nil, Hint{})
	}
}

// Everything at once, shrunk when it fails.
func TestRoundTripProperty(t *testing.T) {
	c := NewCoder()
	defer c.Close()
	rapid.Check(t, func(rt *rapid.T) {
		plain := rapid.SliceOfN(rapid.Byte(), 0, 4096).Draw(rt, "plain")
		base := rapid.SliceOfN(rapid.Byte(), len(plain), len(plain)).Draw(rt, "base")
		hint := rapid.SampledFrom(layouts).Draw(rt, "layout")
		hint.Offset = rapid.Int64().Draw(rt, "offset")
		roundTrip(t, c, plain, base, hint)
	})
}

// What the estimate is for: each content gets the form that fits it, and what
// that is known to gain.
func TestChoice(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	const n = 1 << 20
	weights, earlier := floats(rng, n+8, 2e-4)
	half, earlierHalf := upper(weights), upper(earlier)
	other, _ := floats(rng, n, 1)
	random := noise(rng, n)
	text := kinds[9]
	prose, _ := text.make(rng, n)
	counters := []byte{}
	for i := range n / 8 {
		counters = le.AppendUint64(counters, uint64(i)*uint64(rng.IntN(1000)))
	}
	quarter := append(bytes.Clone(random[:n/2]), weights[:n/2]...)
	for _, tc := range []struct {
		name        string
		plain, base []byte
		hint        Hint
		form        Form
		ratio       float64
	}{
		{"fp32", weights[:n], nil, Hint{}, Blocks, 1.19},
		{"fp32, hint", weights[:n], nil, Hint{Width: 4}, Blocks, 1.19},
		{"fp32, wrong hint", weights[:n], nil, Hint{Width: 2, Phase: 1}, Blocks, 1.19},
		{"fp32 at another phase", weights[3 : n+3], nil, Hint{}, Blocks, 1.19},
		{"fp32 at an odd offset", weights[3 : n+3], nil, Hint{Offset: 3}, Blocks, 1.19},
		{"fp32, phase by hint", weights[3 : n+3], nil, Hint{Offset: 1003, Width: 4, Phase: 0}, Blocks, 1.19},
		{"bf16", half, nil, Hint{}, Blocks, 1.49},
		{"bf16 at another phase", half[1:], nil, Hint{}, Blocks, 1.49},
		{"int64", counters, nil, Hint{}, Blocks, 2},
		{"fp32 over base", weights[:n], earlier[:n], Hint{}, Delta, 1.62},
		{"bf16 over base", half, earlierHalf, Hint{}, Delta, 4.3},
		{"fp32 over unrelated", weights[:n], other, Hint{}, Blocks, 1.19},
		{"fp32, no deltas wanted", weights[:n], earlier[:n], Hint{MinGain: 1}, Blocks, 1.19},
		{"fp32, base of another length", weights[:n], earlier, Hint{}, Blocks, 1.19},
		{"same as base", random, random, Hint{}, Delta, 1000},
		{"zeros", make([]byte, n), nil, Hint{}, Blocks, 1000},
		{"text", prose, nil, Hint{}, Zstd, 20},
		{"random", random, nil, Hint{}, Raw, 0.999},
		{"random over random", random, noise(rng, n), Hint{}, Raw, 0.999},
		{"compressed", deflated(rng, n), deflated(rng, n), Hint{}, Raw, 0.999},
		{"random, then weights", quarter, nil, Hint{}, Blocks, 1.08},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := NewCoder()
			defer c.Close()
			size, form := roundTrip(t, c, tc.plain, tc.base, tc.hint)
			if got := float64(len(tc.plain)) / float64(size); form != tc.form || got < tc.ratio {
				t.Errorf("form %#x of ratio %.3f; want %#x of %.3f", form, got, tc.form, tc.ratio)
			}
		})
	}
}

// A Coder's scratch carries nothing from one chunk to the next: two coders that
// did other things before give the same bytes.
func TestCoderKeepsNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	used, fresh := NewCoder(), NewCoder()
	defer used.Close()
	defer fresh.Close()
	for _, kind := range kinds {
		plain, base := kind.make(rng, 200<<10)
		roundTrip(t, used, plain, base, Hint{})
	}
	plain, base := floats(rng, 500<<10, 1e-4)
	a, _, _ := used.Encode(nil, plain, base, Hint{})
	b, _, _ := fresh.Encode(nil, plain, base, Hint{})
	if !bytes.Equal(a, b) {
		t.Error("what was encoded before has changed an encoding")
	}
}

func TestBaseIsChecked(t *testing.T) {
	c := NewCoder()
	defer c.Close()
	plain, base := floats(rand.New(rand.NewPCG(6, 6)), 100<<10, 1e-4)
	out, _, uses := c.Encode(nil, plain, base, Hint{})
	if !uses {
		t.Fatal("no delta of weights that moved a little")
	}
	dst := make([]byte, len(plain))
	for _, bad := range [][]byte{nil, base[1:], append(bytes.Clone(base), 0)} {
		if err := c.Decode(dst, out, bad); !errors.Is(err, ErrBase) {
			t.Errorf("base of %d bytes instead of %d: %v", len(bad), len(base), err)
		}
	}
	// Another base is damage that the chunk's name finds: it must not be worse.
	other, _ := floats(rand.New(rand.NewPCG(7, 7)), 100<<10, 1)
	if err := c.Decode(dst, out, other); err == nil && bytes.Equal(dst, plain) {
		t.Error("another base gave the right bytes")
	}
}

func ExampleCoder() {
	c := NewCoder()
	defer c.Close()
	before, after := bytes.Repeat([]byte{0, 0, 128, 63}, 1000), bytes.Repeat([]byte{1, 0, 128, 63}, 1000)
	encoded, form, usesBase := c.Encode(nil, after, before, Hint{Width: 4})
	again := make([]byte, len(after))
	err := c.Decode(again, encoded, before)
	fmt.Println(form == Delta || form == Blocks, usesBase || form == Blocks, err, bytes.Equal(again, after))
	// Output: true true <nil> true
}

// What is short and neither text nor floats, such as a pickle of numbers, goes
// to zstd, although its bytes look like elements and a base saves something.
func TestShortPickle(t *testing.T) {
	c := NewCoder()
	defer c.Close()
	rng := rand.New(rand.NewPCG(9, 9))
	var plain []byte
	for i := range uint32(200) {
		plain = append(plain, "\x8c\x13optimizer.exp_avg.J"...)
		plain = le.AppendUint32(plain, i*4096+rng.Uint32N(4096))
		plain = append(plain, 0, 0, 'q', byte(i), 'h', byte(i*7), 'X', 0, 0, 0, 0, 0)
	}
	n, form := roundTrip(t, c, plain, nil, Hint{})
	over, _ := roundTrip(t, c, plain, noise(rng, len(plain)), Hint{})
	alone := len(c.appendZstd(nil, plain))
	if n > alone+100 || over > alone+100 {
		t.Errorf("%d bytes, %d over a base, form %#x, where zstd takes %d of %d", n, over, form, alone, len(plain))
	}
}
