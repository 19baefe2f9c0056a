package align

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"stepfs/chunkstore"
	"stepfs/snapshot/inspect"
)

var limits = Limits{Min: 1000, Max: 4000}

// file is one with tensors and what lies between them.
type file struct {
	bytes   []byte
	tensors []inspect.Tensor
}

// put appends what is no tensor, then one.
func (f *file) put(between int, name, dtype string, b []byte) {
	for range between {
		f.bytes = append(f.bytes, byte(len(f.bytes)*7))
	}
	at := int64(len(f.bytes))
	f.bytes = append(f.bytes, b...)
	f.tensors = append(f.tensors, inspect.Tensor{Name: name, Type: dtype, Begin: at, End: at + int64(len(b))})
}

// cut cuts a file anyhow, within the limits.
func (f *file) cut(rng *rand.Rand) (refs []chunkstore.Ref) {
	for at := int64(0); at < int64(len(f.bytes)); {
		n := min(limits.Min+rng.Int64N(limits.Max-limits.Min), int64(len(f.bytes))-at)
		refs = append(refs, chunkstore.Ref{Off: at, Len: uint32(n), ID: chunkstore.ID{byte(len(refs)), byte(len(refs) >> 8), 1}})
		at += n
	}
	return refs
}

func weights(rng *rand.Rand, n int) (wide, narrow []byte) {
	for range n {
		v := math.Float32bits(float32(rng.NormFloat64()))
		wide = binary.LittleEndian.AppendUint32(wide, v)
		narrow = binary.LittleEndian.AppendUint16(narrow, round(v))
	}
	return wide, narrow
}

// check says what of the file the windows have as it is, and fails where the plan
// is none.
func (f *file) check(t interface{ Fatalf(string, ...any) }, p chunkstore.Plan, other *file, refs []chunkstore.Ref, limits Limits) (share float64) {
	end, good := int64(0), 0
	for _, piece := range p.Pieces {
		if piece.Off < end || piece.End() > int64(len(f.bytes)) || int64(piece.Len) > limits.Max ||
			int64(piece.Len) < limits.Min && piece.End() < int64(len(f.bytes)) {
			t.Fatalf("a piece from %d to %d, behind %d, of a file of %d", piece.Off, piece.End(), end, len(f.bytes))
		}
		end = piece.End()
		for _, r := range refs {
			if r.ID != piece.ID {
				continue
			}
			if piece.BaseRaw(piece.Len) != r.Len {
				t.Fatalf("a piece from %d has a base of %d bytes, and it has %d", piece.Off, piece.BaseRaw(piece.Len), r.Len)
			}
			window := make([]byte, piece.Size(piece.Len))
			piece.Take(window, other.bytes[r.Off:r.End()])
			if piece.Wide {
				head := int(piece.Off & 1)
				narrow := make([]byte, piece.Len)
				for i := head; i+2 <= len(narrow); i += 2 {
					binary.LittleEndian.PutUint16(narrow[i:], round(binary.LittleEndian.Uint32(window[2*i:])))
				}
				window = narrow
			}
			for i, b := range f.bytes[piece.Off:piece.End()] {
				if b == window[i] {
					good++
				}
			}
		}
	}
	return float64(good) / float64(len(f.bytes))
}

// TestMoved: where a header grows, records grow among tensors, and one comes and
// another goes, what is as before has the base that it has there.
func TestMoved(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var data [][]byte
	for range 40 {
		b, _ := weights(rng, 1200+rng.IntN(2000))
		data = append(data, b)
	}
	for what, c := range map[string]struct {
		between func(i int) int // before tensor i, in the new file
		name    func(i int) string
		order   []int
		least   float64
	}{
		"nothing":             {least: 0.99},
		"a longer header":     {between: func(i int) int { return 8 + 333*max(0, 1-i) }, least: 0.97},
		"a record that grows": {between: func(i int) int { return 8 + 100*max(0, 1-max(i-20, 20-i)) }, least: 0.9},
		"no names":            {between: func(i int) int { return 8 + 333*max(0, 1-i) }, name: func(int) string { return "" }, least: 0.97},
		"another order":       {order: rng.Perm(40), least: 0.5},
		"one more":            {order: append([]int{0, 1, 2, 39}, seq(3, 40)...), least: 0.9},
		"a few less":          {order: seq(4, 40), least: 0.9},
	} {
		if c.between == nil {
			c.between = func(int) int { return 8 }
		}
		if c.name == nil {
			c.name = func(i int) string { return string(rune('A' + i)) }
		}
		if c.order == nil {
			c.order = seq(0, 40)
		}
		var before, now file
		for i, b := range data {
			before.put(8, c.name(i), "F32", b)
		}
		for at, i := range c.order {
			now.put(c.between(at), c.name(i), "F32", data[i])
		}
		refs := before.cut(rng)
		p := Moved(now.tensors, before.tensors, int64(len(now.bytes)), refs, limits)
		if got := now.check(t, p, &before, refs, limits); got < c.least || !p.Whole {
			t.Errorf("%s: %.3f of the file has the right base", what, got)
		}
	}
}

func seq(from, to int) (out []int) {
	for i := from; i < to; i++ {
		out = append(out, i)
	}
	return out
}

// TestStrangers: of a file that has little of the one before there is no plan.
func TestStrangers(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var before, now file
	for range 10 {
		b, _ := weights(rng, 1000)
		before.put(8, "", "F32", b)
		now.put(8, "", "BF16", b)
	}
	refs := before.cut(rng)
	if p := Moved(now.tensors, before.tensors, int64(len(now.bytes)), refs, limits); len(p.Pieces) > 0 {
		t.Errorf("%+v", p)
	}
	p, err := Rounded(bytes.NewReader(now.bytes), now.tensors, int64(len(now.bytes)), bytes.NewReader(before.bytes), before.tensors, refs, limits)
	if err != nil || len(p.Pieces) > 0 {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestRounded: bf16 tensors have what they are rounded from for their base, in
// another order, and with other things in between, too.
func TestRounded(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for what, c := range map[string]struct {
		header int
		order  []int
		least  float64
	}{
		"in order":        {order: seq(0, 10), least: 0.98},
		"an odd header":   {header: 3, order: seq(0, 10), least: 0.98},
		"another order":   {order: rng.Perm(10), least: 0.85},
		"without a few":   {order: []int{0, 1, 2, 5, 6, 7, 8}, least: 0.85},
		"repeated tensor": {order: []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0}, least: 0.9},
	} {
		var wide, narrow file
		var halves [][]byte
		for i := range 10 {
			w, n := weights(rng, 6000)
			wide.put(4+c.header*max(0, 1-i), "", "F32", w)
			halves = append(halves, n)
		}
		for at, i := range c.order {
			narrow.put(2+6*max(0, 1-at), "", "BF16", halves[i])
		}
		refs := wide.cut(rng)
		if !Narrow(narrow.tensors, int64(len(narrow.bytes))) || Narrow(wide.tensors, int64(len(wide.bytes))) {
			t.Fatal("the wrong one is narrow")
		}
		p, err := Rounded(bytes.NewReader(narrow.bytes), narrow.tensors, int64(len(narrow.bytes)),
			bytes.NewReader(wide.bytes), wide.tensors, refs, limits)
		if err != nil {
			t.Fatal(err)
		}
		if got := narrow.check(t, p, &wide, refs, Limits{limits.Min / 2, limits.Max / 2}); got < c.least || !p.Whole {
			t.Errorf("%s: %.3f of the file has the right base", what, got)
		}
	}
}

// TestLies: whatever headers say, a plan is one.
func TestLies(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tensors := func(name string) (f file) {
			for range rapid.IntRange(0, 30).Draw(t, name) {
				b := make([]byte, rapid.SampledFrom([]int{0, 1, 64, 999, 5000, 20_000}).Draw(t, "bytes"))
				f.put(rapid.SampledFrom([]int{0, 1, 500, 3000}).Draw(t, "between"), "", rapid.SampledFrom([]string{"", "F32", "BF16"}).Draw(t, "type"), b)
			}
			return f
		}
		now, other := tensors("now"), tensors("other")
		refs := other.cut(rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "cuts"), 1)))
		if n := len(refs); n > 2 && rapid.Bool().Draw(t, "some chunks are missing") {
			refs = append(refs[:n/3], refs[n/2:]...)
		}
		p := Moved(now.tensors, other.tensors, int64(len(now.bytes)), refs, limits)
		now.check(t, p, &other, refs, limits)
		p, err := Rounded(bytes.NewReader(now.bytes), now.tensors, int64(len(now.bytes)), bytes.NewReader(other.bytes), other.tensors, refs, limits)
		if err != nil {
			t.Fatal(err)
		}
		now.check(t, p, &other, refs, Limits{limits.Min / 2, limits.Max / 2})
	})
}
