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
		versions: map[string][]piece{}, chunk: make([]byte, largest), base: make([]byte, largest)}, nil
}

// Close gives up what the encoders hold.
func (s *Store) Close() {
	s.coder.Close()
	_ = s.zstd.Close() // nothing is being written
}

// Add says what a new version of the file called name takes. before is the
// version that was added before it, or has no bytes.
func (s *Store) Add(ctx context.Context, name string, file, before File) (sums Sums, err error) {
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
		depth, one, err := s.add(c.Data, at, name, before)
		if err != nil {
			return sums, fmt.Errorf("the version before of %s: %w", name, err)
		}
		sums.Add(one)
		at += int64(len(c.Data))
		pieces = append(pieces, piece{at, depth})
	}
	s.versions[name] = pieces
	return sums, nil
}

// add is about one chunk.
func (s *Store) add(chunk []byte, at int64, name string, before File) (depth int, sums Sums, err error) {
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
	var base []byte
	if at+n <= before.Size {
		depth = 1 + s.deepest(name, at, at+n)
	}
	if depth > 0 && depth <= s.cfg.MaxDepth {
		base = s.base[:n]
		if _, err := before.ReadAt(base, at); err != nil {
			return 0, sums, err
		}
	}
	out, form, based := s.coder.Encode(s.out[:0], chunk, base, codec.Hint{Offset: at})
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
