package stage

import (
	"fmt"
	"io"

	"stepfs/internal/schema"
)

// Frozen is a committed content that waits for ingest.
type Frozen struct {
	t   *Tree
	gen uint64
	p   schema.Pending
}

// Epoch is the first cut that sees the content; Time is when it was committed, in ns.
func (f *Frozen) Epoch() uint64 { return f.p.Epoch }

// Time is when the content was committed, in ns since the epoch.
func (f *Frozen) Time() int64 { return f.p.Time }

// Ino is the inode that the content belongs to.
func (f *Frozen) Ino() uint64 { return f.p.Ino }

// Bytes is the length of its data.
func (f *Frozen) Bytes() int64 { return f.p.Content.Alloc }

// Until is the first cut that does not see the content any more; 0: it is the
// file's.
func (f *Frozen) Until() uint64 { return f.p.Until }

// Lasting says whether the content is worth storing, whoever sees it: it is the
// file's, or replaced all of an earlier one. Any other was partly overwritten
// since. A database has a thousand of them, each a page away from the next, and
// each would bring a chunk of its own into packs; they stay staged, a page
// each, until the barriers that show them expire, unless a step shows them.
func (f *Frozen) Lasting() bool { return f.p.Until == 0 || f.p.Content.Base == f.gen }

// Pending calls fn for each content that waits for ingest, oldest generation
// first, until fn says to stop.
func (t *Tree) Pending(fn func(f *Frozen) (more bool)) error {
	it, err := t.db.NewIter([]byte{schema.PrefixPending}, []byte{schema.PrefixPending + 1})
	if err != nil {
		return wrapDisk(err)
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		gen, err := schema.ParseNumbered(it.Key())
		if err != nil {
			return wrapDisk(err)
		}
		p, err := schema.DecodePending(it.Value())
		if err != nil {
			return wrapDisk(fmt.Errorf("pending %d: %w", gen, err))
		}
		if !fn(&Frozen{t, gen, p}) {
			return nil
		}
	}
	return wrapDisk(it.Error())
}

// ReadAt reads the frozen content; io.ReaderAt.
func (f *Frozen) ReadAt(dst []byte, off int64) (int, error) {
	n, err := f.t.readContent(f.p.Ino, &f.p.Content, dst, off)
	if err == nil && n < len(dst) {
		err = io.EOF
	}
	return n, err
}

// Segments gives the data ranges of the content, in order.
func (f *Frozen) Segments() ([]Segment, error) {
	return f.t.segments(f.p.Ino, &f.p.Content, 0, 0)
}

// Settle makes the staged bytes durable: what is stored must not be torn by a
// power cut where it is read from its hot copy.
func (f *Frozen) Settle() error { return f.t.Settle(f.p.Ino) }

// Path is the content's path when it was frozen; ok is false when it has none.
func (f *Frozen) Path() (path string, ok bool) {
	path, err := f.t.path(f.p.Ino, f.p.Epoch)
	return path, err == nil
}
