package pack

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// windows gives one into a base of up to 40 bytes.
func windows(t *rapid.T, name string) Window {
	if rapid.Bool().Draw(t, name+" is whole") {
		return Window{}
	}
	return Window{rapid.Uint32Range(1, 40).Draw(t, name), rapid.Int32Range(-50, 50).Draw(t, name+" skips"), rapid.Bool().Draw(t, name+" is wide")}
}

// TestWindow: byte by byte, a window has what of the base lies there.
func TestWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := rapid.Uint32Range(0, 40).Draw(t, "raw")
		w := windows(t, "window")
		base := make([]byte, w.BaseRaw(raw))
		for i := range base {
			base[i] = byte(i + 1)
		}
		got := bytes.Repeat([]byte{0xff}, w.Size(raw))
		w.Take(got, base)
		for i, v := range got {
			want := byte(0)
			if at := i + int(w.Skip); at >= 0 && at < len(base) {
				want = base[at]
			}
			if v != want {
				t.Fatalf("byte %d is %d, not %d", i, v, want)
			}
		}
		b := Base{ID: ID{1, 2}, Depth: 3, Turn: 4, Window: w}
		if again, err := ParseBase(b.Append(nil)); err != nil || again != b {
			t.Fatalf("%+v became %+v, %v", b, again, err)
		}
	})
}

// TestWindowOver: what lies at a byte of a base of a base is found in one step.
func TestWindowOver(t *testing.T) {
	at := func(w Window, i int) int {
		if w.Wide {
			i *= 2
		}
		return i + int(w.Skip)
	}
	rapid.Check(t, func(t *rapid.T) {
		raw := rapid.Uint32Range(1, 40).Draw(t, "raw")
		w, under := windows(t, "window"), windows(t, "under")
		over, ok := w.Over(under, raw)
		if ok == (w.Wide && under.Wide) {
			t.Fatalf("%+v over %+v: %v", w, under, ok)
		}
		if !ok {
			return
		}
		if got, want := over.BaseRaw(raw), under.BaseRaw(w.BaseRaw(raw)); got != want {
			t.Fatalf("%+v over %+v has a base of %d bytes, not %d", w, under, got, want)
		}
		for i := range int(raw) {
			if got, want := at(over, i), at(under, at(w, i)); got != want {
				t.Fatalf("%+v over %+v: byte %d is at %d, not %d", w, under, i, got, want)
			}
		}
	})
}
