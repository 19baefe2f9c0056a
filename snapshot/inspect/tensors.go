package inspect

import (
	"cmp"
	"context"
	"io"
	"slices"
	"strings"
)

// A Tensor is where a file says that it holds one.
type Tensor struct {
	Name       string // "" where what lies there has none
	Type       string // as safetensors calls it; "": it is not known
	Begin, End int64
}

// maxPlaces is how many tensors Tensors gives.
const maxPlaces = 1 << 16

// zips are files that may be a zip of torch.save, or a row of them, as DCP writes.
var zips = suffix(".pt", ".pth", ".pth.tar", ".ckpt", ".bin", ".distcp")

// Tensors says where a file holds tensors, in order and without overlap, if it has
// a name and a format for that. Nothing is known of what lies there: a header can
// lie.
func Tensors(ctx context.Context, name string, r io.ReaderAt, size int64) ([]Tensor, error) {
	s := span{ctx: ctx, r: &source{r: r, count: new(int64)}, size: size}
	if strings.HasSuffix(name, ".safetensors") {
		return safetensorsPlaces(s)
	}
	if !zips(name) {
		return nil, nil
	}
	var places []Tensor
	for s.size > 0 {
		zip, err := looksZip(s)
		if err != nil || !zip {
			return nil, err
		}
		a, err := readZip(s)
		if err != nil {
			return nil, err
		}
		if places = append(places, zipPlaces(a)...); len(places) > maxPlaces {
			return nil, errTooLarge
		}
		s = s.sub(0, a.start)
	}
	slices.SortFunc(places, byBegin)
	return places, nil
}

func byBegin(a, b Tensor) int {
	return cmp.Or(cmp.Compare(a.Begin, b.Begin), cmp.Compare(a.End, b.End))
}

func safetensorsPlaces(s span) ([]Tensor, error) {
	tensors, data, err := readSafetensors(s)
	if err != nil {
		return nil, err
	}
	if len(tensors) > maxPlaces {
		return nil, errTooLarge
	}
	places := make([]Tensor, len(tensors))
	for i, t := range tensors {
		places[i] = Tensor{t.name, t.dtype, data.off + t.begin, data.off + t.end}
	}
	slices.SortFunc(places, byBegin)
	return places, nil
}

// zipPlaces gives the records that lie in the archive as they are; of those that
// torch.save wrote, the types.
func zipPlaces(a *archive) []Tensor {
	dtypes := map[*record]string{}
	if len(a.records) > 0 {
		prefix, _, _ := strings.Cut(a.records[0].name, "/")
		if data := a.byName[prefix+"/data.pkl"]; data != nil {
			_ = checkStorages(a, data, prefix+"/data/", dtypes) // then no type is known
		}
	}
	var places []Tensor
	for i := range a.records {
		if r := &a.records[i]; r.method == stored && r.size > 0 {
			places = append(places, Tensor{"", dtypes[r], a.off + r.data, a.off + r.data + r.size})
		}
	}
	return places
}
