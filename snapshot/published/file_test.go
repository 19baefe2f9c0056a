package published

import (
	"bytes"
	"context"
	"io"
	"testing"

	"stepfs/chunkstore"
	"stepfs/internal/schema"
)

// letters are chunks whose bytes are all the first of their name.
type letters struct{}

func (letters) Ahead([]chunkstore.ID) {}

func (l letters) ReadAt(ctx context.Context, id chunkstore.ID, raw uint32, dst []byte, off int) error {
	return l.Read(ctx, id, raw, func(plain []byte) error {
		copy(dst, plain[off:])
		return nil
	})
}

func (letters) Read(_ context.Context, id chunkstore.ID, raw uint32, use func([]byte) error) error {
	return use(bytes.Repeat(id[:1], int(raw)))
}

// overwrites writes to memory.
type overwrites []byte

func (w overwrites) WriteAt(b []byte, off int64) (int, error) { return copy(w[off:], b), nil }

// Holes read as zeros, whatever the memory was, and are not written.
func TestHoles(t *testing.T) {
	extent := func(off int64, n, skip, raw uint32, c byte) schema.ChunkExtent {
		return schema.ChunkExtent{Off: off, Len: n, Skip: skip, Raw: raw, ID: chunkstore.ID{c}}
	}
	f := &File{tree: &Tree{chunks: letters{}}, size: 20, extents: []schema.ChunkExtent{
		extent(2, 3, 1, 9, 'a'), extent(5, 2, 0, 2, 'b'), extent(10, 4, 0, 4, 'c'),
	}}
	const whole = "\x00\x00aaabb\x00\x00\x00cccc\x00\x00\x00\x00\x00\x00"
	for off := range int64(len(whole)) {
		for to := off + 1; to <= int64(len(whole))+1; to++ {
			got := bytes.Repeat([]byte{'x'}, int(to-off))
			n, err := f.ReadAt(t.Context(), got, off)
			want := whole[off:min(to, int64(len(whole)))]
			if string(got[:n]) != want || (err == io.EOF) != (to > int64(len(whole))) {
				t.Fatalf("%d to %d is %q (%v), not %q", off, to, got[:n], err, want)
			}
			if to > int64(len(whole)) {
				continue
			}
			written := overwrites(bytes.Repeat([]byte{0}, len(whole)))
			if err := f.CopyTo(t.Context(), written, off, to); err != nil || string(written[off:to]) != want || string(bytes.Trim(written[:off], "\x00"))+string(bytes.Trim(written[to:], "\x00")) != "" {
				t.Fatalf("%d to %d is written as %q (%v)", off, to, written, err)
			}
		}
	}
}
