package inspect

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// seeds adds the files of testdata/seed that torch has made.
func seeds(f *testing.F, names ...string) {
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join("testdata/seed", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
}

// bounded checks one file and that what it cost was in proportion.
func bounded(t *testing.T, name string, b []byte, factor uint64) *Report {
	var before, after runtime.MemStats
	tree := memTree{name: b, "__0_0.distcp": make([]byte, 4096)}
	runtime.ReadMemStats(&before)
	r, err := CheckFile(t.Context(), tree, name, Options{Deep: true, NaN: true})
	runtime.ReadMemStats(&after)
	if err != nil {
		t.Fatal(err)
	}
	// A block for data, and one or two for streams.
	if cost := after.TotalAlloc - before.TotalAlloc; cost > 2<<20+factor*uint64(len(b)) {
		t.Errorf("%d bytes were allocated for %d", cost, len(b))
	}
	return r
}

// What is sound by its header is JSON to others, too.
func FuzzSafetensors(f *testing.F) {
	f.Add([]byte(header(`{"__metadata__":{"a":"b"},"x":{"dtype":"BF16","shape":[2,1],"data_offsets":[0,4]}}  `, 4)))
	f.Add([]byte(header(`{"x":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"y":{"dtype":"F4","shape":[2],"data_offsets":[4,5]}}`, 5)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if bounded(t, "a.safetensors", b, 256).Sound() {
			sameJSON(t, b[8:8+le.Uint64(b)], true)
		}
	})
}

// A file is JSON if encoding/json says so, but for the words of Python.
func FuzzJSON(f *testing.F) {
	for _, text := range []string{`{"a":[1,-2.5e+3,"\u00fc\n",true,null,{}],"b":NaN}`, `[-Infinity]`, `"x"`, ` 1 `} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		sameJSON(t, b, bounded(t, "a.json", b, 64).Sound())
	})
}

func sameJSON(t *testing.T, b []byte, sound bool) {
	python := bytes.Contains(b, []byte("NaN")) || bytes.Contains(b, []byte("Infinity"))
	if !python && sound != json.Valid(b) && len(b) < maxDepth {
		t.Errorf("%.200q: sound %v", b, sound)
	}
}

// An archive without any problem is one to archive/zip, too, to its checksums.
func FuzzTorch(f *testing.F) {
	seeds(f, "one.pt", "legacy.pt")
	f.Add(torchZip(make([]byte, 8)))
	f.Add(overlapping(3))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bounded(t, "a.pt", b, 8192) // deflate packs 1:1032
		if isZip, _ := looksZip(span{ctx: t.Context(), r: bytes.NewReader(b), size: int64(len(b))}); !isZip || len(r.Problems) > 0 {
			return
		}
		z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range z.File {
			in, err := file.Open()
			if err == nil {
				_, err = io.Copy(io.Discard, in)
			}
			if err != nil {
				t.Errorf("%q: %v", file.Name, err)
			}
		}
	})
}

func FuzzDistcp(f *testing.F) {
	seeds(f, "one.pt")
	f.Fuzz(func(t *testing.T, b []byte) { bounded(t, "__9_0.distcp", b, 8192) })
}

func FuzzPickle(f *testing.F) {
	seeds(f, "metadata", "legacy.pt")
	f.Add([]byte(pickled("}(X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00b](K\x02I3\nLx\neu")))
	f.Fuzz(func(t *testing.T, b []byte) { bounded(t, "a.pkl", b, 256) })
}

func FuzzDCP(f *testing.F) {
	seeds(f, "metadata")
	f.Fuzz(func(t *testing.T, b []byte) { bounded(t, ".metadata", b, 512) })
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"metadata":{"total_size":1},"weight_map":{"a":"__0_0.distcp","b":"x.safetensors"}}`))
	f.Fuzz(func(t *testing.T, b []byte) { bounded(t, "model.bin.index.json", b, 256) })
}
