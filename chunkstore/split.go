package chunkstore

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/restic/chunker"
	"github.com/zeebo/blake3"

	"stepfs/chunkstore/codec"
	"stepfs/chunkstore/pack"
)

// chunkerWindow is the window of restic/chunker: what it knows at a byte is
// the fingerprint of the last 64.
const chunkerWindow = 64

// After missLimit pieces in a row that were of no use, the next few are
// not tried: a try costs a read and a hash of a whole chunk, and the reading of
// its base. How many are skipped doubles up to maxSkip, so that new content
// pays next to nothing.
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
	coder   *codec.Coder
	tail    bytes.Reader
	ahead   ahead

	src      Source
	plan     Plan // its pieces: not yet passed by pos
	pos      int64
	limit    int64 // of the segment
	scanning bool  // chunker stands at pos
	misses   int
	skip     int // pieces to pass over untried
	backoff  int
}

// chunk is a piece of a content. Its bytes are good until the next one.
type chunk struct {
	part      []byte // room for a part header, then the plain bytes
	id        ID
	naming    uint8      // by which key that is
	inherited bool       // cut where the plan has it
	base      *base      // what it is to be made from; to be released
	plan      codec.Plan // how, if there is a base
}

func (s *Store) newWorker() *worker {
	return &worker{
		s:       s,
		part:    make([]byte, pack.PartHeaderSize+int(s.cfg.MaxSize)),
		chunker: chunker.NewWithBoundaries(nil, s.cfg.Polynomial, uint(s.cfg.MinSize), uint(s.cfg.MaxSize)),
		hasher:  newHasher(s.cfg.Key),
		coder:   codec.NewCoder(),
	}
}

// begin begins a content, of which plan knows nothing of an older key.
func (w *worker) begin(src Source, plan Plan) {
	w.src, w.plan = src, plan
	w.misses, w.skip, w.backoff = 0, 0, missLimit
}

func (w *worker) release() {
	w.stopFetching()
	w.src, w.plan, w.scanning = nil, Plan{}, false
	w.chunker.ResetWithBoundaries(nil, w.s.cfg.Polynomial, uint(w.s.cfg.MinSize), uint(w.s.cfg.MaxSize))
}

func (w *worker) seek(seg Segment) {
	w.pos, w.limit, w.scanning = seg.Off, seg.Off+seg.Len, false
}

// next gives the chunk at pos.
func (w *worker) next() (chunk, error) {
	if c, err := w.inherit(); c.inherited || err != nil {
		w.scanning = false // it starts anew behind this chunk
		return c, err
	}
	if c, err := w.rejoin(); len(c.part) > 0 || err != nil {
		w.scanning = false
		return c, err
	}
	if !w.scanning {
		w.start(&sectionReader{w.src, w.pos, w.limit}, w.s.cfg.MinSize)
		w.scanning = true
	}
	room := w.part[pack.PartHeaderSize:pack.PartHeaderSize:len(w.part)]
	c, err := w.chunker.Next(room)
	if err != nil {
		return chunk{}, fmt.Errorf("split at %d: %w", w.pos, err)
	}
	return chunk{part: w.part[:pack.PartHeaderSize+len(c.Data)], id: nameWith(w.hasher, c.Data)}, nil
}

func (w *worker) start(r io.Reader, minSize uint32) {
	w.chunker.ResetWithBoundaries(r, w.s.cfg.Polynomial, uint(minSize), uint(w.s.cfg.MaxSize))
	w.chunker.SetAverageBits(w.s.cfg.AverageBits)
}

// inherit tries to cut the chunk at pos where its plan has a piece, and says by
// the chunk's inherited whether it did. It does so in three cases.
//
// The bytes there have the name of the piece's chunk: they are that chunk. Only
// where the earlier data ended it is cut no more, unless the chunker would
// (natural), which starts afresh after every cut, and found none inside.
//
// The plan is whole: the same things lie there as in the earlier version, as in
// every checkpoint of a run, and what changed is compared with what lay there. The
// chunker's cuts would move with the content.
//
// The difference from the piece's chunk pays: then what lies here is that of
// before, whatever comes behind it.
func (w *worker) inherit() (chunk, error) {
	for len(w.plan.Pieces) > 0 && w.plan.Pieces[0].Off < w.pos {
		w.plan.Pieces = w.plan.Pieces[1:]
	}
	if len(w.plan.Pieces) == 0 || w.plan.Pieces[0].Off != w.pos {
		return chunk{}, nil
	}
	piece := w.plan.Pieces[0]
	if piece.Len == 0 || piece.Len > w.s.cfg.MaxSize || piece.End() > w.limit {
		return chunk{}, nil
	}
	untried := w.skip > 0
	if untried {
		if w.skip--; !w.plan.Whole {
			return chunk{}, nil
		}
	}
	c := chunk{part: w.part[:pack.PartHeaderSize+int(piece.Len)]}
	data := c.part[pack.PartHeaderSize:]
	if err := readFull(w.src, data, w.pos); err != nil {
		return chunk{}, err
	}
	c.id = nameWith(w.hasher, data)
	if c.id == piece.ID {
		w.misses, w.skip, w.backoff = 0, 0, missLimit
		next := w.plan.Pieces[1:]
		if c.inherited = w.plan.Whole || len(next) > 0 && next[0].Off == piece.End(); c.inherited {
			return c, nil
		}
		w.scanning = false
		var err error
		c.inherited, err = w.natural(data, piece.End())
		return c, err
	}
	if untried || piece.ID == (ID{}) || w.s.has(c.id) {
		c.inherited = w.plan.Whole
		return c, nil
	}
	if w.s.hurried(NoDeltas) {
		c.inherited = w.plan.Whole
		w.s.counters.hurried.Add(uint64(piece.Len))
		return c, nil
	}
	if c.base = w.baseFor(piece); c.base != nil {
		c.plan = w.coder.Plan(data, c.base.content(), c.base.hint(w.pos))
		if !c.plan.UsesBase() { // it does not pay
			w.s.releaseBase(c.base)
			c.base = nil
		}
	}
	if c.base == nil {
		w.missed()
	} else {
		w.misses, w.backoff = 0, missLimit
		if next := w.plan.Pieces[1:]; len(next) > 0 && next[0].Off == piece.End() {
			w.fetch(next[0])
		}
	}
	c.inherited = w.plan.Whole || c.base != nil
	return c, nil
}

// rejoin gives a chunk that ends where a piece of a whole plan begins, if one
// can: else the chunker, once beside the plan, would not meet it again.
func (w *worker) rejoin() (c chunk, err error) {
	if !w.plan.Whole {
		return c, nil
	}
	for _, piece := range w.plan.Pieces {
		n := piece.Off - w.pos
		if n < int64(w.s.cfg.MinSize) {
			continue
		}
		if n > int64(w.s.cfg.MaxSize) || piece.Off > w.limit {
			break
		}
		c.part = w.part[:pack.PartHeaderSize+int(n)]
		if err := readFull(w.src, c.part[pack.PartHeaderSize:], w.pos); err != nil {
			return chunk{}, err
		}
		c.id = nameWith(w.hasher, c.part[pack.PartHeaderSize:])
		return c, nil
	}
	return c, nil
}

// missed: a chunk changed, and what its plan has for it is of no use.
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
