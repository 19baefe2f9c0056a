package codec

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// encodings gives one of each form, with plain and base.
func encodings(t testing.TB) map[string][3][]byte {
	c := NewCoder()
	defer c.Close()
	rng := rand.New(rand.NewPCG(8, 8))
	made := map[string][3][]byte{}
	add := func(name string, plain, base []byte, form Form) {
		out, got, _ := c.Encode(nil, plain, base, Hint{})
		if got != form {
			t.Fatalf("%s has form %#x, want %#x", name, got, form)
		}
		made[name] = [3][]byte{out, plain, base}
	}
	plain, base := floats(rng, 10<<10, 1e-4)
	half, earlier := floats(rng, 8<<10, 1e-3)
	half, earlier = upper(half), upper(earlier)
	add("raw", noise(rng, 200), nil, Raw)
	add("zstd", []byte("a chunk of text, a chunk of text, a chunk of text, a chunk of text, a chunk of text"), nil, Zstd)
	add("planes", plain, nil, Blocks)
	add("delta", plain, base, Delta)
	add("delta16", half, earlier, Delta)
	whole, _ := floats(rng, 8<<10, 1e-4)
	add("rounded", rounded(whole), whole, Rounded)
	// Rows that did not change, and one that did: not sorted.
	add("rows", append(bytes.Clone(base[:4<<10]), plain[4<<10:5<<10]...), base[:5<<10], Delta)
	// A sparse segment in a block that says so.
	few := make([]byte, 2048)
	for i := 0; i < len(few); i += 37 {
		few[i] = byte(1 + i%7)
	}
	out := c.appendSparse(block{mode: modePlanes, plain: len(few)}.appendHeader([]byte{byte(Blocks)}), few)
	for i := range few {
		few[i] = few[i]<<7 | few[i]>>1 // what the block will undo: a rotation
	}
	made["sparse"] = [3][]byte{out, few, nil}
	return made
}

// decodeBounded decodes bytes that may say anything, and fails when that takes
// more memory than a good encoding would.
func decodeBounded(t *testing.T, c *Coder, dst, encoded, base []byte) error {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := c.Decode(dst, encoded, base)
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 8<<20 {
		t.Fatalf("decoding to %d bytes allocated %d", len(dst), n)
	}
	if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrBase) {
		t.Fatalf("error of another kind: %v", err)
	}
	return err
}

// Whatever is cut off, and whichever bit is flipped: an error, or bytes that the
// chunk's name will refuse, never a panic.
func TestDamage(t *testing.T) {
	for name, e := range encodings(t) {
		t.Run(name, func(t *testing.T) {
			c := NewCoder()
			defer c.Close()
			encoded, plain, base := e[0], e[1], e[2]
			dst := make([]byte, len(plain))
			if err := c.Decode(dst, encoded, base); err != nil || !bytes.Equal(dst, plain) {
				t.Fatalf("the whole encoding: %v", err)
			}
			for n := range encoded {
				if err := c.Decode(dst, encoded[:n], base); err == nil {
					t.Fatalf("%d of %d bytes decoded", n, len(encoded))
				}
			}
			if err := c.Decode(dst, append(bytes.Clone(encoded), 0), base); err == nil {
				t.Error("a byte too many decoded")
			}
			for _, n := range []int{0, 1, len(plain) - 1, len(plain) + 1} {
				if err := c.Decode(make([]byte, n), encoded, make([]byte, n)); err == nil {
					t.Errorf("%d bytes decoded to %d", len(plain), n)
				}
			}
			for i := range min(len(encoded), 1500) {
				for bit := range 8 {
					bad := bytes.Clone(encoded)
					bad[i] ^= 1 << bit
					if err := c.Decode(dst, bad, base); err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrBase) {
						t.Fatalf("bit %d of byte %d: %v", bit, i, err)
					}
				}
			}
			// A coder that has met damage still works.
			if err := c.Decode(dst, encoded, base); err != nil || !bytes.Equal(dst, plain) {
				t.Fatalf("after damage: %v", err)
			}
		})
	}
}

// Encodings that lie about lengths, tables and places.
func TestLies(t *testing.T) {
	huge, err := zstd.NewWriter(nil, zstd.WithWindowSize(zstd.MaxWindowSize))
	if err != nil {
		t.Fatal(err)
	}
	bomb := huge.EncodeAll(make([]byte, 12<<20), nil)
	blocks := func(b ...byte) []byte { return append([]byte{byte(Blocks)}, b...) }
	delta := func(b ...byte) []byte { return append([]byte{byte(Delta)}, b...) }
	header := func(mode, layout byte, n uint32, rest ...byte) []byte {
		return append(le.AppendUint32([]byte{mode, layout}, n), rest...)
	}
	c := NewCoder()
	defer c.Close()
	for _, tc := range []struct {
		name    string
		encoded []byte
	}{
		{"nothing", nil},
		{"unknown form", []byte{0x21, 1, 2, 3}},
		{"form of no version", []byte{1}},
		{"bomb", append([]byte{byte(Zstd)}, bomb...)},
		{"bomb in a block", blocks(header(modeZstd, 0, 1024, append([]byte{byte(len(bomb)), byte(len(bomb) >> 8), byte(len(bomb) >> 16)}, bomb...)...)...)},
		{"bomb in a segment", blocks(header(modePlanes, 0, 1024, append([]byte{segZstd, byte(len(bomb)), byte(len(bomb) >> 8), byte(len(bomb) >> 16)}, bomb...)...)...)},
		{"block of 4 GiB", blocks(header(modeRaw, 0, 1<<32-1)...)},
		{"block longer than the chunk", blocks(header(modePlanes, 0, 1025, segRun, 0)...)},
		{"block of nothing", blocks(header(modeRaw, 0, 0)...)},
		{"unknown mode", blocks(header(4, 0, 1024)...)},
		{"unknown layout", blocks(header(modePlanes, 0x80, 1024, segRun, 0)...)},
		{"raw with a layout", blocks(append(header(modeRaw, 2, 1024), make([]byte, 1024)...)...)},
		{"sorted without a base", blocks(header(modePlanes, layoutSorted, 1024, segRun, 0)...)},
		{"first element behind its width", blocks(header(modePlanes, 1|2<<4, 1024, 0, 0, segRun, 0, segRun, 0)...)},
		{"delta in a chunk without", blocks(header(modeDelta, 0, 1024, segRun, 0)...)},
		{"unknown segment", blocks(header(modePlanes, 0, 1024, 5, 0, 0, 0)...)},
		{"segment of 16 MiB", blocks(header(modePlanes, 0, 1024, segHuff, 255, 255, 255, 1, 2, 3)...)},
		{"huff0 of nothing", blocks(header(modePlanes, 0, 1024, segHuff, 0, 0, 0)...)},
		{"sparse in sparse", blocks(header(modePlanes, 0, 1024, segSparse, segSparse, segRun, 1, segRun, 1)...)},
		{"sparse with all bits and no values", blocks(header(modePlanes, 0, 1024, segSparse, segRun, 255)...)},
		{"second block missing", blocks(header(modePlanes, 0, 512, segRun, 0)...)},
		{"rounded to elements of four bytes", append([]byte{byte(Rounded)}, header(modeDelta, 2, 1024, segRun, 0, segRun, 0, segRun, 0, segRun, 0)...)},
		{"delta block cut short", delta(header(modeDelta, 2|3<<4, 1024, 1)...)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, base := range [][]byte{nil, make([]byte, 1024), make([]byte, 2048)} {
				if err := decodeBounded(t, c, make([]byte, 1024), tc.encoded, base); err == nil {
					t.Errorf("decoded over a base of %d bytes", len(base))
				}
			}
		})
	}
	if err := c.Decode(make([]byte, MaxPlain+1), []byte{byte(Zstd)}, nil); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a chunk longer than any: %v", err)
	}
	// Blocks larger than the scratch: one element more than there may be.
	for log, n := range []uint32{blockElements + 1, blockBytes + 2, blockBytes + 4, blockBytes + 8} {
		runs := bytes.Repeat([]byte{segRun, 0}, 1<<log)
		err := c.Decode(make([]byte, n), blocks(header(modePlanes, byte(log), n, runs...)...), nil)
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("block of %d bytes in elements of %d: %v", n, 1<<log, err)
		}
	}
	// Bits behind the last byte of a sparse segment.
	if err := c.Decode(make([]byte, 9), blocks(header(modePlanes, 0, 9, segSparse, segRaw, 0, 2, segRun, 1)...), nil); err == nil {
		t.Error("a sparse segment with bytes behind its end decoded")
	}
}

func FuzzDecode(f *testing.F) {
	for _, e := range encodings(f) {
		f.Add(e[0], len(e[1]), e[2])
	}
	c := NewCoder()
	f.Fuzz(func(t *testing.T, encoded []byte, n int, base []byte) {
		if n < 0 || n > 1<<20 {
			return
		}
		want := n
		if len(encoded) > 0 && Form(encoded[0]) == Rounded {
			want = 2 * n
		}
		if len(base) > want {
			base = base[:want]
		} else if len(base) > 0 {
			base = append(bytes.Clone(base), make([]byte, want-len(base))...)
		}
		dst := make([]byte, n)
		if err := c.Decode(dst, encoded, base); err != nil {
			return
		}
		// What decodes, decodes to the same again.
		again := make([]byte, n)
		if err := c.Decode(again, encoded, base); err != nil || !bytes.Equal(again, dst) {
			t.Fatalf("the same encoding once more: %v", err)
		}
	})
}

func FuzzSegment(f *testing.F) {
	c := NewCoder()
	rng := rand.New(rand.NewPCG(1, 1))
	few := make([]byte, 500)
	few[3], few[499] = 1, 2
	for _, src := range [][]byte{noise(rng, 100), few, bytes.Repeat([]byte{1, 2, 3, 3}, 100), bytes.Repeat([]byte{0}, 70)} {
		f.Add(c.appendSegment(nil, src, false), uint16(len(src)))
	}
	f.Fuzz(func(_ *testing.T, src []byte, n uint16) {
		if rest, err := c.decodeSegment(make([]byte, n), src, false); err == nil && len(rest) > len(src) {
			panic("more is left than there was")
		}
	})
}

func FuzzRoundTrip(f *testing.F) {
	rng := rand.New(rand.NewPCG(2, 2))
	for i, kind := range kinds {
		plain, base := kind.make(rng, 300+i)
		f.Add(plain, base, int64(i), i)
	}
	c := NewCoder()
	f.Fuzz(func(t *testing.T, plain, base []byte, offset int64, layout int) {
		hint := layouts[(layout&0x7fffffff)%len(layouts)]
		hint.Offset = offset
		n := min(len(plain), len(base))
		roundTrip(t, c, plain[:n], base[:n], hint)
		roundTrip(t, c, plain, nil, Hint{Offset: offset})
		n = min(len(plain), len(base)/2)
		roundTrip(t, c, plain[:n], base[:2*n], hint)
	})
}
