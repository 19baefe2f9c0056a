package bucket

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"testing"

	"github.com/zeebo/blake3"
	"pgregory.net/rapid"
)

func testLease() *Lease {
	return &Lease{Slot: 3, Writer: testWriter, Count: 9, Holder: Holder{1, 2}, Epoch: 4, Next: 5, Keep: KeepNone}
}

func testRetired() *Retired {
	return &Retired{Epoch: 7, Condemned: NewPackSet(PackID{testWriter, 0}, PackID{otherOne, 5}, PackID{otherOne, 6}),
		Dead: NewPackSet(PackID{testWriter, math.MaxUint64}, PackID{testWriter, math.MaxUint64 - 1}, PackID{testWriter, 3})}
}

func TestPruneRoundTrip(t *testing.T) {
	l := testLease()
	if got, err := DecodeLease(l.Encode(), l.Slot); err != nil || !reflect.DeepEqual(got, l) {
		t.Errorf("%+v %v", got, err)
	}
	r := testRetired()
	if got, err := DecodeRetired(r.Encode(), r.Epoch); err != nil || !reflect.DeepEqual(got, r) {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := DecodeRef(Gone(testWriter, 5), testWriter, 5); !errors.Is(err, ErrGone) {
		t.Error(err)
	}
	if _, err := DecodeRef(Gone(testWriter, 5), testWriter, 6); !errors.Is(err, ErrFormat) {
		t.Errorf("the tombstone of another ref: %v", err)
	}
	if _, err := DecodeRetired(Gone(Writer{}, 5), 5); !errors.Is(err, ErrGone) {
		t.Error(err)
	}
	if e, ok := ParseRetiredKey(RetiredKey(0x12)); !ok || e != 0x12 {
		t.Error(e, ok)
	}
	if n := len(Gone(testWriter, 5)); n != GoneSize || n >= len((&Ref{}).Encode()) {
		t.Errorf("a tombstone of %d bytes is not told by its size", n)
	}
}

// TestPackSet holds sets against maps.
func TestPackSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		numbers := rapid.OneOf(rapid.Uint64Range(0, 12), rapid.Uint64Range(math.MaxUint64-5, math.MaxUint64))
		draw := func(name string) (PackSet, map[PackID]bool) {
			ids := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) PackID {
				return PackID{Writer{rapid.ByteRange(1, 3).Draw(t, "writer")}, numbers.Draw(t, "seq")}
			}), 0, 25).Draw(t, name)
			m := map[PackID]bool{}
			for _, id := range ids {
				m[id] = true
			}
			return NewPackSet(ids...), m
		}
		a, inA := draw("a")
		b, inB := draw("b")
		union, minus := a.Union(b), a.Minus(b)
		for w := range byte(5) {
			for k := range uint64(20) {
				for _, seq := range []uint64{k, math.MaxUint64 - k} {
					id := PackID{Writer{w}, seq}
					if a.Has(id) != inA[id] || union.Has(id) != (inA[id] || inB[id]) || minus.Has(id) != (inA[id] && !inB[id]) {
						t.Fatalf("%v: %v %v %v %v", id, a, b, union, minus)
					}
				}
			}
		}
		if minus.Empty() != (len(minus) == 0) || !a.Minus(a).Empty() {
			t.Fatal("what is left of nothing")
		}
		for _, s := range []PackSet{a, union, minus} {
			r := &reader{b: s.appendTo(nil)}
			if got := r.packSet(); r.done() != nil || !reflect.DeepEqual(got, s) {
				t.Fatalf("%v is read as %v, %v", s, got, r.err)
			}
		}
	})
}

// FuzzPrune: what is believed can be written and read again, and is the same.
func FuzzPrune(f *testing.F) {
	l, r := testLease(), testRetired()
	f.Add(l.Encode())
	f.Add(r.Encode())
	f.Add(Gone(testWriter, 3))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= headSize+sumSize {
			b = bytes.Clone(b)
			le.PutUint64(b[32:], uint64(len(b)-headSize-sumSize))
			sum := blake3.Sum256(b[:len(b)-sumSize])
			copy(b[len(b)-sumSize:], sum[:])
		}
		if got, err := DecodeLease(b, l.Slot); err == nil {
			if again, err := DecodeLease(got.Encode(), l.Slot); err != nil || *again != *got {
				t.Fatal(again, err)
			}
		}
		if got, err := DecodeRetired(b, r.Epoch); err == nil {
			if again, err := DecodeRetired(got.Encode(), r.Epoch); err != nil || !reflect.DeepEqual(again, got) {
				t.Fatal(again, got, err)
			}
			if !got.Condemned.Minus(got.Dead).Union(got.Dead).Minus(got.Dead.Union(got.Condemned)).Empty() {
				t.Fatal("sets do not add up")
			}
		}
		_, _ = ParseRetiredKey(string(b))
	})
}
