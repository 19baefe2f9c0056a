package codec

import (
	"bytes"
	"os"
	"path/filepath"
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
