package codec

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Encodings of testdata were written by earlier programs: they are in stores,
// and decode for ever. A new form or segment gets a new file here; those that
// are there never change. STEPFS_GOLDEN=1 writes the missing ones.
func TestGolden(t *testing.T) {
	const dir = "testdata/golden"
	for name, e := range encodings(t) {
		file := filepath.Join(dir, name)
		if _, err := os.Stat(file + ".encoded"); err == nil || os.Getenv("STEPFS_GOLDEN") == "" {
			continue
		}
		for i, suffix := range []string{".encoded", ".plain", ".base"} {
			if err := os.WriteFile(file+suffix, e[i], 0o666); err != nil {
				t.Fatal(err)
			}
		}
	}
	files, err := filepath.Glob(dir + "/*.encoded")
	if err != nil || len(files) < 6 {
		t.Fatalf("%d encodings: %v", len(files), err)
	}
	c := NewCoder()
	defer c.Close()
	for _, file := range files {
		part := func(suffix string) []byte {
			b, err := os.ReadFile(strings.TrimSuffix(file, ".encoded") + suffix)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		plain := part(".plain")
		dst := make([]byte, len(plain))
		if err := c.Decode(dst, part(".encoded"), part(".base")); err != nil || !bytes.Equal(dst, plain) {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// What a context is, is part of the format: at least a sixteenth, at most eight,
// a small last one joins.
func TestContexts(t *testing.T) {
	for _, tc := range []struct {
		keys, each, more int // keys of as many elements, and one of more at the end
		want             []int
	}{
		{16, 100, 0, []int{100, 100, 100, 100, 100, 100, 100, 900}},
		{3, 1000, 187, []int{1000, 1000, 1187}},
		{3, 1000, 200, []int{1000, 1000, 1000, 200}},
		{1, 5, 0, []int{5}},
		{32, 50, 0, []int{100, 100, 100, 100, 100, 100, 100, 900}},
	} {
		var o order
		for k := range tc.keys {
			o.count[k%orderLanes][200-k] = uint32(tc.each)
		}
		o.count[1][3] += uint32(tc.more)
		o.settle(tc.keys*tc.each + tc.more)
		if got := o.size[:o.n]; !slices.Equal(got, tc.want) {
			t.Errorf("%+v: %v", tc, got)
		}
	}
}
