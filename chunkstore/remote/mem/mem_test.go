package mem_test

import (
	"errors"
	"testing"

	"stepfs/chunkstore/remote"
	"stepfs/chunkstore/remote/mem"
	"stepfs/chunkstore/remote/remotetest"
)

func TestConformance(t *testing.T) {
	remotetest.Suite{New: func(*testing.T) remote.Bucket { return mem.New() }}.Run(t)
}

// What is undefined elsewhere is refused here, so that tests over it notice.
func TestObjectAndPrefix(t *testing.T) {
	b := mem.New()
	for _, c := range []struct {
		key  string
		kind error
	}{{"a/b", nil}, {"a", remote.ErrInvalid}, {"a/b/c", remote.ErrInvalid}, {"a/bc", nil}} {
		if err := b.Put(t.Context(), c.key, remote.Bytes(nil)); !errors.Is(err, c.kind) {
			t.Errorf("put %s: %v", c.key, err)
		}
	}
}
