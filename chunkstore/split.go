package chunkstore

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/restic/chunker"
	"github.com/zeebo/blake3"

	"stepfs/chunkstore/pack"
)

// chunkerWindow is the window of restic/chunker: what it knows at a byte is
// the fingerprint of the last 64.
const chunkerWindow = 64

// After missLimit prior chunks in a row whose content changed, the next few
// are not tried: a try costs a read and a hash of a whole chunk. How many are
// skipped doubles up to maxSkip, so that new content pays next to nothing.
const (
	missLimit = 4
	maxSkip   = 64
)

// worker is what one Ingest call needs: its buffers are the memory that
// ingesting takes, and are kept from call to call, because touching new memory
// costs more than all the rest.
type worker struct {
	s       *Store
	part    []byte // room for a part header, then the chunk at hand
	chunker *chunker.Chunker
	hasher  *blake3.Hasher
	tail    bytes.Reader

	src      Source
	prior    []Ref // not yet passed by pos
	pos      int64
	limit    int64 // of the segment
	scanning bool  // chunker stands at pos
	misses   int
	skip     int // prior chunks to pass over untried
	backoff  int
}

func (s *Store) newWorker() *worker {
	return &worker{
		s:       s,
		part:    make([]byte, pack.PartHeaderSize+int(s.cfg.MaxSize)),
		chunker: chunker.NewWithBoundaries(nil, s.cfg.Polynomial, uint(s.cfg.MinSize), uint(s.cfg.MaxSize)),
		hasher:  newHasher(s.cfg.Key),
	}
}

func (w *worker) begin(src Source, prior []Ref) {
	w.src, w.prior = src, prior
	w.misses, w.skip, w.backoff = 0, 0, missLimit
}

func (w *worker) release() {
	w.src, w.prior, w.scanning = nil, nil, false
	w.chunker.ResetWithBoundaries(nil, w.s.cfg.Polynomial, uint(w.s.cfg.MinSize), uint(w.s.cfg.MaxSize))
}

func (w *worker) seek(seg Segment) {
	w.pos, w.limit, w.scanning = seg.Off, seg.Off+seg.Len, false
}

// next gives the chunk at pos, behind room for its part header. The bytes are
// good until the next call.
func (w *worker) next() (part []byte, id ID, inherited bool, err error) {
	if n, id, err := w.inherit(); n > 0 || err != nil {
		return w.part[:pack.PartHeaderSize+n], id, true, err
	}
	if !w.scanning {
		w.start(&sectionReader{w.src, w.pos, w.limit}, w.s.cfg.MinSize)
		w.scanning = true
	}
	room := w.part[pack.PartHeaderSize:pack.PartHeaderSize:len(w.part)]
	c, err := w.chunker.Next(room)
	if err != nil {
		return nil, ID{}, false, fmt.Errorf("split at %d: %w", w.pos, err)
	}
	return w.part[:pack.PartHeaderSize+len(c.Data)], nameWith(w.hasher, c.Data), false, nil
}

func (w *worker) start(r io.Reader, minSize uint32) {
	w.chunker.ResetWithBoundaries(r, w.s.cfg.Polynomial, uint(minSize), uint(w.s.cfg.MaxSize))
	w.chunker.SetAverageBits(w.s.cfg.AverageBits)
}

// inherit tries to take the chunk at pos from the earlier version: if the
// bytes that lie where a prior chunk lay have its name, they are that chunk.
// It returns the chunk's length, or 0 when it must be found by scanning.
//
// Why that is exactly what the chunker would have cut: it starts afresh after
// every cut, so where it cuts next depends on the bytes from pos on and on
// nothing before. The prior chunk of the same name holds the same bytes, and
// the chunker found no cut inside them. What remains to be shown is that it
// cuts at their end. It does so if the chunk has the maximal length, or if the
// segment ends there, or if the fingerprint of the last 64 bytes, which is all
// that its decision looks at, says so. A prior chunk that ended where its file
// ended and that now goes on fails that test, and is scanned.
func (w *worker) inherit() (int, ID, error) {
	for len(w.prior) > 0 && w.prior[0].Off < w.pos {
		w.prior = w.prior[1:]
	}
	if len(w.prior) == 0 || w.prior[0].Off != w.pos {
		return 0, ID{}, nil
	}
	ref := w.prior[0]
	if ref.Len == 0 || ref.Len > w.s.cfg.MaxSize || ref.End() > w.limit {
		return 0, ID{}, nil
	}
	if w.skip > 0 {
		w.skip--
		return 0, ID{}, nil
	}
	data := w.part[pack.PartHeaderSize : pack.PartHeaderSize+int(ref.Len)]
	if err := readFull(w.src, data, w.pos); err != nil {
		return 0, ID{}, err
	}
	if nameWith(w.hasher, data) != ref.ID {
		w.missed()
		return 0, ID{}, nil
	}
	w.misses, w.backoff = 0, missLimit
	w.scanning = false
	natural, err := w.natural(data, ref.End())
	if err != nil || !natural {
		return 0, ID{}, err
	}
	return int(ref.Len), ref.ID, nil
}

func (w *worker) missed() {
	if w.misses++; w.misses >= missLimit {
		w.misses = missLimit - 1 // after the pause, one miss is enough for the next
		w.skip = w.backoff
		w.backoff = min(2*w.backoff, maxSkip)
	}
}

// natural says whether the chunker, having come to the end of data without a
// cut, would cut there.
func (w *worker) natural(data []byte, end int64) (bool, error) {
	n := uint32(len(data))
	if end == w.limit || n == w.s.cfg.MaxSize {
		return true, nil
	}
	if n < w.s.cfg.MinSize {
		return false, nil
	}
	// A chunker whose minimum is its window looks at these bytes alone.
	w.tail.Reset(data[n-chunkerWindow:])
	w.start(&w.tail, chunkerWindow)
	var small [chunkerWindow]byte
	c, err := w.chunker.Next(small[:0])
	if err != nil {
		return false, fmt.Errorf("check cut at %d: %w", end, err)
	}
	return c.Cut&(1<<w.s.cfg.AverageBits-1) == 0, nil
}

// sectionReader reads [pos, end) of a source. io.SectionReader would do, but
// takes a short source for its end; here that is an error.
type sectionReader struct {
	src      Source
	pos, end int64
}

func (r *sectionReader) Read(b []byte) (int, error) {
	if r.pos >= r.end {
		return 0, io.EOF
	}
	b = b[:min(int64(len(b)), r.end-r.pos)]
	if err := readFull(r.src, b, r.pos); err != nil {
		return 0, err
	}
	r.pos += int64(len(b))
	return len(b), nil
}

func readFull(src io.ReaderAt, b []byte, off int64) error {
	n, err := src.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = ErrSource // not io.EOF: the chunker would take it for the end
	}
	return fmt.Errorf("read %d bytes at %d, got %d: %w", len(b), off, n, err)
}
