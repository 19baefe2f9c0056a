package chunkstore

import (
	"fmt"
	"math"

	"github.com/klauspost/compress/zstd"

	"stepfs/chunkstore/pack"
)

// What compressing has to gain to be worth its time, on the sample and on the
// whole chunk. Weights in fp32 come to about 0.92 on the sample: raw.
const (
	sampleGain = 0.88
	chunkGain  = 0.95
)

// codec holds the shared encoder and decoder; both are safe for concurrent use.
type codec struct {
	enc *zstd.Encoder
	try *zstd.Encoder // for samples
	dec *zstd.Decoder
}

func newCodec(cfg Config) (*codec, error) {
	level := func(l zstd.EncoderLevel, window int) (*zstd.Encoder, error) {
		return zstd.NewWriter(nil, zstd.WithEncoderLevel(l), zstd.WithEncoderConcurrency(cfg.Workers),
			zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(window))
	}
	enc, err := level(zstd.SpeedDefault, 2<<20)
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	try, err := level(zstd.SpeedFastest, 64<<10)
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	// A frame may not ask for more than its chunk's length: decode gives it a
	// buffer of exactly that capacity.
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(pack.MaxRaw),
		zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return &codec{enc: enc, try: try, dec: dec}, nil
}

func (c *codec) close() {
	_ = c.enc.Close() // nothing is being written
	_ = c.try.Close()
	c.dec.Close()
}

// Hurry has what is stored from now on left as it is, since somebody waits for
// the room that staged bytes take: a backlog must not fill the disk while it is
// being compressed. What would have gained is noted, and encoded later by
// Collect.
func (s *Store) Hurry(on bool) { s.hurry.Store(on) }

// encoded is how a chunk is stored: out has room for a part header; scratch, if
// not nil, is the buffer that holds it and goes back to the pool after use.
type encoded struct {
	enc     pack.Encoding
	out     []byte
	scratch *buffer
	hasty   bool // worth encoding, but there was no time
}

// encode chooses how to store the plain bytes part[pack.PartHeaderSize:].
func (s *Store) encode(part []byte) encoded {
	plain, raw := part[pack.PartHeaderSize:], encoded{enc: pack.EncRaw, out: part}
	if !s.compressible(plain) {
		return raw
	}
	if s.hurry.Load() {
		raw.hasty = true
		return raw
	}
	// EncodeAll grows its target where data turns out worse than its sample,
	// which the pool would lose: room for the worst case avoids that.
	scratch := s.buffers.get(pack.PartHeaderSize + s.codec.enc.MaxEncodedSize(len(plain)))
	out := s.codec.enc.EncodeAll(plain, scratch.bytes[:pack.PartHeaderSize])
	if float64(len(out)-pack.PartHeaderSize) > chunkGain*float64(len(plain)) {
		s.buffers.put(scratch)
		return raw
	}
	return encoded{enc: pack.EncZstd, out: out, scratch: scratch}
}

const (
	samples    = 4
	sampleSize = 4 << 10
)

// compressible guesses cheaply whether zstd gains enough: first by the
// distribution of the bytes of a sample, which sorts out what is random or
// already compressed, then by compressing that sample.
func (s *Store) compressible(plain []byte) bool {
	const minimum = 64 // below, headers eat the gain
	if len(plain) < minimum {
		return false
	}
	sample := plain
	if len(plain) > samples*sampleSize {
		b := s.buffers.get(samples * sampleSize)
		defer s.buffers.put(b)
		for i := range samples {
			at := i * (len(plain) - sampleSize) / (samples - 1)
			copy(b.bytes[i*sampleSize:(i+1)*sampleSize], plain[at:])
		}
		sample = b.bytes
	}
	if len(sample) == samples*sampleSize && entropy(sample) > 7.9 {
		return false
	}
	out := s.buffers.get(s.codec.try.MaxEncodedSize(len(sample)))
	defer s.buffers.put(out)
	return float64(len(s.codec.try.EncodeAll(sample, out.bytes[:0]))) <= sampleGain*float64(len(sample))
}

// entropy is the information per byte, in bits, if bytes were independent.
func entropy(b []byte) float64 {
	var count [4][256]uint32 // four, so that equal neighbours do not wait for each other
	for i := 0; i+4 <= len(b); i += 4 {
		count[0][b[i]]++
		count[1][b[i+1]]++
		count[2][b[i+2]]++
		count[3][b[i+3]]++
	}
	h := 0.0
	for v := range 256 {
		if n := count[0][v] + count[1][v] + count[2][v] + count[3][v]; n > 0 {
			p := float64(n) / float64(len(b))
			h -= p * math.Log2(p)
		}
	}
	return h
}

// decode gives the plain bytes of a payload in dst, whose length says how many
// there must be. It does not check their name.
func (s *Store) decode(enc pack.Encoding, payload, dst []byte) error {
	if enc != pack.EncZstd {
		return fmt.Errorf("unknown encoding %d", enc)
	}
	out, err := s.codec.dec.DecodeAll(payload, dst[:0:len(dst)])
	if err != nil {
		return err
	}
	if len(out) != len(dst) {
		return fmt.Errorf("decoded to %d bytes instead of %d", len(out), len(dst))
	}
	return nil
}
