package inspect

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
)

// Where the bytes of a file's tensors lie is found, and of what type they are.
func TestTensors(t *testing.T) {
	a, b := []byte("0123456789abcdef"), []byte("ABCD")
	row := append(append(torchZip(a), torchZip(b)...), makeZip(record{name: "x.npy"}, []byte("npy"))...)
	st := []byte(header(`{"b":{"dtype":"F32","shape":[1],"data_offsets":[16,20]},"a":{"dtype":"BF16","shape":[8],"data_offsets":[0,16]}}`, 0))
	st = append(append(st, a...), b...)
	for name, c := range map[string]struct {
		file []byte
		want map[string]string // type by content
		name string            // of the first tensor
	}{
		"m.safetensors": {st, map[string]string{string(a): "BF16", string(b): "F32"}, "a"},
		"o.pt":          {torchZip(a), map[string]string{string(a): "F32"}, ""},
		"__0_0.distcp":  {row, map[string]string{string(a): "F32", string(b): "F32", "npy": ""}, ""},
		"some.zip":      {row, nil, ""},
		"t.bin":         {[]byte("text, and nothing but text, for a little longer"), nil, ""},
	} {
		got, err := Tensors(t.Context(), "dir/"+name, bytes.NewReader(c.file), int64(len(c.file)))
		if err != nil {
			t.Fatal(err)
		}
		found, end := map[string]string{}, int64(0)
		for _, x := range got {
			if x.Begin < end || x.End < x.Begin || x.End > int64(len(c.file)) {
				t.Fatalf("%s: %+v", name, got)
			}
			end = x.End
			if content := string(c.file[x.Begin:x.End]); x.Type != "" || content == "npy" {
				found[content] = x.Type
			}
		}
		if len(found)+len(c.want) > 0 && !reflect.DeepEqual(found, c.want) || len(got) > 0 && got[0].Name != c.name {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// A file that is cut off anywhere, or has a byte changed, costs its tensors at
// most: they lie inside, in order, or there are none.
func TestTensorsTorn(t *testing.T) {
	row := append(torchZip([]byte("0123456789abcdef")), torchZip([]byte("ABCD"))...)
	st := []byte(header(`{"a":{"dtype":"BF16","shape":[8],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[1],"data_offsets":[16,20]}}`, 20))
	for name, whole := range map[string][]byte{"f.distcp": row, "f.safetensors": st} {
		for i := range whole {
			flipped := bytes.Clone(whole)
			flipped[i] ^= 0x41
			for _, b := range [][]byte{whole[:i], flipped} {
				got, err := Tensors(t.Context(), name, bytes.NewReader(b), int64(len(b)))
				if err != nil && !isFlaw(err) && !errors.Is(err, errTooLarge) {
					t.Fatal(err)
				}
				end := int64(0)
				for _, x := range got {
					if x.Begin < end || x.End < x.Begin || x.End > int64(len(b)) {
						t.Fatalf("%s, byte %d: %+v", name, i, got)
					}
					end = x.End
				}
			}
		}
	}
}
