package stage

import (
	"bytes"
	"testing"

	"golang.org/x/sys/unix"
)

// A snapshot's content ends where it was committed: what the job has appended
// since, in the same stripe, is not stored, and does not make it staged.
func TestChunksEndWithTheContent(t *testing.T) {
	w := newWorld(t)
	defer w.close()
	chunks := newMemChunks()
	w.tree.cfg.Chunks = chunks
	a, fh, err := w.tree.Create(RootIno, "f", 0o644, unix.O_RDWR, Cred{})
	if err != nil {
		t.Fatal(err)
	}
	write := func(off int64, n int) {
		t.Helper()
		if _, err := w.tree.Write(a.Ino, fh, bytes.Repeat([]byte{7}, n), off); err != nil {
			t.Fatal(err)
		}
	}
	write(0, 1000)
	w.snap(a.Ino)
	write(10, 20) // a second generation
	seq := w.snap(a.Ino)
	if err := chunks.storeAll(w.tree); err != nil {
		t.Fatal(err)
	}
	write(1000, 500)
	es, ok, err := w.tree.At(seq).Chunks(a.Ino)
	if err != nil || !ok {
		t.Fatalf("stored %v, %v", ok, err)
	}
	if last := es[len(es)-1]; last.Off+int64(last.Len) != 1000 {
		t.Fatalf("the chunks end at %d, want 1000", last.Off+int64(last.Len))
	}
}
