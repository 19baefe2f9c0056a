// Package simulate finds out what files would take as chunks, without a store:
// it cuts, names and encodes them, and keeps nothing but the names.
//
// The base of a chunk is what lies at the same offsets of the file's earlier
// version, whatever chunks that was cut into. A store can do no more as long as
// nothing moves; where things move it can do better, by looking for them.
package simulate

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/restic/chunker"

	"stepfs/chunkstore/codec"
)

// The chunker of a new store.
const (
	smallest, averageBits, largest = 768 << 10, 19, 8 << 20
	polynomial                     = chunker.Pol(0x3DA3358B4DC173) // any will do
)

// Config says what kind of store.
type Config struct {
	// ZstdAlone leaves out planes and deltas: what any deduplicating store has.
	ZstdAlone bool
	// MaxDepth is how many deltas one may be based upon another. 0 means 8.
	MaxDepth int
}

// Sums are in bytes.
type Sums struct {
	Raw       int64 // of files
	Duplicate int64 // of these, in chunks that were there already
	Delta     int64 // in chunks kept as the difference from an earlier version
	Planes    int64 // in chunks kept as planes
	Stored    int64 // what all of it takes, encoded
	Deepest   int   // the longest chain of deltas
}

// Add adds other sums.
func (s *Sums) Add(o Sums) {
	s.Raw += o.Raw
	s.Duplicate += o.Duplicate
	s.Delta += o.Delta
	s.Planes += o.Planes
	s.Stored += o.Stored
	s.Deepest = max(s.Deepest, o.Deepest)
}

// A File is what is there to be read of one version of a file.
type File struct {
	io.ReaderAt
	Size int64
}

// Store is what a store would know. It is for one goroutine.
type Store struct {
	cfg   Config
	coder *codec.Coder
	zstd  *zstd.Encoder
	known map[[sha256.Size]byte]int // the depth of each chunk
	// Of the version of each file that was added last: where its chunks end,
	// and how deep they are.
	versions         map[string][]piece
	chunk, base, out []byte
}

type piece struct {
	end   int64
	depth int
}

// New makes a Store. Close ends it.
func New(cfg Config) (*Store, error) {
	if cfg.MaxDepth == 0 {
		cfg.MaxDepth = 8
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(2<<20))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return &Store{cfg: cfg, coder: codec.NewCoder(), zstd: enc, known: map[[sha256.Size]byte]int{},
		versions: map[string][]piece{}, chunk: make([]byte, largest), base: make([]byte, 2*largest)}, nil
}

// Close gives up what the encoders hold.
func (s *Store) Close() {
	s.coder.Close()
	_ = s.zstd.Close() // nothing is being written
}

// Base says what may be the base of a chunk.
type Base struct {
	File
	Name string // as it was added
	// Wide: the file holds as fp32 what is bf16 in that which is to be added.
	// What is at 0 of this one is at Move of the base, but for the width.
	Wide bool
	Move int64
}

// Add says what a new version of the file called name takes. base
// is its version that was added before, or has no bytes.
func (s *Store) Add(ctx context.Context, name string, file File, base Base) (sums Sums, err error) {
	cut := chunker.NewWithBoundaries(io.NewSectionReader(file, 0, file.Size), polynomial, smallest, largest)
	cut.SetAverageBits(averageBits)
	var pieces []piece
	for at := int64(0); ; {
		c, err := cut.Next(s.chunk[:0])
		if errors.Is(err, io.EOF) {
			break
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return sums, fmt.Errorf("cutting %s: %w", name, err)
		}
		depth, one, err := s.add(c.Data, at, base)
		if err != nil {
			return sums, fmt.Errorf("the base of %s: %w", name, err)
		}
		sums.Add(one)
		at += int64(len(c.Data))
		pieces = append(pieces, piece{at, depth})
	}
	s.versions[name] = pieces
	return sums, nil
}

// add is about one chunk.
func (s *Store) add(chunk []byte, at int64, base Base) (depth int, sums Sums, err error) {
	n := int64(len(chunk))
	sums.Raw = n
	id := sha256.Sum256(chunk)
	if depth, ok := s.known[id]; ok {
		sums.Duplicate = n
		return depth, sums, nil
	}
	defer func() { s.known[id] = depth }()
	if s.cfg.ZstdAlone {
		s.out = s.zstd.EncodeAll(chunk, s.out[:0])
		sums.Stored = min(n, int64(len(s.out)))
		return 0, sums, nil
	}
	under, depth, err := s.under(at, n, base)
	if err != nil {
		return 0, sums, err
	}
	out, form, based := s.coder.Encode(s.out[:0], chunk, under, codec.Hint{Offset: at})
	s.out = out
	sums.Stored = min(n, int64(len(out)))
	if !based {
		if form == codec.Blocks {
			sums.Planes = n
		}
		return 0, sums, nil
	}
	sums.Delta, sums.Deepest = n, depth
	return depth, sums, nil
}

// under reads the base of n bytes from at, and says how deep they would be: nil
// where there is none, or it is too deep.
func (s *Store) under(at, n int64, base Base) (under []byte, depth int, err error) {
	from, n := at, n
	if base.Wide {
		from, n = base.Move+2*at, 2*n
	}
	// A header may be longer here than there: what is missing is zeros.
	skip := max(0, -from)
	if skip >= n || from+n > base.Size {
		return nil, 0, nil
	}
	if depth = 1 + s.deepest(base.Name, from, from+n); depth > s.cfg.MaxDepth {
		return nil, 0, nil
	}
	under = s.base[:n]
	clear(under[:skip])
	_, err = base.ReadAt(under[skip:], from+skip)
	return under, depth, err
}

// deepest is how deep the chunks of the version before are, between two offsets.
func (s *Store) deepest(name string, from, to int64) (depth int) {
	start := int64(0)
	for _, p := range s.versions[name] {
		if start < to && p.end > from {
			depth = max(depth, p.depth)
		}
		start = p.end
	}
	return depth
}
