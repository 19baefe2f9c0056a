package published

import (
	"context"
	"io"
	"sort"

	"stepfs/chunkstore"
	"stepfs/internal/schema"
)

const (
	aheadBytes  = 32 << 20 // what is fetched ahead of a reader, in plain bytes,
	aheadChunks = 512      // and in chunks
	rangeBytes  = 8 << 20  // see Data
)

// File reads a regular file of a snapshot. It may be used by several at a time.
//
// Each read has what follows it fetched, within the file, and then of the files
// after it in its page of the directory: so who reads one file after the other,
// as a restore does, never waits for each. Who does not is found out by the
// chunks, which then fetch nothing ahead.
type File struct {
	tree    *Tree
	extents []schema.ChunkExtent
	size    int64
	next    Page // entries that follow in the directory
	reader  reader
}

// File opens the regular file at a place of a page.
func (t *Tree) File(ctx context.Context, p Page, at int) (*File, error) {
	es, err := t.extents(ctx, &p[at])
	if err != nil {
		return nil, err
	}
	return &File{tree: t, extents: es, size: p[at].Size, next: p[at+1:]}, nil
}

// from gives the place of the first extent that ends behind off.
func (f *File) from(off int64) int {
	return sort.Search(len(f.extents), func(k int) bool { return end(f.extents[k]) > off })
}

func end(e schema.ChunkExtent) int64 { return e.Off + int64(e.Len) }

// Data gives the next range of data at or after off, or as much of it as is read at
// a time; io.EOF if there is none. Ranges end where chunks do, and are short: who copies several
// at a time does not have two at work on one chunk.
func (f *File) Data(off int64) (start, to int64, err error) {
	k := f.from(off)
	if k == len(f.extents) {
		return 0, 0, io.EOF
	}
	start, to = max(off, f.extents[k].Off), end(f.extents[k])
	for k++; k < len(f.extents) && f.extents[k].Off == to && to-start < rangeBytes; k++ {
		to = end(f.extents[k])
	}
	return start, to, nil
}

// SeekTo is lseek(2): the next data at or after off, or the next hole; io.EOF if
// off is behind the end, or no data comes.
func (f *File) SeekTo(off int64, data bool) (int64, error) {
	k := f.from(off)
	switch {
	case off < 0 || off >= f.size, data && k == len(f.extents):
		return 0, io.EOF
	case data:
		return max(off, f.extents[k].Off), nil
	}
	for ; k < len(f.extents) && f.extents[k].Off <= off; k++ {
		off = end(f.extents[k])
	}
	return off, nil
}

// ReadAt fills dst, as an io.ReaderAt does.
func (f *File) ReadAt(ctx context.Context, dst []byte, off int64) (n int, err error) {
	return f.read(ctx, dst, off, aheadBytes)
}

func (f *File) read(ctx context.Context, dst []byte, off, ahead int64) (n int, err error) {
	if off >= f.size {
		return 0, io.EOF
	}
	if int64(len(dst)) > f.size-off {
		dst, err = dst[:f.size-off], io.EOF
	}
	k := f.from(off)
	f.ahead(k, ahead)
	clear(dst) // what no extent covers
	for stop := off + int64(len(dst)); k < len(f.extents) && f.extents[k].Off < stop; k++ {
		e := f.extents[k]
		at, to := max(e.Off, off), min(end(e), stop)
		if err := f.tree.chunks.ReadAt(ctx, e.ID, e.Raw, dst[at-off:to-off], int(e.Skip)+int(at-e.Off)); err != nil {
			return 0, err
		}
	}
	return len(dst), err
}

// ahead has the chunks from extent k on fetched, so many bytes of them.
func (f *File) ahead(k int, left int64) {
	ids := make([]chunkstore.ID, 0, 64)
	add := func(es []schema.ChunkExtent) bool {
		for _, e := range es {
			if left <= 0 || len(ids) == aheadChunks {
				return false
			}
			ids, left = append(ids, e.ID), left-int64(e.Raw)
		}
		return true
	}
	more := add(f.extents[k:])
	for n := 0; n < len(f.next) && more; n++ {
		if len(f.next[n].Pages) > 0 {
			break // where they lie has yet to be read
		}
		more = add(f.next[n].Chunks)
	}
	f.tree.chunks.Ahead(ids)
}
