package integration

import (
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"testing"
)

// sparseSize is the size of the sparse file that fill writes.
const sparseSize = 8<<20 + 7

// fill writes a tree of n files in a few directories: small ones, ones that
// span chunks, a sparse one, links, and odd names.
func fill(t *testing.T, dir string, n int, seed int64) {
	t.Helper()
	rnd := rand.New(rand.NewSource(seed))
	for i := range n {
		sub := filepath.Join(dir, fmt.Sprintf("d%d", i%7), fmt.Sprintf("e%d", i%3))
		must(t, os.MkdirAll(sub, 0o755))
		size := rnd.Intn(8 << 10)
		if i%10 == 0 {
			size = rnd.Intn(3 << 20)
		}
		data := make([]byte, size)
		rnd.Read(data)
		must(t, os.WriteFile(filepath.Join(sub, fmt.Sprintf("f%d", i)), data, 0o644))
	}
	must(t, os.WriteFile(filepath.Join(dir, "a name with 'quotes', \"more\" and \n a new line"), []byte("odd"), 0o600))
	must(t, os.Symlink("d0/e0/f0", filepath.Join(dir, "link")))
	must(t, os.Link(filepath.Join(dir, "d0/e0/f0"), filepath.Join(dir, "d1/hardlink")))
	sparse, err := os.Create(filepath.Join(dir, "sparse"))
	must(t, err)
	_, err = sparse.WriteAt([]byte("far out"), sparseSize-7)
	must(t, err)
	must(t, sparse.Close())
}
